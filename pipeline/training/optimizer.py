"""Keras's optimizers, told that their gradients are sums over all replicas already, and with one kernel a variable."""
import keras
import tensorflow as tf

from pipeline.errors import RunFailure
from pipeline.internals.keras_internals import FusedAdam, FusedMomentum, reduced_optimizer


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
    classes = {"sgd": keras.optimizers.SGD, "adam": keras.optimizers.Adam, "adamw": keras.optimizers.AdamW,
               "lamb": keras.optimizers.Lamb, "lion": keras.optimizers.Lion}
    arguments, fused = {}, FusedAdam if config.optimizer in ("adam", "adamw") else None
    if config.optimizer == "sgd":
        arguments = {"momentum": config.momentum, "nesterov": config.nesterov}
        fused = FusedMomentum if config.momentum else None
    optimizer = reduced_optimizer(classes[config.optimizer], fused)(
        learning_rate=config.learning_rate, weight_decay=config.weight_decay, **arguments)
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
