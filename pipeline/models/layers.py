"""Basic layers: a dense layer, a rectifier, and a convolution with cheaper gradients that can skip its bias."""
from collections.abc import Callable, Sequence
from typing import Any

import keras
import tensorflow as tf

from pipeline.device_scope import on_gpu
from pipeline.models.serialization import KeepsArguments, registered


@registered
class Dense(KeepsArguments, keras.layers.Layer):
    """A fully connected layer, x w + b.

    Args:
      units: number of outputs.
    """

    def __init__(self, units: int, **kwargs):
        super().__init__(**kwargs)
        self.units = units
        self.input_spec = keras.layers.InputSpec(ndim=2)

    def build(self, input_shape: Sequence[int | None]) -> None:
        self.w = self.add_weight(name="w", shape=(input_shape[-1], self.units), initializer="random_normal")
        self.b = self.add_weight(name="b", shape=(self.units,), initializer="zeros")

    def compute_output_shape(self, input_shape: Sequence[int | None]) -> tuple[int | None, ...]:
        return (*input_shape[:-1], self.units)

    def call(self, x: Any) -> Any:
        """Maps x [batch, inputs] to [batch, units]."""
        return keras.ops.matmul(x, self.w) + self.b


@registered
class ReLU(keras.layers.Layer):
    """The rectifier max(x, 0), elementwise."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.built = True

    def compute_output_shape(self, input_shape: Sequence[int | None]) -> Sequence[int | None]:
        return input_shape

    def call(self, x: Any) -> Any:
        # One kernel, which can be fused with the normalization before it; tf.maximum cannot.
        return tf.nn.relu(x)


@tf.custom_gradient
def pointwise_convolution(x: tf.Tensor, kernel: tf.Tensor) -> tuple[tf.Tensor, Callable]:
    """Convolves with a kernel of 1x1, stride 1; its gradients are products of matrices.

    On a CPU these take 0.45 to 0.9 of the time of TensorFlow's kernels for gradients of convolutions, which rearrange
    their arguments first; the least on small maps (docs/measurements.md).

    Args:
      x: [batch, height, width, channels] float32.
      kernel: [1, 1, channels, filters] float32.

    Returns:
      [batch, height, width, filters] float32, the bits of tf.nn.conv2d.
    """
    def gradient(dy):
        channels, filters = kernel.shape[2:]
        rows = tf.reshape(dy, [-1, filters])
        dx = tf.matmul(rows, tf.reshape(kernel, [channels, filters]), transpose_b=True)
        dkernel = tf.matmul(tf.reshape(x, [-1, channels]), rows, transpose_a=True)
        return tf.reshape(dx, tf.shape(x)), tf.reshape(dkernel, kernel.shape)
    return tf.nn.conv2d(x, kernel, 1, "VALID"), gradient


@registered
class Convolution(keras.layers.Conv2D):
    """keras.layers.Conv2D with cheaper gradients on a CPU, that can leave its bias to the following normalization.

    Attributes:
      normalization: weak reference to the BatchNormalization that alone follows, and has this layer as its
        `convolution`; in training it removes the bias, which is then not added. None: `with_bias` decides.
    """

    normalization: Any = None

    def call(self, x: Any, with_bias: bool = True, training: bool = False) -> Any:
        """Convolves x [batch, height, width, channels]; without bias and activation if with_bias is False."""
        if training and self.normalization is not None and self.normalization().trainable:
            with_bias = False
        if training and self._is_pointwise(x):
            y = pointwise_convolution(x, tf.convert_to_tensor(self.kernel))
            y = y + tf.convert_to_tensor(self.bias) if with_bias and self.use_bias else y
            return self.activation(y) if with_bias and self.activation is not None else y
        return super().call(x) if with_bias else self.convolution_op(x, self.kernel)

    def _is_pointwise(self, x):
        """Returns whether its gradients are products of matrices, and these are faster."""
        return (self.kernel_size == self.strides == (1, 1) and self.groups == 1 and x.dtype == tf.float32
                and not on_gpu())
