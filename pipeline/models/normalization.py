"""Batch normalization with fused kernels, bias-corrected moving averages and statistics over all replicas."""
from collections.abc import Sequence
from typing import Any

import keras
import tensorflow as tf

from pipeline.device_scope import on_gpu
from pipeline.models import context as step
from pipeline.models.moments import batch_moments
from pipeline.models.serialization import KeepsArguments, registered

FUSED_DTYPES = (tf.float16, tf.bfloat16, tf.float32)


def fused_normalization(x: tf.Tensor, gamma: tf.Tensor, beta: tf.Tensor, epsilon: float
                        ) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
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
    # The kernel returns the sample variance, with Bessel's factor n / (n - 1); Keras uses the population variance.
    return y, mean, tf.where(n > 1, variance * (n - 1) / n, tf.zeros_like(variance))


def normalization_over_replicas(x: tf.Tensor, gamma: tf.Tensor, beta: tf.Tensor, epsilon: float, num_replicas: int = 1
                                ) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    """Normalizes with the statistics of the whole batch, of which this replica has a part.

    The fused kernel gets the statistics as inputs, as in inference, so its gradient ignores that they depend on x; that
    part is added here, from sums over all replicas.

    Args:
      x: [batch, ..., channels] of this replica, float16, bfloat16 or float32.
      gamma, beta: [channels] float32.
      epsilon: added to the variance.
      num_replicas: number of replicas in sync; with more than 1 it is called in a replica context.

    Returns:
      (normalized x, mean [channels] float32, population variance [channels] float32). Only the first has a gradient,
      in reverse mode only.
    """
    mean, variance, count = batch_moments(tf.cast(x, gamma.dtype), num_replicas)

    def fused(x, gamma, beta):
        return tf.compat.v1.nn.fused_batch_norm(x, gamma, beta, mean=mean, variance=variance, epsilon=epsilon,
                                                is_training=False)[0]

    def fused_gradient(dy, x, gamma, own_statistics):
        return tf.raw_ops.FusedBatchNormGradV3(
            y_backprop=dy, x=x, scale=gamma, reserve_space_1=mean, reserve_space_2=variance,
            reserve_space_3=tf.zeros([0]), epsilon=epsilon, is_training=own_statistics)[:3]

    @tf.custom_gradient
    def normalize(x, gamma, beta):
        def gradient(dy):
            if num_replicas == 1:
                return fused_gradient(dy, x, gamma, own_statistics=True)
            # In float32, whatever the dtype of x: the two parts of dx may almost cancel.
            wide = tf.cast(x, gamma.dtype)
            dx, dgamma, dbeta = fused_gradient(tf.cast(dy, gamma.dtype), wide, gamma, own_statistics=False)
            sums = tf.distribute.get_replica_context().all_reduce(tf.distribute.ReduceOp.SUM, tf.stack([dgamma, dbeta]))
            # By mean and variance: -gamma / std * (sum(dy) + (x - mean) / std * sum(dgamma)) / count.
            slope, level = tf.unstack(sums * -gamma * tf.math.rsqrt(variance + epsilon) / tf.cast(count, gamma.dtype))
            return tf.cast(dx + fused(wide, slope, level), x.dtype), dgamma, dbeta
        return fused(x, gamma, beta), gradient

    if x.shape.rank == 4:
        return normalize(x, gamma, beta), mean, variance
    y = normalize(tf.reshape(x, [tf.shape(x)[0], -1, 1, x.shape[-1]]), gamma, beta)
    return tf.ensure_shape(tf.reshape(y, tf.shape(x)), x.shape), mean, variance


def update_rate(momentum: float, updates: tf.Tensor) -> tf.Tensor:
    """Returns the weight of the newest value in a bias-corrected moving average, a float64 scalar.

    The variable holds the corrected average itself, as in Adam (Kingma and Ba, 2015, section 3): the first value
    replaces the initial one, which so has no influence in short runs.

    Args:
      momentum: in (0, 1).
      updates: int64 scalar, number of updates before this one.
    """
    momentum = tf.constant(momentum, tf.float64)
    return (1 - momentum) / (1 - momentum ** tf.cast(updates + 1, tf.float64))


def _synchronized(ctx, dtype):
    """Returns whether to compute statistics that are equal on any number of replicas.

    One replica uses the fused training kernel instead where equal bits would not help: on a GPU, whose convolutions
    round differently for another number of examples and whose cuDNN gradient needs the reserve space of its own forward
    pass; and in half precision, where rounding dominates and the statistics would cost 8% of a step.
    """
    return ctx is not None and ctx.synchronize and (
        ctx.num_replicas > 1 or dtype == tf.float64
        or (dtype == tf.float32 and not on_gpu()))


