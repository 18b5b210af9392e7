"""Layers and models keep the arguments of their constructor, so that they reload from a file."""
import functools
import inspect
from collections.abc import Mapping
from typing import Any

import keras

PACKAGE = "mirrorline"
registered = keras.saving.register_keras_serializable(package=PACKAGE)


def constructor_arguments(layer_class: Any) -> dict[str, inspect.Parameter]:
    """Returns the parameters of a constructor or a function by name, without self, *args and **kwargs."""
    function: Any = layer_class.__init__ if isinstance(layer_class, type) else layer_class  # type: ignore[misc]
    try:
        parameters = inspect.signature(function, eval_str=True).parameters
    except NameError:  # An annotation that exists only for a type checker.
        parameters = inspect.signature(function).parameters
    return {name: p for name, p in parameters.items()
            if name != "self" and p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)}


def make_reloadable(model_class: Any) -> None:
    """Adds to a user's model class what it lacks for being saved and reloaded.

    Its get_config returns its arguments: the default of Keras takes the defaults of a model's arguments for the given
    values. And it is rebuilt by a call, as it was built: otherwise its variables would have other names.

    Args:
      model_class: subclass of keras.Model; its constructor is wrapped.
    """
    if model_class.build_from_config is keras.Model.build_from_config:
        model_class.build_from_config = build_by_call
    parents = model_class.__mro__[:model_class.__mro__.index(keras.Model)]
    own = [vars(parent)["get_config"] for parent in parents if "get_config" in vars(parent)]
    if any(not getattr(function, "kept", False) for function in own):
        return
    original, arguments = model_class.__init__, constructor_arguments(model_class)
    signature = inspect.signature(original)
    takes_more = any(p.kind is p.VAR_KEYWORD for p in signature.parameters.values())

    @functools.wraps(original)
    def __init__(self, *args, **kwargs):
        given = signature.bind(self, *args, **kwargs)
        given.apply_defaults()
        original(self, *args, **kwargs)
        self._given_arguments = {name: given.arguments[name] for name in arguments}

    def get_config(self):
        # The name and other arguments of Keras only if the constructor takes them.
        return {**(super(model_class, self).get_config() if takes_more else {}), **self._given_arguments}

    __init__.__signature__ = signature  # type: ignore[attr-defined]  # Keras inspects it in two ways, and one does not follow wrappers.
    get_config.kept = True  # type: ignore[attr-defined]  # A derived class has its own arguments.
    model_class.__init__, model_class.get_config = __init__, get_config


def build_by_call(model: Any, config: Mapping[str, Any]) -> None:
    """Builds a model with one input by calling it on zeros.

    Args:
      model: keras.Model.
      config: of keras.Model.get_build_config, {"input_shape": [batch, height, width, channels]}.
    """
    model(keras.ops.zeros((1, *config["input_shape"][1:])), training=False)


class KeepsArguments:
    """Mixin for a layer whose arguments are attributes of the same names: get_config returns all of them."""

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(),  # type: ignore[misc]
                **{name: getattr(self, name) for name in constructor_arguments(type(self))}}


def logits_dtype(policy: Any) -> str:
    """Returns the dtype of a model's last layer: float32 under every policy, but float64 under float64."""
    return "float64" if policy.compute_dtype == "float64" else "float32"
