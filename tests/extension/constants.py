"""An extension with a functional model made of constants."""
import keras
import numpy as np

from pipeline.models.registry import register

SHAPE = (12, 13, 1)  # More than 128 numbers: tensors of fewer are copied into a graph, larger ones captured by it.


@register("constants", example_shape=SHAPE)
def constants(num_classes=4):
    """Returns a functional model with a NumPy table, a tensor and layers that hold tensors which are no weights."""
    table = np.linspace(0.5, 1.5, np.prod(SHAPE), dtype=np.float32).reshape(SHAPE)
    image = keras.Input(SHAPE)
    x = keras.layers.Rescaling(2.0, offset=-0.5)(image)
    x = keras.ops.add(x, table)
    x = keras.ops.multiply(x, keras.ops.convert_to_tensor(table[::-1].copy()))
    x = keras.layers.Normalization(axis=(1, 2, 3), mean=table, variance=table)(x)
    x = keras.layers.Flatten()(x)
    return keras.Model(image, keras.layers.Dense(num_classes, dtype="float32")(x))
