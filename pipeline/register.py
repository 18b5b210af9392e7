"""Decorators for the files of users (`--extension=FILE.py`), one for each kind of thing that they can add.

    from pipeline import register

    @register.loss("squared_error")
    def squared_error(logits, label): ...

Each takes the name by which flags select it. Standard library only; TensorFlow is imported where it is needed.
"""
from collections.abc import Callable, Sequence
from typing import Any

from pipeline.callbacks import CALLBACKS
from pipeline.choices import LOSSES, METRICS, OPTIMIZERS


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


def model(name: str, example_shape: Sequence[int] = (28, 28, 1), wanted_channels: int | None = None) -> Callable:
    """Adds a model (`--model=NAME`), see pipeline.models.registry.register."""
    from pipeline.models import registry  # It imports Keras, as a file that registers a model does.
    return registry.register(name, example_shape, wanted_channels, depth=2)


def dataset(name: str) -> Callable:
    """Adds a data set (`--dataset=NAME`), see pipeline.data.registry.register."""
    from pipeline.data import registry  # It imports TensorFlow.
    return registry.register(name, depth=2)
