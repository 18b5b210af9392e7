"""One cell: how fast the production step of an experiment is, and where its time goes.

Nothing here computes a step. `train_steps` and `partial_steps` of the experiment do, on the experiment's own stream.
"""
import dataclasses
import math
import resource
import time

import numpy as np
import tensorflow as tf

from pipeline.distributed.reduction import is_averaged
from pipeline.internals.keras_internals import layers_of
from pipeline.models.normalization import BatchNormalization
from pipeline.monitoring import operations
from pipeline.monitoring.goodput import process_age
from pipeline.training.step import PHASES, SUMS, TRAIN_COLUMNS

APPLIED, LOSS = TRAIN_COLUMNS.index("applied"), TRAIN_COLUMNS.index("loss")
MIB = 2**20
FIRST_LOSSES = 4  # Kept as evidence of which computation was measured; warming up takes at least as many steps.
MOST_CALLS = 300
PARTIAL_SECONDS = 0.02  # Of one call of a partial step: much longer than a call costs.
PARTIAL_ROUNDS = (5, 25)


@dataclasses.dataclass(frozen=True)
class Extent:
    """How long a cell is measured.

    Attributes:
      repeats: windows of many steps, for the throughput.
      repeat_seconds: length of each.
      calls: fewest calls of one step each, for the percentiles.
    """

    repeats: int = 5
    repeat_seconds: float = 1.0
    calls: int = 30


class Feed:
    """The production step, fed by one iterator; counts what it does."""

    def __init__(self, train_steps, iterator):
        self.train_steps, self.iterator = train_steps, iterator
        self.steps, self.applied, self.losses = 0, 0.0, []

    def run(self, count):
        """Runs `count` steps in one call; returns its seconds, from the host's side, results fetched."""
        began = time.perf_counter()
        rows = self.train_steps(self.iterator, tf.constant(count)).numpy()
        seconds = time.perf_counter() - began
        self.steps += count
        self.applied += rows[:, APPLIED].sum()
        self.losses += rows[:FIRST_LOSSES - len(self.losses), LOSS].tolist()
        return seconds


def measure(experiment, extent, report=lambda text: None):
    """Measures one experiment, freshly built, in a process that does nothing else.

    Of several workers each measures by its own clock; how many steps are made, the chief's clock decides for all.

    Args:
      experiment: Experiment.
      extent: Extent.
      report: called with a few words when another part begins.

    Returns:
      The figures of a cell by name, see the schema of benchmark.json: examples/s, ms, seconds, MiB, bytes, operations.
    """
    steps, batch_size, agree = experiment.steps, experiment.plan.batch_size, experiment.workers.first
    report("tracing")
    real = Feed(steps.train_steps, experiment.train_iterator(0))
    began = time.perf_counter()
    graph = steps.train_steps.get_concrete_function(real.iterator, tf.constant(1)).graph
    found = {"trace_seconds": time.perf_counter() - began}
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
        found["input_wait_share"] = 0.0  # What a batch takes beside one that is there is work of the step.
    found["examples_per_second_per_replica"] = found["examples_per_second"] / experiment.strategy.num_replicas_in_sync
    found["peak_memory_mib"] = peak_memory(experiment.strategy)
    report("parts of a step")
    found["split_ms"] = split(steps, ready, extent, 1e3 * batch_size / found["examples_per_second"], agree)
    counted = operations.count(graph)  # Of the replicas of this process.
    found["flops_per_example"] = counted and counted * experiment.workers.count / batch_size
    found.update(reduction_bytes(experiment.state, experiment.settings.compute_dtype))
    found["statistics_reductions"] = statistics_reductions(experiment) if (
        experiment.config.model.sync_batch_norm) else None
    found["first_losses"] = real.losses
    found["applied_share"] = (real.applied + ready.applied) / (real.steps + ready.steps)
    return found


def one_batch(experiment):
    """Returns an iterator that gives the stream's first batch again and again: it is there already."""
    return experiment.steps.input_distributor.iterator(experiment.train_dataset(0).take(1).cache().repeat())


