"""Names of a model's float variables for initializing and freezing, and its head."""
from collections.abc import Mapping, Sequence
from typing import Any

import keras

from pipeline.models.identity import variable_names
from pipeline.models.recording import record_calls

POOLING = (keras.layers.GlobalAveragePooling2D, keras.layers.GlobalMaxPooling2D, keras.layers.Flatten)


def named(model: keras.Model) -> dict[str, keras.Variable]:
    """Returns {name: variable} of a model's float variables, in order; integers (seeds) belong to the run.

    A name is the path within the model: "block1/norm/gamma", without the model's own name.
    """
    pairs = zip(variable_names(model), model.variables, strict=True)
    return {name.removeprefix(f"{model.name}/"): variable for name, variable in pairs if is_float(variable)}


def is_float(variable: Any) -> bool:
    """Returns whether a variable or an array has a float dtype."""
    return "float" in str(variable.dtype)


def names_in(layer: Any, variables: Mapping[str, keras.Variable]) -> set[str]:
    """Returns the names of a layer's variables among {name: variable}."""
    inside = {id(v) for v in layer.variables}
    return {name for name, variable in variables.items() if id(variable) in inside}


def layer_of(name: str) -> str:
    """Returns the path of the layer of a variable; its own name for a variable of the model itself."""
    return name.rpartition("/")[0] or name


def top(model: keras.Model, image_shape: Sequence[int]) -> list[Any]:
    """Returns the layers with weights above the backbone, in order of execution; the last is the head.

    They come after the last global pooling or flattening, or are dense up to the end: of VGG three layers, of
    MobileNetV3 two convolutions of pooled features, of most models the head alone.

    Args:
      model: built, over images.
      image_shape: (height, width, channels) of its images.
    """
    called = [call for call in record_calls(model, image_shape).calls if call.layer and call.is_leaf]
    last = max(i for i, call in enumerate(called) if call.layer.weights)
    pooled = max((i for i, call in enumerate(called[:last]) if isinstance(call.layer, POOLING)), default=last - 1)
    dense = [i for i, call in enumerate(called) if call.layer.weights and len(call.output_shape) > 2]
    first = min(pooled + 1, max((i for i in dense if i < last), default=-1) + 1)
    return list({id(call.layer): call.layer for call in called[first:last + 1] if call.layer.weights}.values())


def head(model: keras.Model, image_shape: Sequence[int]) -> Any:
    """Returns the last layer with weights that a model calls: the one that computes logits of features.

    Args:
      model: built, over images.
      image_shape: (height, width, channels) of its images.
    """
    return top(model, image_shape)[-1]
