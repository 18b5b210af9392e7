"""Basic layers: a dense layer and a rectifier from scratch, and a convolution that can leave out its bias."""
import keras
import tensorflow as tf

from pipeline.models.serialization import KeepsArguments, registered


@registered
class Dense(KeepsArguments, keras.layers.Layer):
    """A fully connected layer, x w + b, whose weights are made when the number of inputs is known.

    Args:
      units: number of outputs.
    """

    def __init__(self, units: int, **kwargs):
        super().__init__(**kwargs)
        self.units = units
        self.input_spec = keras.layers.InputSpec(ndim=2)

    def build(self, input_shape):
        self.w = self.add_weight(name="w", shape=(input_shape[-1], self.units), initializer="random_normal")
        self.b = self.add_weight(name="b", shape=(self.units,), initializer="zeros")

    def compute_output_shape(self, input_shape):
        return (*input_shape[:-1], self.units)

    def call(self, x):
        """Maps x [batch, inputs] to [batch, units]."""
        return keras.ops.matmul(x, self.w) + self.b


@registered
class ReLU(keras.layers.Layer):
    """The rectifier max(x, 0), element by element."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.built = True

    def compute_output_shape(self, input_shape):
        return input_shape

    def call(self, x):
        # max(x, 0) as one kernel: it can be fused with the normalization before it, tf.maximum cannot.
        return tf.nn.relu(x)


@registered
class Convolution(keras.layers.Conv2D):
    """keras.layers.Conv2D that can leave its bias to the normalization after it."""

    def call(self, x, with_bias=True):
        """Convolves x [batch, height, width, channels]; without its bias and activation where with_bias is False."""
        return super().call(x) if with_bias else self.convolution_op(x, self.kernel)
