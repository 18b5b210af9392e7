"""Weights from checkpoints, without the rest of a run's state."""
import os

import numpy as np
import tensorflow as tf

from pipeline.config import AS_TRAINED, MOVING_AVERAGE
from pipeline.errors import UsageError
from pipeline.paths import literal
from pipeline.stored_checkpoint import BEST, check_specs, find_checkpoint, stored_checkpoints
from pipeline.training.state import averaged, specs

READS = 5  # Of checkpoints that a training beside replaces faster than they are read.


def load_weights(model, directory, name, ema=False, average=1):
    """Finds checkpoints and puts their weights into a model; of several, their mean.

    A training beside may remove one as it is read: then they are found again.

    Args:
      model: built keras.Model.
      directory: `checkpoints/` of a run.
      name: see stored_checkpoint.find_checkpoint.
      ema: take the moving averages of the weights instead of the weights.
      average: how many checkpoints, the named one and those before it.

    Returns:
      Their StoredCheckpoints, newest first.

    Raises:
      UsageError: there are none of that name, too few, or they do not fit.
    """
    for attempt in range(READS):
        found = newest_checkpoints(find_checkpoint(directory, name), average)
        try:
            read_weights(model, found, ema)
            return found
        except Exception:
            if attempt + 1 == READS or not any(checkpoint.gone for checkpoint in found):
                raise


def read_weights(model, checkpoints, ema=False):
    """Puts the weights of checkpoints into a model; of several, their mean.

    The mean is taken in float64 over float variables, moving statistics of normalization among them; others are those
    of the newest checkpoint.

    Args:
      model: built keras.Model.
      checkpoints: list of StoredCheckpoint, good ones, newest first.
      ema: take the moving averages of the weights instead of the weights.

    Raises:
      UsageError: a checkpoint is of another model, or has no moving averages.
    """
    totals = None
    for stored in checkpoints:
        check_specs(stored, {"model": specs(model.variables)})
        values = _read(stored, model, ema)
        totals = values if totals is None else [
            total + value if np.issubdtype(total.dtype, np.floating) else total
            for total, value in zip(totals, values, strict=True)]
    for variable, total in zip(model.variables, totals, strict=True):
        floating = np.issubdtype(total.dtype, np.floating)
        variable.assign(total / len(checkpoints) if floating else total)


def _read(stored, model, ema):
    """Returns the values of the model's variables in a checkpoint, in order; float ones as float64."""
    values, averages = [], 0
    floating = {id(v) for v in averaged(model)}
    if ema and not stored.specs["ema"]:
        raise UsageError(f"{stored.path} has no moving average of the weights; train with --ema_decay=0.999")
    with literal(stored.path) as path:
        reader = tf.train.load_checkpoint(path)
        for i, variable in enumerate(model.variables):
            name = f"model/{i}"
            if ema and id(variable) in floating:
                name, averages = f"ema/{averages}", averages + 1
            value = reader.get_tensor(f"{name}/.ATTRIBUTES/VARIABLE_VALUE")
            values.append(np.asarray(value, np.float64) if id(variable) in floating else value)
    return values


def described(steps, ema=False):
    """Returns in words which weights those of `read_weights` are.

    Args:
      steps: global steps of the checkpoints, newest first.
      ema: whether they are the moving averages.
    """
    if len(steps) == 1:
        return MOVING_AVERAGE if ema else AS_TRAINED
    return (f"mean of {'the moving averages of the weights of ' * ema}{len(steps)} checkpoints (steps "
            f"{', '.join(map(str, reversed(steps)))})")


def newest_checkpoints(checkpoint, count):
    """Returns a checkpoint and the good ones before it of the same run, newest first.

    Args:
      checkpoint: StoredCheckpoint to begin with.
      count: how many in all, at least 1.

    Raises:
      UsageError: there are fewer.
    """
    directory = os.path.dirname(checkpoint.path)
    if os.path.basename(directory) == BEST:  # The best one lies apart from those before it.
        directory = os.path.dirname(directory)
    before = [c for c in stored_checkpoints(directory) if c.step < checkpoint.step and not c.problem]
    if len(before) + 1 < count:
        steps = ", ".join(str(c.step) for c in (checkpoint, *before))
        raise UsageError(f"--average_checkpoints={count}: {directory} has {len(before) + 1} good ones up to step "
                         f"{checkpoint.step} ({steps}); train with more --keep_checkpoints")
    return [checkpoint, *before[:count - 1]]
