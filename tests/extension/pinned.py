"""An extension with functional models that a proof in float64 has its trouble with."""
import keras

from pipeline.models.registry import register


@register("pinned", example_shape=(8, 8, 1))
def pinned(num_classes=10):
    """Its last layer and a weight ask for float32, as mixed precision wants it."""
    image = keras.Input((8, 8, 1))
    x = keras.layers.Dense(8, activation="tanh")(keras.layers.Flatten()(image))
    return keras.Model(image, keras.layers.Dense(num_classes, dtype="float32")(Scaled()(x)))


@keras.saving.register_keras_serializable("pinned")
class Scaled(keras.layers.Layer):
    """Multiplies by a weight of float32."""

    def build(self, input_shape):
        self.scale = self.add_weight(shape=(input_shape[-1],), initializer="ones", dtype="float32")

    def call(self, x):
        return x * keras.ops.cast(self.scale, x.dtype)


@register("casting", example_shape=(8, 8, 1))
def casting(num_classes=10):
    """It rounds to float32 on its way, in every precision."""
    image = keras.Input((8, 8, 1))
    x = keras.layers.Dense(8, activation="tanh")(keras.layers.Flatten()(image))
    return keras.Model(image, keras.layers.Dense(num_classes)(keras.ops.cast(x, "float32")))


@register("chaotic", example_shape=(8, 8, 1))
def chaotic(num_classes=10, depth: int = 4, gain: float = 30.0):
    """Every sine makes a difference larger by up to its gain."""
    image = keras.Input((8, 8, 1))
    x = keras.layers.Dense(8)(keras.layers.Flatten()(image))
    for _ in range(depth):
        x = keras.ops.sin(gain * x)
    return keras.Model(image, keras.layers.Dense(num_classes)(x))
