"""Models by name, and how one is made."""
from collections.abc import Callable, Sequence
from typing import Any

import keras

from pipeline.choices import MODELS, ModelRow
from pipeline.errors import RunFailure, UsageError, unknown_name
from pipeline.internals.keras_internals import layers_of, widened
from pipeline.models.classifier import check_input_shape
from pipeline.models.model_checks import check_custom_model
from pipeline.models.serialization import constructor_arguments, make_reloadable
from pipeline.preprocessing import INPUT_RANGES, UNIT
from pipeline.registration import format_location, raise_with_location

SET_ELSEWHERE = ("num_classes", "batch_norm_momentum")
INPUT_SHAPE = "input_shape"  # Argument that functional models have.
READABLE = {int: "a whole number", float: "a number", str: "a text", bool: "true or false"}
TRUTH = {"true": True, "on": True, "1": True, "false": False, "off": False, "0": False}


def register(name: str, example_shape: Sequence[int] = (28, 28, 1), wanted_channels: int | None = None,
             input_range: str = UNIT, depth: int = 1) -> Callable:
    """Returns a decorator that registers a user's model.

    It decorates a subclass of keras.Model, or a function that returns a keras.Model. Both take the argument num_classes
    and return logits, [batch, num_classes], without a softmax. Their other arguments of type int, float, str or bool
    are --model_options, and have defaults. An argument `input_shape` without a default is given (height, width,
    channels): a functional model is made for it.

    Args:
      name: value of --model.
      example_shape: (height, width, channels) for which `mirrorline inspect` shows it.
      wanted_channels: 3 for a model that needs three channels: images of one channel are repeated.
      input_range: range of the values that it takes, one of pipeline.preprocessing.INPUT_RANGES; "0..255" for one that
        scales them itself.
      depth: how many callers up the registration is.

    Raises:
      UsageError: an invalid or used name, an unknown range, or an object that cannot be called with num_classes.
    """
    if input_range not in INPUT_RANGES:
        raise unknown_name(f"input_range of model '{name}'", input_range, INPUT_RANGES)

    def check(model):
        if not callable(model) or (isinstance(model, type) and not issubclass(model, keras.Model)):
            return "is neither a subclass of keras.Model nor a function that returns one"
        arguments = constructor_arguments(model)
        if "num_classes" not in arguments:
            return (f"does not take the argument num_classes: give it to "
                    f"{model.__name__}{'.__init__' * isinstance(model, type)}")
        without = [n for n, p in arguments.items() if p.default is p.empty and not _set_elsewhere(n, p)]
        return f"has no default for its argument {without[0]}: give it one" if without else None

    height, width, channels = example_shape
    enter = MODELS.register(name, check, ModelRow((height, width, channels), wanted_channels, input_range),
                            depth + 1)

    def enter_model(model):
        enter(model)
        if isinstance(model, type) and keras.saving.get_registered_name(model) == model.__name__:
            make_reloadable(model)
            # The name of the class in a .keras file, whatever its module is called where it is read.
            keras.saving.register_keras_serializable(package=name)(model)
        return model

    return enter_model


def model_class(name: str) -> Callable:
    """Returns the class of a model, or the function that returns one.

    Raises:
      UsageError: an unknown name.
    """
    return MODELS.find(name).load()


def _set_elsewhere(name, argument):
    """Returns whether an argument of a model is no option."""
    return name in SET_ELSEWHERE or (name == INPUT_SHAPE and argument.default is argument.empty)


def takes_shape(made: Callable) -> bool:
    """Returns whether a model is made for one shape of images: it has an argument input_shape without a default."""
    argument = constructor_arguments(made).get(INPUT_SHAPE)
    return argument is not None and _set_elsewhere(INPUT_SHAPE, argument)


def wanted_channels(name: str, channels: int) -> int:
    """Returns the number of input channels of a model for a data set with images of `channels`."""
    wanted = MODELS.find(name).row.wanted_channels
    return wanted if wanted and channels == 1 else channels


def parse_options(name: str, options: Sequence[str]) -> dict[str, Any]:
    """Parses ("identity_kernel=3", ...) by the types of the constructor's arguments.

    Returns:
      {argument: value}.

    Raises:
      UsageError: an option that the model does not have, or a value that cannot be parsed.
    """
    arguments = {n: p for n, p in constructor_arguments(model_class(name)).items() if not _set_elsewhere(n, p)}
    values = {}
    for option in options:
        key, _, text = option.partition("=")
        if key not in arguments:
            if not arguments:
                raise UsageError(f"model {name} has no options; found '{option}'")
            raise unknown_name(f"option of model {name}", key, arguments)
        values[key] = _read_option(name, arguments[key], text)
    return values


def _read_option(name, argument, text):
    """Returns the value of an argument of a model; its type is the annotation, or else the type of the default."""
    wanted = argument.annotation if argument.annotation in READABLE else type(argument.default)
    if wanted not in READABLE:
        raise UsageError(f"option {argument.name} of model {name} cannot be given as text: its type is none of int, "
                         "float, str and bool")
    try:
        return TRUTH[text.lower()] if wanted is bool else wanted(text)
    except (KeyError, ValueError):
        raise UsageError(f"option {argument.name} of model {name} is of type {wanted.__name__}; found '{text}'"
                         ) from None


def create(name: str, num_classes: int, input_shape: Sequence[int], options: Sequence[str] = (),
           batch_norm_momentum: float = 0.9) -> Any:
    """Makes a model by name, with all its variables, within the scope of the strategy.

    The order of its variables is that in which layers are assigned in the constructors: the same in every process.

    Args:
      name: a key of MODELS.
      num_classes: number of logits.
      input_shape: (height, width, channels) of its images.
      options: arguments of the model, each "name=value".
      batch_norm_momentum: momentum of the moving statistics, for models with this argument.

    Raises:
      UsageError: unknown names, invalid values, images that are too small, or a user's model that cannot be made or
        whose outputs are no logits.
    """
    found = MODELS.find(name)
    made = found.load()
    check_input_shape(made, name, input_shape)
    if num_classes < 1:
        raise UsageError(f"model {name} needs at least 1 class; found {num_classes}")
    arguments = parse_options(name, options)
    if "batch_norm_momentum" in constructor_arguments(made):
        arguments["batch_norm_momentum"] = batch_norm_momentum
    if takes_shape(made):
        arguments[INPUT_SHAPE] = tuple(input_shape)
    if found.location:
        return _create_registered(name, found, {"num_classes": num_classes, **arguments}, input_shape)
    model = made(num_classes=num_classes, **arguments)
    if not takes_shape(made):
        build(model, input_shape)
    return model


def _create_registered(name, found, arguments, input_shape):
    """Makes a user's model: an error in their code becomes one line with its location."""
    with raise_with_location(f"model {name}", found.location), widened():
        model = found.origin(**arguments)
        if not isinstance(model, keras.Model):
            raise UsageError(f"{format_location(found.location)}: model {name} is a {type(model).__name__}, not a "
                             "keras.Model")
        build(model, input_shape)
        check_custom_model(model, name, arguments["num_classes"], input_shape)
    return model


def build(model: Any, input_shape: Sequence[int]) -> None:
    """Makes every variable of a model by calling it on one image of zeros.

    model.build() alone makes none for the layers inside: the optimizer would not know them, and a restore would
    silently skip them.
    """
    model(keras.ops.zeros((1, *input_shape)), training=False)
    unbuilt = [layer.path for layer in layers_of(model) if not layer.built]
    if unbuilt:
        raise RunFailure(f"layers without variables after a call of {model.name}: {', '.join(unbuilt)}")
