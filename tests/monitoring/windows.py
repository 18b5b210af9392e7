"""What a trainer hands to the callbacks, made of chosen numbers."""
import types

import numpy as np

from pipeline.callbacks import Evaluated, Window

COLUMNS = ("loss", "accuracy", "learning_rate", "gradient_norm", "loss_scale", "applied", "weight_norm",
           "update_ratio", "input_wait")
USUAL = {"loss": 1.0, "accuracy": 0.5, "learning_rate": 1e-3, "gradient_norm": 2.0, "loss_scale": 1.0, "applied": 1.0,
         "weight_norm": np.nan, "update_ratio": np.nan, "input_wait": 0.0}


def window(step, count=1, seconds=1.0, steady=True, system=(), **columns):
    """Returns a Window of `count` steps that ends at `step`, unremarkable but for the given columns.

    Args:
      step, count, seconds, steady: see Window.
      system: {name: float} about the machine.
      **columns: a number, or one a step.
    """
    rows = np.stack([np.broadcast_to({**USUAL, **columns}[name], count) for name in COLUMNS], axis=1).astype(float)
    return Window(step, COLUMNS, rows, 1000.0, seconds, steady=steady, system=dict(system))


def evaluated(step, evaluation, split="test", wall_time=1000.0):
    """Returns an Evaluated of a split, given by its name."""
    return Evaluated(step, types.SimpleNamespace(name=split), evaluation, wall_time)
