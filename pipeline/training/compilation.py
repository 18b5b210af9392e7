"""--xla=auto: whether XLA compiles the core of the step on GPUs, measured once a run before its first step.

The bits differ, so a run keeps what it began with (`compiled` in config.json). On CPUs it is off: compiling takes
minutes there, and steps are seldom faster.
"""
import dataclasses
import statistics
import time
from collections.abc import Callable, Mapping
from typing import Any

import tensorflow as tf

from pipeline.console import Console
from pipeline.distributed.input_distribution import uses_gpus
from pipeline.errors import UsageError
from pipeline.models.model_checks import check_compiled
from pipeline.training.experiment import Experiment
from pipeline.training.step import StepFunctions

LEAST_GAIN = 1.05  # Below, compiling takes longer than is saved.
PAIRS, SECONDS = 7, 0.3  # Measurements of both, one after the other, and the least duration of each.
MOST_STEPS = 1000


def choose(experiment: Experiment, stored: Mapping[str, Any] | None, console: Console,
           measure: Callable[[Experiment, StepFunctions], float] | None = None) -> None:
    """Lets XLA compile the step of a new run with --xla=auto on GPUs where that is faster, and says so in one line.

    Args:
      experiment: just built; its settings and steps are replaced.
      stored: config.json of the run, None for a new one.
      console: for the line.
      measure: returns how many times faster the second of two steps is; default `measured_gain`.
    """
    if stored or experiment.config.runtime.xla != "auto" or not uses_gpus(experiment.strategy):
        return
    prevented = _prevented(experiment)
    if prevented:
        console.info(f"xla     off: {prevented}")
        return
    settings = dataclasses.replace(experiment.settings, xla=True, synchronize=False)
    steps = StepFunctions(experiment.strategy, experiment.state, experiment.steps.schedule, settings,
                          image_size=experiment.steps.image_size)
    try:
        gain = (measure or measured_gain)(experiment, steps)
    except tf.errors.OpError as error:  # An operation that XLA does not know, or too little memory for both.
        console.info(f"xla     off: {str(error).splitlines()[0][:200]}")
        return
    if gain >= LEAST_GAIN:
        experiment.settings, experiment.steps = settings, steps
    console.info(f"xla     {'on' if gain >= LEAST_GAIN else 'off'}: compiled, a forward and backward pass is "
                 f"{gain:.2f} times as fast here; this run keeps it")


def _prevented(experiment):
    """Returns why the step of an experiment cannot be compiled, None where it can."""
    if experiment.workers.count > 1:
        return "it is not measured with several workers (--xla=on)"
    if experiment.strategy.num_replicas_in_sync == 1:
        return None
    if experiment.config.model.sync_batch_norm:
        return "batch statistics over several replicas are a collective, which cannot be compiled (--nosync_batch_norm)"
    try:
        check_compiled(experiment.state.model, experiment.config.model.model)
    except UsageError as error:
        return str(error)
    return None


def measured_gain(experiment: Experiment, compiled: StepFunctions) -> float:
    """Returns how many times faster the forward and backward pass of the first batch is with other functions.

    Nothing is applied: the state of the run is untouched.

    Raises:
      tf.errors.OpError: they cannot be compiled, or do not fit.
    """
    iterator = experiment.train_iterator(0) if experiment.resident else experiment.steps.input_distributor.iterator(
        experiment.train_dataset(0).take(1).cache().repeat())

    def seconds(steps, count):
        began = time.perf_counter()
        steps.partial_steps["backward"](iterator, tf.constant(count)).numpy()
        return time.perf_counter() - began

    both = (experiment.steps, compiled)
    for steps in both:
        seconds(steps, 1)  # Traces and compiles it.
    count = min(MOST_STEPS, max(1, round(SECONDS / max(min(seconds(steps, 1) for steps in both), 1e-6))))
    pairs = [[seconds(steps, count) for steps in both] for _ in range(PAIRS)]
    return statistics.median(plain / fast for plain, fast in pairs)
