"""Keras's optimizers, told that their gradients are sums over all replicas already, and with one kernel a variable."""
import importlib

import keras
import tensorflow as tf

from pipeline.choices import OPTIMIZERS, OptimizerRow
from pipeline.errors import RunFailure
from pipeline.internals import keras_internals
from pipeline.internals.keras_internals import reduced_optimizer


def _arguments(config):
    """Returns {argument: value} of the class beside the learning rate and the weight decay."""
    row = OPTIMIZERS.find(config.optimizer)
    options = row.options if isinstance(row, OptimizerRow) else {}
    return {argument: getattr(config, option) for argument, option in options.items()}


def _optimizer_class(config):
    """Returns the class of an optimizer, its gradients reduced already, with the fused update where it has one."""
    row = OPTIMIZERS.find(config.optimizer)
    if not isinstance(row, OptimizerRow):
        return reduced_optimizer(row.origin)
    module, name = row.factory.split(":")
    fused = row.fused if row.fused_if is None or getattr(config, row.fused_if) else None
    return reduced_optimizer(getattr(importlib.import_module(module), name),
                             getattr(keras_internals, fused) if fused else None)


def create_optimizer(config, model):
    """Makes and builds the optimizer of a model; call it inside the strategy's scope.

    Weight decay is decoupled (Loshchilov and Hutter, arXiv:1711.05101) for every optimizer, and spares vectors
    (biases, scale and offset of normalization) unless `decay_all`. The learning rate is assigned by the step.

    Args:
      config: OptimizerConfig.
      model: a built keras.Model.

    Returns:
      A built keras.optimizers.Optimizer.
    """
    optimizer = _optimizer_class(config)(learning_rate=config.learning_rate, weight_decay=config.weight_decay,
                                         **_arguments(config))
    if not config.weight_decay:
        optimizer.weight_decay = None  # Keras would multiply every weight by zero each step.
    if not config.decay_all:
        spared = [v for v in model.trainable_variables if len(v.shape) < 2]
        if spared:
            optimizer.exclude_from_weight_decay(var_list=spared)
    optimizer.build(model.trainable_variables)
    return optimizer


def check_reduced_once(run, strategy):
    """Proves that this version of Keras reduces nothing a second time: one update by ones must move by one.

    Args:
      run: a function (strategy, replica function) -> None that runs it on every replica.
      strategy: tf.distribute.Strategy.

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
