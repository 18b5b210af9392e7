"""The table of models by name, and how one is made from its name."""
import dataclasses

import keras

from pipeline.errors import RunFailure, UsageError, unknown_name
from pipeline.models.classifier import check_input_shape
from pipeline.models.cnn import CNN
from pipeline.models.inception import Inception, MiniInception
from pipeline.models.mlp import MLP
from pipeline.models.resnet_like import ResNetLike
from pipeline.models.serialization import constructor_arguments
from pipeline.models.three_apis import ThreeAPIs


@dataclasses.dataclass(frozen=True)
class Entry:
    """A model that can be asked for by name.

    Attributes:
      model_class: a Classifier.
      input_shape: (height, width, channels) that its parameter counts are documented for.
      wanted_channels: 3 where one-channel images are repeated to three; None where it takes images as they are.
    """

    model_class: type
    input_shape: tuple
    wanted_channels: int = None


MODELS = {
    "mlp": Entry(MLP, (28, 28, 1)),
    "cnn": Entry(CNN, (28, 28, 1)),
    "resnet_like": Entry(ResNetLike, (28, 28, 1)),
    "inception": Entry(Inception, (28, 28, 1)),
    "mini_inception": Entry(MiniInception, (32, 32, 3), wanted_channels=3),
    "three_apis": Entry(ThreeAPIs, (28, 28, 3), wanted_channels=3),
}
SET_ELSEWHERE = ("num_classes", "batch_norm_momentum")


def entry(name):
    """Returns the Entry of a model; raises UsageError naming the nearest for a name that is not in the table."""
    if name not in MODELS:
        raise unknown_name("model", name, MODELS)
    return MODELS[name]


def wanted_channels(name, channels):
    """Returns how many channels the images of a model have when the data set's have `channels`."""
    wanted = entry(name).wanted_channels
    return wanted if wanted and channels == 1 else channels


def parse_options(name, options):
    """Reads ("identity_kernel=3", ...) by the types of the constructor's arguments.

    Returns:
      {argument: value}.

    Raises:
      UsageError: an option that the model does not have, or a value that cannot be read.
    """
    arguments = {n: p for n, p in constructor_arguments(entry(name).model_class).items() if n not in SET_ELSEWHERE}
    values = {}
    for option in options:
        key, _, text = option.partition("=")
        if key not in arguments:
            if not arguments:
                raise UsageError(f"model {name} has no options; found '{option}'")
            raise unknown_name(f"option of model {name}", key, arguments)
        wanted = arguments[key].annotation
        try:
            values[key] = wanted(text)
        except ValueError:
            raise UsageError(f"option {key} of model {name} is of type {wanted.__name__}; found '{text}'") from None
    return values


def create(name, num_classes, input_shape, options=(), batch_norm_momentum=0.9):
    """Makes a model by name, with all its variables. Call it within the scope of the strategy.

    The order of its variables is that in which layers are assigned in the constructors: the same in every process.

    Args:
      name: a key of MODELS.
      num_classes: number of logits.
      input_shape: (height, width, channels) of its images.
      options: arguments of the model, each "name=value".
      batch_norm_momentum: momentum of the moving statistics, where it has any.

    Raises:
      UsageError: unknown names, values that cannot be, or images that are too small.
    """
    model_class = entry(name).model_class
    check_input_shape(model_class, name, input_shape)
    if num_classes < 1:
        raise UsageError(f"model {name} needs at least 1 class; found {num_classes}")
    arguments = parse_options(name, options)
    if "batch_norm_momentum" in constructor_arguments(model_class):
        arguments["batch_norm_momentum"] = batch_norm_momentum
    model = model_class(num_classes=num_classes, **arguments)
    build(model, input_shape)
    return model


def build(model, input_shape):
    """Makes every variable of a model by calling it on one image of zeros.

    model.build() alone makes none for the layers inside: the optimizer would not know them, and a restore would leave
    them out without a word.
    """
    model(keras.ops.zeros((1, *input_shape)), training=False)
    unbuilt = [layer.path for layer in model._flatten_layers() if not layer.built]
    if unbuilt:
        raise RunFailure(f"layers without variables after a call of {model.name}: {', '.join(unbuilt)}")
