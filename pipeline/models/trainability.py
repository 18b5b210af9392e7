"""Saving and restoring `trainable` of layers and variables, which a configuration of Keras does not contain."""
from collections.abc import Mapping, Sequence

import keras

from pipeline.internals.keras_internals import layers_of


def frozen_parts(model: keras.Model) -> dict[str, list[int]]:
    """Returns which parts of a built model do not train, as JSON types.

    Returns:
      {"layers": positions among its layers with variables, including itself, "variables": positions among its
      variables}.
    """
    return {"layers": [i for i, layer in enumerate(_layers(model)) if not layer.trainable],
            "variables": [i for i, variable in enumerate(model.variables) if not variable.trainable]}


def freeze_parts(model: keras.Model, parts: Mapping[str, Sequence[int]]) -> None:
    """Freezes exactly the parts of a model that `frozen_parts` found in one of the same configuration."""
    layers, variables = set(parts["layers"]), set(parts["variables"])
    for i, layer in enumerate(_layers(model)):  # Outer layers first: Keras sets all layers inside too.
        if layer.trainable == (i in layers):
            layer.trainable = i not in layers
    for i, variable in enumerate(model.variables):
        variable.trainable = i not in variables


def _layers(model):
    """Returns the layers with variables of their own or inside; those without depend on internals of Keras."""
    return [layer for layer in layers_of(model) if layer.variables]
