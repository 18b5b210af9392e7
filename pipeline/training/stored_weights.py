"""Weights from checkpoints, without the rest of the training state."""
import os
from collections.abc import Sequence

import keras
import numpy as np
import tensorflow as tf

from pipeline.config import AS_TRAINED, MOVING_AVERAGE
from pipeline.errors import UsageError
from pipeline.paths import literal
from pipeline.stored_checkpoint import BEST, StoredCheckpoint, check_specs, find_checkpoint, stored_checkpoints
from pipeline.training.state import averaged, specs

READS = 5  # Attempts, since a concurrent training may remove a checkpoint while it is read.


def load_weights(model: keras.Model, directory: str, name: str, ema: bool = False,
                 average: int = 1) -> list[StoredCheckpoint]:
    """Loads the weights of a checkpoint, or the mean of several, into a model.

    Checkpoints are looked up again if a concurrent training removes one while it is read.

    Args:
      model: built.
      directory: `checkpoints/` of a run.
      name: see stored_checkpoint.find_checkpoint.
      ema: load the moving averages of the weights instead.
      average: number of checkpoints to average, the named one and those before it.

    Returns:
      The checkpoints, latest first.

    Raises:
      UsageError: there are none of that name, too few, or they do not fit.
    """
    for attempt in range(1, READS + 1):
        found = latest_checkpoints(find_checkpoint(directory, name), average)
        try:
            read_weights(model, found, ema)
            break
        except Exception:
            if attempt == READS or not any(checkpoint.gone for checkpoint in found):
                raise
    return found


def read_weights(model: keras.Model, checkpoints: Sequence[StoredCheckpoint], ema: bool = False) -> None:
    """Assigns the weights of a checkpoint, or the mean of several, to a model.

    The mean is taken in float64 over float variables, including moving statistics; other variables are those of the
    latest checkpoint.

    Args:
      model: built.
      checkpoints: good ones, latest first.
      ema: read the moving averages of the weights instead.

    Raises:
      UsageError: a checkpoint is of another model, or has no moving averages.
    """
    totals: list[np.ndarray] = []
    for stored in checkpoints:
        check_specs(stored, {"model": specs(model.variables)})
        values = _read(stored, model, ema)
        totals = values if not totals else [
            total + value if np.issubdtype(total.dtype, np.floating) else total
            for total, value in zip(totals, values, strict=True)]
    for variable, total in zip(model.variables, totals, strict=True):
        floating = np.issubdtype(total.dtype, np.floating)
        variable.assign(total / len(checkpoints) if floating else total)


def _read(stored, model, ema):
    """Returns the values of the variables of a model in a checkpoint, in order; float ones as float64."""
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


def described(steps: Sequence[int], ema: bool = False) -> str:
    """Describes the weights that `read_weights` reads.

    Args:
      steps: of the checkpoints, latest first.
      ema: whether they are the moving averages.
    """
    if len(steps) == 1:
        return MOVING_AVERAGE if ema else AS_TRAINED
    return (f"mean of {'the moving averages of the weights of ' * ema}{len(steps)} checkpoints (steps "
            f"{', '.join(map(str, reversed(steps)))})")


def latest_checkpoints(checkpoint: StoredCheckpoint, count: int) -> list[StoredCheckpoint]:
    """Returns a checkpoint and the good ones before it of the same run, `count` in all, latest first.

    Raises:
      UsageError: there are fewer.
    """
    directory = os.path.dirname(checkpoint.path)
    if os.path.basename(directory) == BEST:  # The earlier ones are in the parent folder.
        directory = os.path.dirname(directory)
    before = [c for c in stored_checkpoints(directory) if c.step < checkpoint.step and not c.problem]
    if len(before) + 1 < count:
        steps = ", ".join(str(c.step) for c in (checkpoint, *before))
        raise UsageError(f"--average_checkpoints={count}: {directory} has {len(before) + 1} good ones up to step "
                         f"{checkpoint.step} ({steps}); train with more --keep_checkpoints")
    return [checkpoint, *before[:count - 1]]
