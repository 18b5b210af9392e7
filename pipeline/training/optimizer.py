"""Optimizers of Keras for gradients that are reduced already, with one fused kernel for each large variable."""
import functools
import importlib
from collections.abc import Callable, Iterable

import keras
import tensorflow as tf

from pipeline.choices import OPTIMIZERS, OptimizerRow
from pipeline.config import OptimizerConfig
from pipeline.errors import RunFailure
from pipeline.internals import keras_internals
from pipeline.internals.keras_internals import reduced_optimizer
from pipeline.models.trained_weights import TrainedWeights
from pipeline.models.weight_names import named


def _optimizer_class(config: OptimizerConfig, per_variable: bool) -> Callable:
    """Returns the class of an optimizer, its gradients reduced already, with its own options filled in."""
    row = OPTIMIZERS.find(config.optimizer)
    if not isinstance(row, OptimizerRow):
        return reduced_optimizer(row.origin, per_variable=per_variable)
    module, name = row.factory.split(":")
    fused = row.fused if row.fused_if is None or getattr(config, row.fused_if) else None
    optimizer_class = reduced_optimizer(getattr(importlib.import_module(module), name),
                                        getattr(keras_internals, fused) if fused else None, per_variable)
    given = {option: getattr(config, option) for option in row.options}
    options = {argument: default if given[option] is None else given[option]
               for option, (argument, default) in row.options.items()}
    return functools.partial(optimizer_class, **options)


def create_optimizer(config: OptimizerConfig, model: keras.Model, trained: TrainedWeights
                     ) -> keras.optimizers.Optimizer:
    """Creates and builds the optimizer of a built model; call it inside the strategy's scope.

    Weight decay is decoupled (Loshchilov and Hutter, arXiv:1711.05101) for every optimizer whose update does not
    include it, in proportion to the rate of each weight, and excludes vectors (biases, scale and offset of
    normalization) unless `decay_all`. The step assigns the learning rate.

    The optimizer has room for every weight that ever trains; one that begins later begins as in a new optimizer.
    """
    found, since = named(model), trained.freezing.since
    variables, factors = [found[name] for name in since], [trained.factors[name] for name in since]
    per_variable = any(since.values()) or any(factor != 1 for factor in factors)
    optimizer = _optimizer_class(config, per_variable)(learning_rate=config.learning_rate,
                                                       weight_decay=config.weight_decay)
    if not config.weight_decay:
        optimizer.weight_decay = None  # Keras would multiply every weight by zero each step.
    decayed = [name not in trained.undecayed and (config.decay_all or len(found[name].shape) > 1) for name in since]
    excluded = [v for v, decays in zip(variables, decayed, strict=True) if not decays]
    if excluded:
        optimizer.exclude_from_weight_decay(var_list=excluded)
    if getattr(OPTIMIZERS.find(config.optimizer), "leaves_out_head", False):
        optimizer.leave_out(trained.head)
    optimizer.build(variables)
    if per_variable:
        optimizer.set_up(factors, list(since.values()), decayed)
    return optimizer


def add_l2(model: keras.Model, names: Iterable[str], strength: float) -> None:
    """Adds an L2 penalty, strength * sum(w^2), to kernels (variables of two or more axes) of the names without one."""
    found = named(model)
    for name in names if strength else ():
        if len(found[name].shape) > 1 and found[name].regularizer is None:
            found[name].regularizer = keras.regularizers.L2(strength)


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
