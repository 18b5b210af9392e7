"""Measures one cell: the throughput of the training step of an experiment, and where its time goes.

What is timed are `train_steps` and `partial_steps` of the experiment, on its own stream.
"""
import dataclasses
import math
import resource
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from pipeline.distributed.reduction import is_averaged
from pipeline.internals.keras_internals import layers_of
from pipeline.models.normalization import BatchNormalization
from pipeline.monitoring import operations
from pipeline.monitoring.goodput import process_age
from pipeline.training.experiment import Experiment
from pipeline.training.state import TrainState
from pipeline.training.step import PHASES, SUMS, TRAIN_COLUMNS, StepFunctions

APPLIED, LOSS = TRAIN_COLUMNS.index("applied"), TRAIN_COLUMNS.index("loss")
MIB = 2**20
Agree = Callable[[float], float]  # Returns the chief's value of a number; every worker has to call it.
FIRST_LOSSES = 4  # Reported to identify the computation; warming up takes at least as many steps.
MOST_CALLS = 300
PARTIAL_SECONDS = 0.02  # Of one call of a partial step, much longer than the overhead of a call.
PARTIAL_ROUNDS = (5, 25)


@dataclasses.dataclass(frozen=True)
class Extent:
    """How long a cell is measured.

    Attributes:
      repeats: windows of many steps, for the throughput.
      repeat_seconds: length of each.
      calls: least number of calls of a single step, for the percentiles.
    """

    repeats: int = 5
    repeat_seconds: float = 1.0
    calls: int = 30


class Feed:
    """The training step on one iterator; counts its steps, applied updates and first losses."""

    def __init__(self, train_steps: Callable[..., Any], iterator: Any):
        self.train_steps, self.iterator = train_steps, iterator
        self.steps, self.applied = 0, 0.0
        self.losses: list[float] = []

    def run(self, count: int) -> float:
        """Runs `count` steps in one call; returns the seconds until the host has the results."""
        began = time.perf_counter()
        rows = self.train_steps(self.iterator, tf.constant(count)).numpy()
        seconds = time.perf_counter() - began
        self.steps += count
        self.applied += rows[:, APPLIED].sum()
        self.losses += rows[:FIRST_LOSSES - len(self.losses), LOSS].tolist()
        return seconds


def measure(experiment: Experiment, extent: Extent,
            report: Callable[[str], None] = lambda text: None) -> dict[str, Any]:
    """Measures an experiment that was just built, in a process that does nothing else.

    Each of several workers measures by its own clock; the chief's clock decides the number of steps for all.

    Calls `report` with the name of each phase.

    Returns:
      The figures of a cell in benchmark.json, by name: examples/s, ms, seconds, MiB, bytes, operations.
    """
    steps, batch_size, agree = experiment.steps, experiment.plan.batch_size, experiment.workers.first
    report("tracing")
    real = Feed(steps.train_steps, experiment.train_iterator(0))
    began = time.perf_counter()
    graph = steps.train_steps.get_concrete_function(real.iterator, tf.constant(1)).graph
    found: dict[str, Any] = {"trace_seconds": time.perf_counter() - began}
    report("first step")
    first_call = real.run(1)
    found["first_step_seconds"] = process_age()
    report("warming up")
    step = warm_up(real, extent, agree)
    found["compile_seconds"] = max(0.0, first_call - step) if experiment.settings.xla else None
    report("single steps")
    found["step_ms"] = percentiles([real.run(1) for _ in range(int(agree(single_calls(step, extent))))])
    report("throughput")
    ready = Feed(steps.train_steps, one_batch(experiment))
    ready.run(1)
    found.update(throughput(real, ready, step, batch_size, extent, agree))
    if experiment.resident:
        found["input_wait_share"] = 0.0  # A batch is made by the step itself.
    found["examples_per_second_per_replica"] = found["examples_per_second"] / experiment.strategy.num_replicas_in_sync
    found["peak_memory_mib"] = peak_memory(experiment.strategy)
    report("parts of a step")
    found["split_ms"] = split(steps, ready, extent, 1e3 * batch_size / found["examples_per_second"], agree)
    counted = operations.count(graph)  # Of this process's replicas.
    found["flops_per_example"] = counted and counted * experiment.workers.count / batch_size
    found.update(reduction_bytes(experiment.state, experiment.settings.compute_dtype))
    found["statistics_reductions"] = statistics_reductions(experiment) if (
        experiment.config.model.sync_batch_norm) else None
    found["first_losses"] = real.losses
    found["applied_share"] = (real.applied + ready.applied) / (real.steps + ready.steps)
    return found


def one_batch(experiment: Experiment) -> Any:
    """Returns an iterator that repeats the stream's first batch from memory."""
    return experiment.steps.input_distributor.iterator(experiment.train_dataset(0).take(1).cache().repeat())


