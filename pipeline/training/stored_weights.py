"""Weights from checkpoints, without the rest of a run's state."""
import numpy as np
import tensorflow as tf

from pipeline.errors import UsageError
from pipeline.training.state import averaged, specs
from pipeline.training.stored_checkpoint import check_specs, stored_checkpoints


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
    reader, values, averages = tf.train.load_checkpoint(stored.path), [], 0
    floating = {id(v) for v in averaged(model)}
    if ema and not stored.specs["ema"]:
        raise UsageError(f"{stored.path} has no moving average of the weights; train with --ema_decay=0.999")
    for i, variable in enumerate(model.variables):
        name = f"model/{i}"
        if ema and id(variable) in floating:
            name, averages = f"ema/{averages}", averages + 1
        value = reader.get_tensor(f"{name}/.ATTRIBUTES/VARIABLE_VALUE")
        values.append(np.asarray(value, np.float64) if id(variable) in floating else value)
    return values


def newest_checkpoints(directory, checkpoint, count):
    """Returns a checkpoint and the good ones before it, newest first.

    Args:
      directory: `checkpoints/` of a run.
      checkpoint: StoredCheckpoint to begin with.
      count: how many in all, at least 1.

    Raises:
      UsageError: there are fewer.
    """
    before = [c for c in stored_checkpoints(directory) if c.step < checkpoint.step and not c.problem]
    if len(before) + 1 < count:
        steps = ", ".join(str(c.step) for c in (checkpoint, *before))
        raise UsageError(f"--average_checkpoints={count}: {directory} has {len(before) + 1} good ones up to step "
                         f"{checkpoint.step} ({steps}); train with more --keep_checkpoints")
    return [checkpoint, *before[:count - 1]]
