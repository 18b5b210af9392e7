"""Basic layers: a dense layer, a rectifier, and a convolution that can skip its bias."""
from collections.abc import Sequence
from typing import Any

import keras
import tensorflow as tf

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


@registered
class Convolution(keras.layers.Conv2D):
    """keras.layers.Conv2D that can leave its bias to the following normalization.

    Attributes:
      normalization: weak reference to the BatchNormalization that alone follows, and has this layer as its
        `convolution`; in training it removes the bias, which is then not added. None: `with_bias` decides.
    """

    normalization: Any = None

    def call(self, x: Any, with_bias: bool = True, training: bool = False) -> Any:
        """Convolves x [batch, height, width, channels]; without bias and activation if with_bias is False."""
        if training and self.normalization is not None and self.normalization().trainable:
            with_bias = False
        return super().call(x) if with_bias else self.convolution_op(x, self.kernel)
