"""Optimizers of Keras for gradients that are reduced already, with one fused kernel for each large variable."""
import functools
import importlib
from collections.abc import Callable

import keras
import tensorflow as tf

from pipeline.choices import OPTIMIZERS, OptimizerRow
from pipeline.config import OptimizerConfig
from pipeline.errors import RunFailure
from pipeline.internals import keras_internals
from pipeline.internals.keras_internals import reduced_optimizer


def _optimizer_class(config: OptimizerConfig) -> Callable:
    """Returns the class of an optimizer, its gradients reduced already, with its own options filled in."""
    row = OPTIMIZERS.find(config.optimizer)
    if not isinstance(row, OptimizerRow):
        return reduced_optimizer(row.origin)
    module, name = row.factory.split(":")
    fused = row.fused if row.fused_if is None or getattr(config, row.fused_if) else None
    optimizer_class = reduced_optimizer(getattr(importlib.import_module(module), name),
                                        getattr(keras_internals, fused) if fused else None)
    options = {argument: getattr(config, option) for argument, option in row.options.items()}
    return functools.partial(optimizer_class, **options)


def create_optimizer(config: OptimizerConfig, model: keras.Model) -> keras.optimizers.Optimizer:
    """Creates and builds the optimizer of a built model; call it inside the strategy's scope.

    Weight decay is decoupled (Loshchilov and Hutter, arXiv:1711.05101) for every optimizer and excludes vectors
    (biases, scale and offset of normalization) unless `decay_all`. The step assigns the learning rate.
    """
    optimizer = _optimizer_class(config)(learning_rate=config.learning_rate, weight_decay=config.weight_decay)
    if not config.weight_decay:
        optimizer.weight_decay = None  # Keras would multiply every weight by zero each step.
    if not config.decay_all:
        excluded = [v for v in model.trainable_variables if len(v.shape) < 2]
        if excluded:
            optimizer.exclude_from_weight_decay(var_list=excluded)
    optimizer.build(model.trainable_variables)
    return optimizer


def check_reduced_once(run: Callable, strategy: tf.distribute.Strategy) -> None:
    """Checks that this version of Keras does not reduce gradients again: one update by ones must move by one.

    `run`: pipeline.training.step.run_once.

    Raises:
      RunFailure: the gradient was reduced again (the override of Keras's private method had no effect).
    """
    with strategy.scope():
        variable = keras.Variable([0.0], name="probe")
        optimizer = reduced_optimizer(keras.optimizers.SGD)(learning_rate=1.0)
        optimizer.build([variable])
    # A tensor of the replica's own: the same one on all has no device, and Keras could not reduce it.
    run(strategy, lambda ones: optimizer.apply([tf.identity(ones)], [variable]))
    moved = float(variable.numpy()[0])
    if moved != -1.0:
        raise RunFailure(f"an update by a reduced gradient of 1 moved a weight by {moved:g} instead of -1: this "
                         f"version of Keras ({keras.__version__}) reduces gradients twice; install the range of "
                         "setup.cfg")
