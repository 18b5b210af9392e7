"""The learning-rate range test: the production step on the production stream while the rate rises from step to step."""
import dataclasses
import math
from collections.abc import Callable

import numpy as np
import tensorflow as tf

from pipeline.finding.suggestions import DIVERGED, RangeCurve, last_mean
from pipeline.training.experiment import Experiment
from pipeline.training.step import TRAIN_COLUMNS, StepFunctions

LOSS, APPLIED = TRAIN_COLUMNS.index("loss"), TRAIN_COLUMNS.index("applied")


def range_test(experiment: Experiment, lowest: float, highest: float, steps: int,
               report: Callable[[int], None] = lambda step: None) -> RangeCurve:
    """Trains a few steps from the first one on, each with a higher learning rate, and records their losses.

    The schedule and its warm-up are left out; whatever else a training does is as in its first steps. The test ends
    early where the loss or a gradient is not finite, or where the smoothed loss is DIVERGED times its lowest.

    Args:
      experiment: with a fresh state, which is of no more use afterwards.
      lowest, highest: learning rates of the first and of the last step, > 0; in between they rise exponentially.
      steps: how many, at least 2.
      report: called with the number of steps done.
    """
    rates = np.geomspace(lowest, highest, steps)
    table = tf.constant(rates, tf.float32)
    functions = StepFunctions(experiment.strategy, experiment.state, lambda step: tf.gather(table, step),
                              experiment.settings)
    experiment = dataclasses.replace(experiment, steps=functions)
    experiment.enter_phase(0)
    iterator, losses, ending, best = experiment.train_iterator(0), [], "", math.inf
    for step in range(steps):
        row = functions.train_steps(iterator, tf.constant(1)).numpy()[0]
        # With a loss scale, the first steps may be skipped until it fits.
        if not math.isfinite(row[LOSS]) or not (row[APPLIED] or experiment.settings.scale_loss):
            ending = "not finite"
            break
        losses.append(float(row[LOSS]))
        report(step + 1)
        mean = last_mean(losses, steps)
        best = min(best, mean)
        if mean - best > (DIVERGED - 1) * abs(best):
            ending = f"{DIVERGED:g} times its lowest"
            break
    return RangeCurve(rates[:len(losses)], np.array(losses, np.float64), steps, lowest, ending)
