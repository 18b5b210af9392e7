"""The average of the weights that is evaluated: exponential (--ema_decay), of the optimizer, or of the last epochs."""
import tensorflow as tf

from pipeline.training.settings import StepSettings
from pipeline.training.state import TrainState


def update(strategy: tf.distribute.Strategy, state: TrainState, settings: StepSettings, applied: tf.Tensor) -> None:
    """Updates the averages after an update of the weights, in cross-replica context; without averages nothing.

    Args:
      applied: int64 scalar, updates of the weights before this one.
    """
    if settings.ema_decay:
        _follow(strategy, state, settings.ema_decay, applied)
    elif state.ema and not settings.averaged:
        _copy_from_optimizer(strategy, state)


def take_part(strategy: tf.distribute.Strategy, state: TrainState, settings: StepSettings, step: tf.Tensor) -> None:
    """Lets the weights enter the mean of --average_last where an epoch ends, whether the step was applied or not.

    Moving statistics enter as the weights do. Until the first end the average is the weights.

    Args:
      step: int64 scalar, steps done before this one.
    """
    if not settings.averaged:
        return
    ends = tf.constant(settings.averaged, tf.int64)
    ended = tf.reduce_sum(tf.cast(ends <= step + 1, tf.int64))

    def move():
        for average, variable in zip(state.ema, state.averaged(), strict=True):
            strategy.extended.update(average, _enter, args=(variable.value, ended), group=False)
        return True

    tf.cond((ended == 0) | tf.reduce_any(ends == step + 1), move, lambda: False)


def _enter(average, value, number):
    """Lets a value enter a mean as the number-th; as the first, or before it, the mean is the value."""
    moved = average + (value - average) / tf.cast(tf.maximum(number, 1), average.dtype)
    average.assign(tf.where(number <= 1, value, moved))


def _follow(strategy, state, ema_decay, applied):
    """Moves the averages towards the weights, as TensorFlow's ExponentialMovingAverage with num_updates does.

    It forgets the initial weights.
    """
    t = tf.cast(applied, tf.float32)
    decay = tf.minimum(ema_decay, (1.0 + t) / (10.0 + t))
    for average, variable in zip(state.ema, state.averaged(), strict=True):
        strategy.extended.update(average, lambda a, v, d: a.assign_sub((a - v) * (1 - tf.cast(d, a.dtype))),
                                 args=(variable.value, decay), group=False)


def _copy_from_optimizer(strategy, state):
    """Writes the averages that the optimizer defines; of what it does not train, the value as it is."""
    trained = {id(variable) for variable in state.model.trainable_variables}
    averaged = state.optimizer.averaged
    for average, variable in zip(state.ema, state.averaged(), strict=True):
        if id(variable) in trained:
            strategy.extended.update(average, lambda a, v, lead: a.assign(averaged(v, lead)),
                                     args=(variable.value, state.optimizer.lead_of(variable)), group=False)
        else:
            strategy.extended.update(average, lambda a, v: a.assign(v), args=(variable.value,), group=False)
