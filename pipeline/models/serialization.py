"""How layers and models keep their constructor's arguments, so that they reload without retyping them."""
import functools
import inspect

import keras

PACKAGE = "mirrorline"
registered = keras.saving.register_keras_serializable(package=PACKAGE)


def constructor_arguments(layer_class):
    """Returns {name: inspect.Parameter} of a constructor, or of a function, without self, *args and **kwargs."""
    function = layer_class.__init__ if isinstance(layer_class, type) else layer_class
    try:
        parameters = inspect.signature(function, eval_str=True).parameters
    except NameError:  # An annotation that only a type checker knows.
        parameters = inspect.signature(function).parameters
    return {name: p for name, p in parameters.items()
            if name != "self" and p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)}


def make_reloadable(model_class):
    """Lets a user's model class be saved and made anew as it is, by what it does not define itself.

    Its get_config holds its arguments: where Keras makes a configuration by itself, it takes the defaults of a model's
    arguments for what was given. And it is built anew by a call, as it was built: else its variables have other names.

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
        # Names and the like only where the constructor takes them.
        return {**(super(model_class, self).get_config() if takes_more else {}), **self._given_arguments}

    __init__.__signature__ = signature  # Keras looks at it in two ways, and one of them does not see what is wrapped.
    get_config.kept = True  # A class that is derived from this one has arguments of its own to keep.
    model_class.__init__, model_class.get_config = __init__, get_config


def build_by_call(model, config):
    """Builds a model of one input by calling it on zeros.

    Args:
      model: keras.Model.
      config: of keras.Model.get_build_config, {"input_shape": [batch, height, width, channels]}.
    """
    model(keras.ops.zeros((1, *config["input_shape"][1:])), training=False)


class KeepsArguments:
    """Mixed into a layer whose arguments lie in attributes of the same names: get_config holds every one of them."""

    def get_config(self):
        return {**super().get_config(), **{name: getattr(self, name) for name in constructor_arguments(type(self))}}


def logits_dtype(policy):
    """Returns the dtype of a model's last layer: float32 under every policy, but float64 under float64."""
    return "float64" if policy.compute_dtype == "float64" else "float32"
