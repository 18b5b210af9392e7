"""Decorators for the files of users (`--extension=FILE.py`), one for each kind of thing that they can add.

    from pipeline import register

    @register.loss("squared_error")
    def squared_error(logits, label): ...

Each takes the name by which flags select it. Standard library only; TensorFlow is imported where it is needed.
"""
import dataclasses
import inspect
from collections.abc import Callable, Sequence
from typing import Any

from pipeline.callbacks import CALLBACKS
from pipeline.choices import (
    AUGMENTATIONS,
    DATASETS,
    EXPORT_FORMATS,
    LOSSES,
    METRICS,
    OPTIMIZERS,
    AugmentationRow,
    DatasetRow,
    ExportFormatRow,
)
from pipeline.config import DataConfig
from pipeline.export.export_format import ExportFormat


def _function(origin: Any) -> str | None:
    return None if callable(origin) and not isinstance(origin, type) else "is no function"


def _class(origin: Any) -> str | None:
    return None if isinstance(origin, type) else "is no class"


def optimizer(name: str) -> Callable:
    """Adds an optimizer (`--optimizer=NAME`): a subclass of keras.optimizers.Optimizer.

    It is called with learning_rate and weight_decay; its gradients are already summed over all replicas. The step
    assigns the learning rate, clips the gradients and decides whether the update is skipped.
    """
    return OPTIMIZERS.register(name, _class)


def loss(name: str) -> Callable:
    """Adds a loss (`--loss=NAME`): a function of (logits, label) to one value for each example.

    logits are float [B, classes], label is int32 [B]; the values are float [B] of the dtype of the logits. The step
    divides by the batch size, once, and evaluations report the mean.
    """
    return LOSSES.register(name, _function)


def metric(name: str) -> Callable:
    """Adds a metric (`--metrics=NAME,...`): a function of (logits, label) to one value for each example.

    Shapes are those of a loss. Evaluations report the mean over all examples, each counted once.
    """
    return METRICS.register(name, _function)


def callback(name: str) -> Callable:
    """Adds a callback (`--callbacks=NAME,...`): a subclass of pipeline.callbacks.Callback.

    It is called with (experiment, workdir): the pipeline.training.experiment.Experiment of the run, and the path of its
    directory as a str.
    """
    return CALLBACKS.register(name, _class)


def model(name: str, example_shape: Sequence[int] = (28, 28, 1), wanted_channels: int | None = None,
          input_range: str = "0..1") -> Callable:
    """Adds a model (`--model=NAME`), see pipeline.models.registry.register."""
    from pipeline.models import registry  # It imports Keras, as a file that registers a model does.
    return registry.register(name, example_shape, wanted_channels, input_range, depth=2)


def dataset(name: str, argument: str | None = None) -> Callable:
    """Adds a kind of data set (`--dataset=NAME`, or `--dataset=NAME:ARGUMENT`): a function that loads it.

    It returns (train images, train labels), (test images, test labels), class names, or the same with (validation
    images, validation labels) before the test images; images are uint8 [N, height, width, channels], labels whole
    numbers [N] from 0, class names one text a class. None stands for a test split that there is not:
    --validation_split then says how much of training is held out for testing. Or it returns a
    pipeline.data.source.Source. The same arguments must give the same examples in the same order.

    Args:
      name: what --dataset calls it.
      argument: what follows the name and a colon, as `--help` shows it: "PATH" for a file or folder. The function then
        takes the text as its first argument. Others have the names of data options (data_dir, image_size, ...) and
        get their values; `config` is all of them, `console` takes messages.

    Raises:
      UsageError: a name that is taken, or arguments that nobody could give.
    """
    def check(function):
        if not inspect.isroutine(function):
            return "is no function"
        parameters = list(inspect.signature(function).parameters.values())
        if argument and not parameters:
            return f"takes no argument for its {argument}"
        known = [*(field.name for field in dataclasses.fields(DataConfig)), "config", "console", "own_validation"]
        for parameter in parameters[1 if argument else 0:]:
            if parameter.name not in known and parameter.default is parameter.empty and (
                    parameter.kind not in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD)):
                return (f"wants the argument {parameter.name}, which is no option of data: {', '.join(known)}; give it "
                        "a default")
        return None

    return DATASETS.register(name, check, DatasetRow(argument))


def augmentation(name: str, *, unit: str, low: float, high: float, default: float | None = None,
                 default_part: float | None = None, most_part: float | None = None, whole: bool = False,
                 mixes: bool = False) -> Callable:
    """Adds an augmentation (`--augment=NAME` or NAME:STRENGTH): a function of (images, seeds, strength).

    images are uint8 [B, height, width, channels] of a static shape, seeds int32 [B, 2], one row an image, a function of
    (seed of the run, position in the stream); it returns uint8 images of the same shape. Row i of the result depends
    on row i of both alone, with random numbers from pipeline.data.stateless_random.uniform(seeds, draw): so it is the
    same on any number of replicas and after a resume. It runs in tf.data, and with --cache=device on the device.

    Args:
      name: what --augment calls it.
      unit, low, high, default, default_part, most_part, whole: of the strength, see pipeline.choices.AugmentationRow.
      mixes: whether it mixes the images 2i and 2i + 1; it then returns (images, share of the own image float32 [B]).
    """
    def check(function):
        return _function(function) or ("needs a default strength: give default or default_part"
                                       if default is None and default_part is None else None)

    return AUGMENTATIONS.register(name, check, AugmentationRow(unit, low, high, default, default_part, most_part,
                                                               whole, mixes))


def export_format(name: str, summary: str = "a user's own") -> Callable:
    """Adds an export format (`--format=NAME`): a subclass of pipeline.export.export_format.ExportFormat.

    Args:
      name: what --format calls it.
      summary: one line for the help.
    """
    def wrong(origin) -> str | None:
        if name == "reports":
            return "cannot be called so: the folder `reports` holds the reports on all exports"
        is_format = isinstance(origin, type) and issubclass(origin, ExportFormat)
        return None if is_format else "is no subclass of pipeline.export.export_format.ExportFormat"

    return EXPORT_FORMATS.register(name, wrong, ExportFormatRow(summary))
