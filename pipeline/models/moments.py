"""Mean and variance of a batch that do not depend on how many replicas share it, to the last bit."""
import tensorflow as tf

REGISTER = 16  # As many float32 as TensorFlow's reductions take at a time, at most.
SUMMED = 1024  # Values that are added up in float32 at most, unless one row of an image has more.
CANCELLATION = 1000.0  # Times that the mean's part of a sum of squares may be the rest: 3e-7 of rounding becomes 3e-4.


def centred_squares(x, means):
    """Returns the sums of squared differences [batch, channels] of x [batch, values, channels] from its means."""
    return tf.cast(tf.reduce_sum(tf.math.squared_difference(x, means[:, None]), axis=1), tf.float64)


def quick_squares(x, means):
    """Returns what centred_squares does, in one pass over x that writes nothing: a tenth of the time.

    The square of the mean is subtracted from the mean of the squares. Where too little would be left of it, or the
    squares overflow, the differences are taken after all; whether they are is decided for each sum by itself.

    Args:
      x: [batch, values, channels] float32.
      means: [batch, channels] float32.

    Returns:
      [batch, channels] float64, without a gradient.
    """
    squares = tf.square(tf.cast(tf.math.reduce_euclidean_norm(x, axis=1), tf.float64))
    rest = squares - tf.cast(tf.shape(x)[1], tf.float64) * tf.square(tf.cast(means, tf.float64))
    cancelled = tf.math.is_inf(squares) | (squares > CANCELLATION * rest)
    return tf.cond(tf.reduce_any(cancelled), lambda: tf.where(cancelled, centred_squares(x, means), rest), lambda: rest)


def summed(shape):
    """Returns how many values of a channel are added up in float32; the sums are then added up in float64.

    TensorFlow adds up one value after another. Over a whole image of 112x112 that loses 1e-6 of the sum, and a thousand
    times as much of the variance where CANCELLATION just allows it.

    Args:
      shape: static shape of [batch, ..., channels].

    Returns:
      A divisor of the values of an example; -1 for all of them, where their number is not known.
    """
    values = 1
    for size in reversed(shape[1:-1]):
        if size is None:
            return -1
        if values > 1 and values * size > SUMMED:
            break
        values *= size
    return values


def whole_registers(x):
    """Pads the channels of x [batch, values, channels] with zeros, so that they fill vector registers.

    TensorFlow adds up the channels of an example that fill a register in another order than those that are left over,
    and which those are depends on the example's place in the batch. Up to 4 channels are always left over, or never.
    """
    missing = -x.shape[-1] % REGISTER if x.shape[-1] > 4 else 0
    return tf.pad(x, [[0, 0], [0, 0], [0, missing]]) if missing else x


def batch_moments(x, num_replicas=1):
    """Returns the moments of the whole batch, whichever replicas its examples are on.

    Parts of an example are added up in x's precision, the parts, examples and replicas in float64. What is lost there
    is gone when the result is rounded to float32. So every number of replicas has the same bits, but for one case in a
    hundred million; where the mean is 10,000 deviations, for one variance in twenty. This is more than neatness: were
    the last bits different, so would all activations behind them be, some value near 0 would pass a ReLU here and not
    there, and a gradient differ by a thousandth.

    Args:
      x: [batch, ..., channels] of this replica, float32 or float64. In float64 the results have a gradient, which is
        summed over the replicas in turn; in float32 they have none.
      num_replicas: number of replicas in sync; with more than 1 it is called in a replica context, and reduces once.

    Returns:
      (mean [channels] of x's dtype, population variance [channels] of x's dtype, number of values of a channel in the
      batch, a float64 scalar).
    """
    channels, values = x.shape[-1], summed(x.shape)
    flat = tf.reshape(x, [tf.shape(x)[0] if values == -1 else -1, values, channels])
    if x.dtype == tf.float32:
        flat = whole_registers(tf.stop_gradient(flat))
    parts = tf.shape(flat)[0]
    if flat.shape[0] in (1, None):
        # TensorFlow adds up the values of one part alone in another order than those of several.
        flat = tf.concat([flat, flat[:1]], axis=0)
    means = tf.reduce_mean(flat, axis=1)
    squares = (quick_squares if x.dtype == tf.float32 else centred_squares)(flat, means)[:parts, :channels]
    means, values = tf.cast(means[:parts, :channels], tf.float64), tf.cast(tf.shape(flat)[1], tf.float64)
    sums = tf.concat([values * tf.reduce_sum(means, axis=0),
                      tf.reduce_sum(squares + values * tf.square(means), axis=0),
                      [values * tf.cast(parts, tf.float64)]], axis=0)
    if num_replicas > 1:
        sums = tf.distribute.get_replica_context().all_reduce(tf.distribute.ReduceOp.SUM, sums)
    total, squares, count = tf.split(sums, [channels, channels, 1])
    mean = total / count
    # In float64 this difference costs less than the rounding of float32 means has; of float64 it does cost digits.
    variance = tf.maximum(squares / count - tf.square(mean), 0.0)
    return tf.cast(mean, x.dtype), tf.cast(variance, x.dtype), count[0]