@registered
class BatchNormalization(KeepsArguments, keras.layers.Layer):
    """Batch normalization over the last axis (Ioffe and Szegedy, 2015), with the weights of Keras's layer.

    Weights are float32 (float64 under the float64 policy) whatever the precision of the activations. Within a
    StepContext moving averages are bias-corrected, and statistics are those of the batch of all replicas if the context
    asks for it; otherwise it computes the same as keras.layers.BatchNormalization.

    Args:
      momentum: weight of the old value in the moving averages.
      epsilon: added to the variance.
      center: whether it has an offset, beta.
      scale: whether it has a factor, gamma.
      fused_inference: normalize with the moving statistics by the fused kernel; otherwise by Keras's formula, whose
        last bits differ.

    Attributes:
      convolution: weak reference to the Convolution whose bias it removes, see there, or None.
    """

    convolution: Any = None

    def __init__(self, momentum: float = 0.99, epsilon: float = 1e-3, center: bool = True, scale: bool = True,
                 fused_inference: bool = True, **kwargs):
        # Without autocast `shift` keeps its precision; `call` casts x itself.
        super().__init__(autocast=False, **kwargs)
        self.momentum, self.epsilon, self.center, self.scale = momentum, epsilon, center, scale
        self.fused_inference = fused_inference

    def build(self, input_shape: Sequence[int | None]) -> None:
        def weight(name, initializer, trainable):
            return self.add_weight(name=name, shape=(input_shape[-1],), initializer=initializer, trainable=trainable,
                                   autocast=False)
        self.gamma = weight("gamma", "ones", True) if self.scale else None
        self.beta = weight("beta", "zeros", True) if self.center else None
        self.moving_mean = weight("moving_mean", "zeros", False)
        self.moving_variance = weight("moving_variance", "ones", False)

    def compute_output_shape(self, input_shape: Sequence[int | None]) -> Sequence[int | None]:
        return input_shape

    def call(self, x: Any, training: bool = False, shift: Any = None) -> tf.Tensor:
        """Normalizes x.

        Args:
          x: [batch, ..., channels], a float dtype.
          training: whether to use the statistics of the batch and update the moving ones.
          shift: [channels], a bias that was left out of x. It cancels in training, so it only shifts the moving mean
            and has no gradient, where rounding noise would mislead an adaptive optimizer. In a frozen layer (trainable
            = False) it does not cancel.

        Returns:
          A tensor of the shape of x, in the layer's compute dtype.
        """
        x = tf.cast(x, self.compute_dtype)
        if training and self.trainable and self.convolution is not None:
            shift = self.convolution().bias
        shift = None if shift is None else tf.cast(shift, self.variable_dtype)
        gamma = tf.ones_like(self.moving_mean) if self.gamma is None else tf.convert_to_tensor(self.gamma)
        beta = tf.zeros_like(self.moving_mean) if self.beta is None else tf.convert_to_tensor(self.beta)
        if training and not self.trainable and shift is not None:
            # Frozen: the bias has an effect and may train, but the fused kernel has no gradient of the mean.
            beta += gamma * shift * tf.math.rsqrt(tf.convert_to_tensor(self.moving_variance) + self.epsilon)
            shift = None
        if not (training and self.trainable):
            return self._normalize_for_inference(x, gamma, beta, shift)
        shift = None if shift is None else tf.stop_gradient(shift)
        ctx: Any = step.current()
        synchronized = _synchronized(ctx, x.dtype)
        if synchronized and x.dtype in FUSED_DTYPES:
            y, mean, variance = normalization_over_replicas(x, gamma, beta, self.epsilon, ctx.num_replicas)
        elif x.shape.rank == 4 and x.dtype in FUSED_DTYPES:
            y, mean, variance = fused_normalization(x, gamma, beta, self.epsilon)
        else:
            wide = tf.cast(x, self.variable_dtype)
            if synchronized:
                mean, variance, _ = batch_moments(wide, ctx.num_replicas)
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
        if self.fused_inference and x.shape.rank == 4 and x.dtype in FUSED_DTYPES:
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
        # Not old + rate * (value - old): at rate 1 that would round a small variance to the precision of the initial 1.
        variable.assign(old * (1 - rate) + tf.stop_gradient(value) * rate)


@registered
class InputNormalization(keras.layers.Normalization):
    """keras.layers.Normalization that computes with the values of its weights.

    Keras's layer computes with copies, which neither a checkpoint nor an assignment changes.

    Args:
      axis: the last axis of the inputs, which has a mean and a variance for each of its values.
    """

    def __init__(self, axis: int | Sequence[int] = -1, **kwargs):
        super().__init__(axis=axis, **kwargs)

    def call(self, x: Any) -> Any:
        """Subtracts the mean from x [..., channels] and divides by the std, of the weights."""
        x = tf.cast(x, self.compute_dtype)
        mean, variance = (tf.cast(v, x.dtype) for v in (self.adapt_mean, self.adapt_variance))
        return (x - mean) / tf.maximum(tf.sqrt(variance), keras.config.epsilon())
