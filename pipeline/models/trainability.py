"""Which parts of a model train: `trainable` of its layers and variables, which a configuration does not hold."""
from pipeline.internals.keras_internals import layers_of


def frozen_parts(model):
    """Returns what of a model does not train, as JSON can hold it.

    Args:
      model: built keras.Model.

    Returns:
      {"layers": positions among its layers with variables, itself included, "variables": positions among its
      variables}.
    """
    return {"layers": [i for i, layer in enumerate(_layers(model)) if not layer.trainable],
            "variables": [i for i, variable in enumerate(model.variables) if not variable.trainable]}


def freeze_parts(model, parts):
    """Lets exactly that of a model not train which `frozen_parts` found in one of the same configuration."""
    layers, variables = set(parts["layers"]), set(parts["variables"])
    for i, layer in enumerate(_layers(model)):  # Those that hold others come first; Keras sets all that they hold.
        if layer.trainable == (i in layers):
            layer.trainable = i not in layers
    for i, variable in enumerate(model.variables):
        variable.trainable = i not in variables


def _layers(model):
    """Returns the layers that hold variables, or others with variables; how Keras keeps the others may change."""
    return [layer for layer in layers_of(model) if layer.variables]
