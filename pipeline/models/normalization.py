"""Batch normalization with fused kernels, corrected moving averages and statistics over all replicas."""
import keras
import tensorflow as tf

from pipeline.models import context as step
from pipeline.models.serialization import KeepsArguments, registered

FUSED_DTYPES = (tf.float16, tf.bfloat16, tf.float32)


def fused_normalization(x, gamma, beta, epsilon):
    """Normalizes with the statistics of the batch, in one kernel: half-precision activations, float32 statistics.

    Args:
      x: [batch, height, width, channels], float16, bfloat16 or float32.
      gamma, beta: [channels] float32.
      epsilon: added to the variance.

    Returns:
      (normalized x, mean [channels] float32, population variance [channels] float32).
    """
    y, mean, variance = tf.compat.v1.nn.fused_batch_norm(x, gamma, beta, epsilon=epsilon, is_training=True)
    n = tf.cast(tf.size(x, out_type=tf.int64) // x.shape[-1], variance.dtype)
    # The kernel returns the sample variance, with Bessel's factor n / (n - 1); Keras keeps the population's.
    return y, mean, tf.where(n > 1, variance * (n - 1) / n, tf.zeros_like(variance))


def merge_moments(means, squares, counts):
    """Combines the moments of parts of a batch into those of the whole (Chan, Golub and LeVeque, 1979).

    Subtracting squares of sums would cancel where the mean is large against the deviation; this does not.

    Args:
      means: [parts, channels] mean of each part.
      squares: [parts, channels] sum of squared differences from the part's own mean.
      counts: [parts, 1] number of values a channel in each part.

    Returns:
      (mean [channels], population variance [channels]).
    """
    total = tf.reduce_sum(counts)
    mean = tf.reduce_sum(means * counts, axis=0) / total
    between = tf.reduce_sum(counts * tf.math.squared_difference(means, mean), axis=0)
    return mean, (tf.reduce_sum(squares, axis=0) + between) / total


def moments_over_replicas(x, num_replicas):
    """Returns mean and population variance [channels] of x over all replicas, with one reduction.

    Each replica writes its own row of an otherwise empty table; the sum over the replicas is the table of all rows.
    The gradient of that sum is summed over the replicas in turn, so it is the gradient of the whole batch.

    Args:
      x: [batch, ..., channels] of this replica, float32 or float64.
      num_replicas: rows of the table.
    """
    axes, channels = list(range(x.shape.rank - 1)), x.shape[-1]
    mean = tf.reduce_mean(x, axes)
    squares = tf.reduce_sum(tf.math.squared_difference(x, mean), axes)
    count = tf.cast(tf.size(x, out_type=tf.int64) // channels, x.dtype)
    replica = tf.distribute.get_replica_context()
    here = tf.one_hot(replica.replica_id_in_sync_group, num_replicas, dtype=x.dtype)
    table = here[:, None] * tf.concat([mean, squares, count[None]], axis=0)
    table = replica.all_reduce(tf.distribute.ReduceOp.SUM, table)
    return merge_moments(*tf.split(table, [channels, channels, 1], axis=1))


def update_rate(momentum, updates):
    """Returns the weight of the newest value in a bias-corrected moving average, a float64 scalar.

    The variable then holds the corrected average itself, as in Adam (Kingma and Ba, 2015, section 3): the first value
    replaces whatever stood there, and short runs do not evaluate with what is left of the initial value.

    Args:
      momentum: Python float in (0, 1).
      updates: int64 scalar, number of updates before this one.
    """
    momentum = tf.constant(momentum, tf.float64)
    return (1 - momentum) / (1 - momentum ** tf.cast(updates + 1, tf.float64))


@registered
class BatchNormalization(KeepsArguments, keras.layers.Layer):
    """Batch normalization over the last axis (Ioffe and Szegedy, 2015), with the weights of Keras's layer.

    Weights are float32 (float64 under the float64 policy) whatever the precision of the activations. Within a
    StepContext the moving averages are corrected for their initial value and the statistics are taken over all
    replicas where the context says so; outside of one it computes what keras.layers.BatchNormalization does.

    Args:
      momentum: weight of the old value in the moving averages.
      epsilon: added to the variance.
    """

    def __init__(self, momentum: float = 0.99, epsilon: float = 1e-3, **kwargs):
        # Without autocast `shift` keeps its precision; `call` casts x itself.
        super().__init__(autocast=False, **kwargs)
        self.momentum, self.epsilon = momentum, epsilon

    def build(self, input_shape):
        def weight(name, initializer, trainable):
            return self.add_weight(name=name, shape=(input_shape[-1],), initializer=initializer, trainable=trainable,
                                   autocast=False)
        self.gamma, self.beta = weight("gamma", "ones", True), weight("beta", "zeros", True)
        self.moving_mean = weight("moving_mean", "zeros", False)
        self.moving_variance = weight("moving_variance", "ones", False)

    def compute_output_shape(self, input_shape):
        return input_shape

    def call(self, x, training=False, shift=None):
        """Normalizes x.

        Args:
          x: [batch, ..., channels], a float dtype.
          training: whether the batch's statistics are used, and the moving ones updated.
          shift: [channels], a bias that was left out of x. It cancels in training, so it only moves the moving mean
            and gets exactly no gradient, instead of rounding noise that an adaptive optimizer would follow. In a frozen
            layer (trainable = False) it does not cancel.

        Returns:
          A tensor of the shape of x, in the layer's compute dtype.
        """
        x = tf.cast(x, self.compute_dtype)
        shift = None if shift is None else tf.cast(shift, self.variable_dtype)
        gamma, beta = tf.convert_to_tensor(self.gamma), tf.convert_to_tensor(self.beta)
        if training and not self.trainable and shift is not None:
            # Frozen: the bias counts and may train, but the fused kernel has no gradient of the mean.
            beta += gamma * shift * tf.math.rsqrt(tf.convert_to_tensor(self.moving_variance) + self.epsilon)
            shift = None
        if not (training and self.trainable):
            return self._normalize_for_inference(x, gamma, beta, shift)
        shift = None if shift is None else tf.stop_gradient(shift)
        ctx = step.current()
        synchronize = ctx is not None and ctx.synchronize and ctx.num_replicas > 1
        if x.shape.rank == 4 and x.dtype in FUSED_DTYPES and not synchronize:
            y, mean, variance = fused_normalization(x, gamma, beta, self.epsilon)
        else:
            wide = tf.cast(x, self.variable_dtype)
            if synchronize:
                mean, variance = moments_over_replicas(wide, ctx.num_replicas)
            else:
                mean, variance = tf.nn.moments(wide, list(range(x.shape.rank - 1)))
            y = tf.cast(tf.nn.batch_normalization(wide, mean, variance, beta, gamma, self.epsilon), x.dtype)
        self._update(self.moving_mean, mean if shift is None else mean + shift, ctx)
        self._update(self.moving_variance, variance, ctx)
        return y

    def _normalize_for_inference(self, x, gamma, beta, shift):
        mean, variance = tf.convert_to_tensor(self.moving_mean), tf.convert_to_tensor(self.moving_variance)
        if shift is not None:
            mean -= shift
        if x.shape.rank == 4 and x.dtype in FUSED_DTYPES:
            return tf.compat.v1.nn.fused_batch_norm(x, gamma, beta, mean=mean, variance=variance,
                                                    epsilon=self.epsilon, is_training=False)[0]
        y = tf.nn.batch_normalization(tf.cast(x, self.variable_dtype), mean, variance, beta, gamma, self.epsilon)
        return tf.cast(y, x.dtype)

    def _update(self, variable, value, ctx):
        old = tf.convert_to_tensor(variable)
        if ctx is None:
            rate = tf.constant(1 - self.momentum, old.dtype)
        else:
            rate = tf.cast(update_rate(self.momentum, ctx.statistics_updates), old.dtype)
        # Not old + rate * (value - old): at rate 1 that would round a small variance to the grain of the initial 1.
        variable.assign(old * (1 - rate) + tf.stop_gradient(value) * rate)