def warm_up(feed: Feed, extent: Extent, agree: Agree) -> float:
    """Runs single steps to warm up; returns the seconds of one."""
    seconds: list[float] = []
    deadline = time.perf_counter() + max(0.2, extent.repeat_seconds / 2)
    while agree(len(seconds) < FIRST_LOSSES or (time.perf_counter() < deadline and len(seconds) < MOST_CALLS)):
        seconds.append(feed.run(1))
    return float(np.median(seconds[len(seconds) // 2:]))


def single_calls(step: float, extent: Extent) -> int:
    """Returns the number of calls of a single step to measure, where a step takes `step` seconds."""
    return int(np.clip(2 * extent.repeat_seconds / step, extent.calls, max(MOST_CALLS, extent.calls)))


def percentiles(seconds: Sequence[float]) -> dict[str, float]:
    """Returns {"p50", "p90", "p99"} in ms."""
    return {f"p{q}": float(np.percentile(seconds, q)) * 1e3 for q in (50, 90, 99)}


def throughput(real: Feed, ready: Feed, step: float, batch_size: int, extent: Extent,
               agree: Agree) -> dict[str, Any]:
    """Measures windows of many steps, alternating between the stream and one batch in memory.

    Untimed steps precede each window, since the stream has prefetched batches meanwhile.

    Args:
      real, ready: of the stream, and of a batch in memory.
      step: approximate seconds of one step.
      batch_size: examples of one step.
      extent, agree: see `measure`.

    Returns:
      Figures in examples/s, and the share of the time that is spent waiting for the stream.
    """
    count = int(agree(max(1, round(extent.repeat_seconds / step))))
    step = min(feed.run(count) / count for feed in (real, ready))  # Less than a call of one step takes.
    count = int(agree(max(1, round(extent.repeat_seconds / step))))
    lead = count // 5
    rates, ready_rates, waits = [], [], []
    for _ in range(extent.repeats):
        seconds = []
        for feed in (real, ready):
            if lead:
                feed.run(lead)
            seconds.append(feed.run(count))
        rates.append(count * batch_size / seconds[0])
        ready_rates.append(count * batch_size / seconds[1])
        waits.append(1 - seconds[1] / seconds[0])
    return {"examples_per_second": float(np.median(rates)), "spread": [min(rates), max(rates)], "repeats": rates,
            "synthetic_examples_per_second": float(np.median(ready_rates)), "steps_per_repeat": count,
            "input_wait_share": max(0.0, float(np.median(waits)))}


def peak_memory(strategy: Any) -> dict[str, float | None]:
    """Returns the peak {"host", "device"} memory of the process in MiB, device that of the fullest GPU or None."""
    gpus = [device for device in strategy.extended.worker_devices if "GPU" in device]
    peaks = [tf.config.experimental.get_memory_info(device[device.index("GPU"):])["peak"] for device in gpus]
    host = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024  # Linux counts in KiB.
    return {"host": host, "device": max(peaks) / MIB if peaks else None}


def split(steps: StepFunctions, ready: Feed, extent: Extent, whole: float,
          agree: Agree) -> dict[str, float]:
    """Measures the phases of a step as differences of the times to compute it up to the end of each.

    Returns {phase: ms, "update": ms, "rest": ms}, none below 0, which add up to `whole`, the ms of a step of the
    stream; `ready` is of a batch in memory, and `rest` what the phases do not explain, such as waiting for input.
    """
    def timed(function: Callable[..., Any]) -> Callable[[int], float]:
        def call(count):
            began = time.perf_counter()
            function(ready.iterator, tf.constant(count)).numpy()
            return time.perf_counter() - began
        return call

    calls = {phase: timed(steps.partial_steps[phase]) for phase in PHASES} | {"update": ready.run}
    for call in calls.values():
        call(1)
    count = int(agree(max(1, math.ceil(PARTIAL_SECONDS / (whole / 1e3)))))
    round_seconds = sum(call(count) for call in calls.values())
    rounds = int(agree(np.clip(2 * extent.repeat_seconds / round_seconds, *PARTIAL_ROUNDS)))
    seconds = [[call(count) / count for call in calls.values()] for _ in range(rounds)]
    return differences(dict(zip(calls, 1e3 * np.median(seconds, axis=0), strict=True)), whole)


def differences(reached: Mapping[str, float], whole: float) -> dict[str, float]:
    """Returns the ms that each phase adds, from {phase: ms up to its end} in order, and the rest of `whole`."""
    full, before, parts = list(reached.values())[-1], 0.0, {}
    for phase, until in reached.items():
        until = max(before, min(float(until), float(full)))
        parts[phase], before = until - before, until
    return {**parts, "rest": max(0.0, whole - before)}


def reduction_bytes(state: TrainState, dtype: Any) -> dict[str, int]:
    """Returns the bytes of the gradients, and of one packed reduction of this dtype over replicas."""
    model = state.model

    def elements(variables):
        return sum(math.prod(v.shape) for v in variables)

    gradients = sum(math.prod(v.shape) * tf.as_dtype(v.dtype).size for v in model.trainable_variables)
    averaged = [v for v in state.changing(model.non_trainable_variables) if is_averaged(tf.convert_to_tensor(v.value))]
    reduced = (elements(model.trainable_variables) + elements(averaged) + len(SUMS)) * tf.as_dtype(dtype).size
    return {"gradient_bytes": gradients, "reduced_bytes": reduced}


def statistics_reductions(experiment: Experiment) -> dict[str, int]:
    """Returns {"count", "bytes"} of the reductions a step by which several replicas synchronize batch statistics.

    In every micro-batch each layer reduces two sums a channel and a number of values in the forward pass, in float64,
    and two sums a channel in the backward pass; see pipeline.models.moments.batch_moments and
    pipeline.models.normalization.normalization_over_replicas. The experiment may have any number of replicas.
    """
    layers = [layer for layer in layers_of(experiment.state.model)
              if isinstance(layer, BatchNormalization) and layer.trainable]

    def reduced(layer):
        channels = layer.moving_mean.shape[0]
        forward = (2 * channels + 1) * tf.float64.size
        # In float64 the backward pass reduces the gradient of what the forward pass did.
        return forward + (forward if layer.variable_dtype == "float64" else 2 * channels * tf.float32.size)

    micro_batches = experiment.settings.micro_batches
    return {"count": 2 * micro_batches * len(layers), "bytes": micro_batches * sum(map(reduced, layers))}
