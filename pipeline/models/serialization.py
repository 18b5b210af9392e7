"""How layers and models keep their constructor's arguments, so that they reload without retyping them."""
import inspect

import keras

PACKAGE = "mirrorline"
registered = keras.saving.register_keras_serializable(package=PACKAGE)


def constructor_arguments(layer_class):
    """Returns {name: inspect.Parameter} of a constructor, without self and without **kwargs."""
    parameters = inspect.signature(layer_class.__init__).parameters
    return {name: p for name, p in parameters.items() if name != "self" and p.kind is p.POSITIONAL_OR_KEYWORD}


class KeepsArguments:
    """Mixed into a layer whose arguments lie in attributes of the same names: get_config holds every one of them."""

    def get_config(self):
        return {**super().get_config(), **{name: getattr(self, name) for name in constructor_arguments(type(self))}}


def logits_dtype(policy):
    """Returns the dtype of a model's last layer: float32 under every policy, but float64 under float64."""
    return "float64" if policy.compute_dtype == "float64" else "float32"