def warm_up(feed, extent, agree):
    """Runs single steps until they are steady; returns the seconds of one.

    Args:
      feed: Feed.
      extent: Extent.
      agree: function that returns the chief's value of a number, called alike in every worker.
    """
    seconds, deadline = [], time.perf_counter() + max(0.2, extent.repeat_seconds / 2)
    while agree(len(seconds) < FIRST_LOSSES or (time.perf_counter() < deadline and len(seconds) < MOST_CALLS)):
        seconds.append(feed.run(1))
    return float(np.median(seconds[len(seconds) // 2:]))


def single_calls(step, extent):
    """Returns how many calls of one step are measured, where a step takes `step` seconds."""
    return int(np.clip(2 * extent.repeat_seconds / step, extent.calls, max(MOST_CALLS, extent.calls)))


def percentiles(seconds):
    """Returns {"p50", "p90", "p99"} in ms."""
    return {f"p{q}": float(np.percentile(seconds, q)) * 1e3 for q in (50, 90, 99)}


def throughput(real, ready, step, batch_size, extent, agree):
    """Measures windows of many steps on the stream and on one batch in turns.

    Untimed steps lead into each window: while the other had its turn, the stream has made batches ahead.

    Args:
      real, ready: Feed of the stream, and of a batch that is there.
      step: seconds of one step, about.
      batch_size: examples of one step.
      extent: Extent.
      agree: see `warm_up`.

    Returns:
      Figures in examples/s, and the share of the stream's time that waits for it.
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


def peak_memory(strategy):
    """Returns {"host", "device"} in MiB since the process began; of several GPUs the fullest, None on a CPU."""
    gpus = [device for device in strategy.extended.worker_devices if "GPU" in device]
    peaks = [tf.config.experimental.get_memory_info(device[device.index("GPU"):])["peak"] for device in gpus]
    host = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024  # Linux counts in KiB.
    return {"host": host, "device": max(peaks) / MIB if peaks else None}


def split(steps, ready, extent, whole, agree):
    """Tells the phases of a step apart, by what it takes to compute it up to each of them.

    Args:
      steps: StepFunctions.
      ready: Feed of a batch that is there.
      extent: Extent.
      whole: ms of a step of the stream.
      agree: see `warm_up`.

    Returns:
      {phase: ms, "update": ms, "rest": ms}, none below 0: `rest` is what of the whole the others do not explain, such
      as waiting for input.
    """
    def partial(function, count):
        began = time.perf_counter()
        function(ready.iterator, tf.constant(count)).numpy()
        return time.perf_counter() - began

    calls = {phase: lambda n, f=steps.partial_steps[phase]: partial(f, n) for phase in PHASES}
    calls["update"] = ready.run
    for call in calls.values():
        call(1)
    count = int(agree(max(1, math.ceil(PARTIAL_SECONDS / (whole / 1e3)))))
    round_seconds = sum(call(count) for call in calls.values())
    rounds = int(agree(np.clip(2 * extent.repeat_seconds / round_seconds, *PARTIAL_ROUNDS)))
    seconds = [[call(count) / count for call in calls.values()] for _ in range(rounds)]
    return differences(dict(zip(calls, 1e3 * np.median(seconds, axis=0), strict=True)), whole)


def differences(reached, whole):
    """Returns what each phase adds to the ones before it.

    Args:
      reached: {phase: ms up to its end}, in order; the last is the full step.
      whole: ms of a step, of which `rest` is what remains.
    """
    full, before, parts = list(reached.values())[-1], 0.0, {}
    for phase, until in reached.items():
        until = max(before, min(float(until), float(full)))
        parts[phase], before = until - before, until
    return {**parts, "rest": max(0.0, whole - before)}


def reduction_bytes(state, dtype):
    """Returns the bytes of the gradients, and of what one reduction over replicas would carry.

    Args:
      state: TrainState.
      dtype: of the packed reduction.
    """
    model = state.model

    def elements(variables):
        return sum(math.prod(v.shape) for v in variables)

    gradients = sum(math.prod(v.shape) * tf.as_dtype(v.dtype).size for v in model.trainable_variables)
    averaged = [v for v in state.changing(model.non_trainable_variables) if is_averaged(tf.convert_to_tensor(v.value))]
    reduced = (elements(model.trainable_variables) + elements(averaged) + len(SUMS)) * tf.as_dtype(dtype).size
    return {"gradient_bytes": gradients, "reduced_bytes": reduced}


def statistics_reductions(experiment):
    """Returns what synchronized batch normalization reduces beside the gradients, where there are several replicas.

    Each layer reduces two sums a channel and a number of values in the forward pass, in float64, and two sums a channel
    in the backward pass, in every micro-batch; see pipeline.models.moments.batch_moments and
    pipeline.models.normalization.normalization_over_replicas.

    Args:
      experiment: Experiment, with any number of replicas.

    Returns:
      {"count": reductions a step, "bytes": of all of them together}.
    """
    layers = [layer for layer in layers_of(experiment.state.model)
              if isinstance(layer, BatchNormalization) and layer.trainable]

    def reduced(layer):
        channels = layer.gamma.shape[0]
        forward = (2 * channels + 1) * tf.float64.size
        # In float64 the backward pass reduces the gradient of what the forward pass did.
        return forward + (forward if layer.variable_dtype == "float64" else 2 * channels * tf.float32.size)

    micro_batches = experiment.settings.micro_batches
    return {"count": 2 * micro_batches * len(layers), "bytes": micro_batches * sum(map(reduced, layers))}
