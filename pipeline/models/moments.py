"""Mean and variance of a batch, bit for bit the same on any number of replicas."""
from collections.abc import Sequence

import tensorflow as tf

from pipeline.device_scope import on_gpu

REGISTER = 16  # Most float32 values that TensorFlow's reductions process at a time.
SUMMED = 1024  # Most values that are summed in float32, unless one row of an image has more.
CANCELLATION = 1000.0  # Largest ratio of a sum of squares to that of differences: 3e-7 of rounding becomes 3e-4.


def centred_squares(x: tf.Tensor, means: tf.Tensor) -> tf.Tensor:
    """Returns the sums of squared differences [batch, channels] of x [batch, values, channels] from its means."""
    return tf.cast(tf.reduce_sum(tf.math.squared_difference(x, means[:, None]), axis=1), tf.float64)


def quick_squares(x: tf.Tensor, means: tf.Tensor) -> tf.Tensor:
    """Returns the same as centred_squares, in one pass over x that writes nothing: in a tenth of the time.

    The square of the mean is subtracted from the mean of the squares. Where that cancels too much, or the squares
    overflow, differences are used instead; this is decided for each sum separately.

    Args:
      x: [batch, values, channels] float32.
      means: [batch, channels] float32.

    Returns:
      [batch, channels] float64, without a gradient.
    """
    if on_gpu():  # The host would wait for the GPU at each layer, to see whether anything cancels.
        return centred_squares(x, means)
    squares = tf.square(tf.cast(tf.math.reduce_euclidean_norm(x, axis=1), tf.float64))
    rest = squares - tf.cast(tf.shape(x)[1], tf.float64) * tf.square(tf.cast(means, tf.float64))
    cancelled = tf.math.is_inf(squares) | (squares > CANCELLATION * rest)
    return tf.cond(tf.reduce_any(cancelled), lambda: tf.where(cancelled, centred_squares(x, means), rest), lambda: rest)


def summed(shape: Sequence[int | None]) -> int:
    """Returns how many values of a channel are summed in float32; these sums are then summed in float64.

    TensorFlow sums sequentially. Over an image of 112x112 that loses 1e-6 of the sum, and up to CANCELLATION times as
    much of the variance.

    Args:
      shape: static shape of [batch, ..., channels].

    Returns:
      A divisor of the number of values of an example; -1 for all of them, where it is unknown.
    """
    values = 1
    for size in reversed(shape[1:-1]):
        if size is None:
            return -1
        if values > 1 and values * size > SUMMED:
            break
        values *= size
    return values


def whole_registers(x: tf.Tensor) -> tf.Tensor:
    """Pads the channels of x [batch, values, channels] with zeros, so that they fill vector registers.

    TensorFlow sums channels that fill a register in another order than the remaining ones, and which these are depends
    on the example's place in the batch. With up to 4 channels it does not.
    """
    missing = -x.shape[-1] % REGISTER if x.shape[-1] > 4 else 0
    return tf.pad(x, [[0, 0], [0, 0], [0, missing]]) if missing else x


def batch_moments(x: tf.Tensor, num_replicas: int = 1) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    """Returns the moments of the whole batch, however its examples are distributed over replicas.

    Parts of an example are summed in the precision of x; parts, examples and replicas in float64, whose rounding
    disappears in the result in float32. So any number of replicas computes the same bits, except in one case of 1e8; if
    the mean is 10,000 times the std, for one variance in twenty. The last bit matters: with it all later activations
    would differ, a value near 0 would pass a ReLU on one side only, and a gradient differ by 1e-3.

    Args:
      x: [batch, ..., channels] of this replica, float32 or float64. In float64 the results have a gradient, which is
        summed over the replicas too; in float32 they have none.
      num_replicas: number of replicas in sync; with more than 1 it is called in a replica context, and reduces once.

    Returns:
      (mean [channels] and population variance [channels] of the dtype of x, number of values of a channel in the batch
      as a float64 scalar).
    """
    channels, values = x.shape[-1], summed(x.shape)
    flat = tf.reshape(x, [tf.shape(x)[0] if values == -1 else -1, values, channels])
    if x.dtype == tf.float32:
        flat = whole_registers(tf.stop_gradient(flat))
    parts = tf.shape(flat)[0]
    if flat.shape[0] in (1, None):
        # TensorFlow sums the values of a single part in another order than those of several.
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
    # In float64 this difference loses less than the rounding of float32 means; for float64 inputs it loses digits.
    variance = tf.maximum(squares / count - tf.square(mean), 0.0)
    return tf.cast(mean, x.dtype), tf.cast(variance, x.dtype), count[0]
