"""Mean and variance of a batch that do not depend on how many replicas share it, to the last bit."""
import tensorflow as tf

CANCELLATION = 1000.0  # Times that the mean's part of a sum of squares may be the rest: 6e-8 of rounding becomes 6e-5.


def centred_squares(x, means):
    """Returns the sums of squared differences [batch, channels] of x [batch, values, channels] from its means."""
    return tf.cast(tf.reduce_sum(tf.math.squared_difference(x, means[:, None]), axis=1), tf.float64)


def quick_squares(x, means):
    """Returns what centred_squares does, in one pass over x that writes nothing: a tenth of the time.

    The square of the mean is subtracted from the mean of the squares. Where too little would be left of it, the
    differences are taken after all; for which values depends on the example and the channel alone.

    Args:
      x: [batch, values, channels] float32.
      means: [batch, channels] float32.

    Returns:
      [batch, channels] float64, without a gradient.
    """
    squares = tf.square(tf.cast(tf.math.reduce_euclidean_norm(x, axis=1), tf.float64))
    rest = squares - tf.cast(tf.shape(x)[1], tf.float64) * tf.square(tf.cast(means, tf.float64))
    cancelled = squares > CANCELLATION * rest
    return tf.cond(tf.reduce_any(cancelled), lambda: tf.where(cancelled, centred_squares(x, means), rest), lambda: rest)


def batch_moments(x, num_replicas=1):
    """Returns the moments of the whole batch, whichever replicas its examples are on.

    Within an example the values are added up in x's precision, over examples and replicas in float64. What is lost
    there is gone when the result is rounded to float32, so every number of replicas has the same bits, but for one
    case in a hundred million. This is more than neatness: were the last bits different, so would all activations
    behind them be, some value near 0 would pass a ReLU here and not there, and a gradient differ by a thousandth.

    Args:
      x: [batch, ..., channels] of this replica, float32 or float64. In float64 the results have a gradient, which is
        summed over the replicas in turn; in float32 they have none.
      num_replicas: number of replicas in sync; with more than 1 it is called in a replica context, and reduces once.

    Returns:
      (mean [channels] of x's dtype, population variance [channels] of x's dtype, number of values of a channel in the
      batch, a float64 scalar).
    """
    channels = x.shape[-1]
    flat = tf.reshape(x, [tf.shape(x)[0], -1, channels])
    if x.dtype == tf.float32:
        flat = tf.stop_gradient(flat)
    examples = tf.shape(flat)[0]
    if x.shape[0] in (1, None):
        # TensorFlow adds up the values of one example alone in another order than those of several.
        flat = tf.concat([flat, flat[:1]], axis=0)
    means = tf.reduce_mean(flat, axis=1)
    squares = (quick_squares if x.dtype == tf.float32 else centred_squares)(flat, means)[:examples]
    means, values = tf.cast(means[:examples], tf.float64), tf.cast(tf.shape(flat)[1], tf.float64)
    sums = tf.concat([values * tf.reduce_sum(means, axis=0),
                      tf.reduce_sum(squares + values * tf.square(means), axis=0),
                      [values * tf.cast(examples, tf.float64)]], axis=0)
    if num_replicas > 1:
        sums = tf.distribute.get_replica_context().all_reduce(tf.distribute.ReduceOp.SUM, sums)
    total, squares, count = tf.split(sums, [channels, channels, 1])
    mean = total / count
    # In float64 this difference costs nothing that float32 could hold.
    variance = tf.maximum(squares / count - tf.square(mean), 0.0)
    return tf.cast(mean, x.dtype), tf.cast(variance, x.dtype), count[0]
