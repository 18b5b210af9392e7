"""The step and the evaluation of a configuration, traced for GPUs, whether there are any or not, and what they copy."""
import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import tensorflow as tf

from pipeline import extension
from pipeline.config import ExperimentConfig
from pipeline.console import Console
from pipeline.data.load import load
from pipeline.data.stream import check_batch_size
from pipeline.distributed import auto_precision, devices
from pipeline.errors import UsageError
from pipeline.quantities import counted
from pipeline.training.experiment import Experiment, build
from pipeline.verification.gpu_kernels import has_registry
from pipeline.verification.installation import OK, PROBLEM, Finding
from pipeline.verification.placement import Placement, placement


@dataclasses.dataclass(frozen=True)
class PlacedFunction:
    """What one function copies in each step.

    Attributes:
      title: "step" of the training, or "eval" for a batch of an evaluation.
      placement: what is copied, and what XLA does not compile.
      fetched: (dtype, shape) of what its caller fetches once a window, for one step.
    """

    title: str
    placement: Placement
    fetched: tuple[tuple[str, tuple[int | None, ...]], ...]

    @property
    def problems(self) -> int:
        """Number of copies that are in the way of the data, and of operations that XLA does not compile."""
        return sum(crossing.is_data for crossing in self.placement.crossings) + len(self.placement.uncompiled)


def trace(config: ExperimentConfig, console: Console) -> list[PlacedFunction]:
    """Traces the training step and the evaluation of a configuration for one GPU, or for --replicas of them.

    Args:
      config: any; --force is implied, as nothing is computed.
      console: for messages.

    Returns:
      What both copy: the step and a batch of the evaluation.

    Raises:
      UsageError: this TensorFlow has no registry of GPU kernels, or training would refuse the configuration too.
    """
    if not has_registry():
        raise UsageError("this TensorFlow is built for CPUs alone and does not know the kernels of GPUs: install "
                         "tensorflow for Linux on x86-64, whose package has them, also for a machine without a GPU")
    extension.load(config.data.extension)
    replicas = config.runtime.replicas or 1
    check_batch_size(config.training.batch_size, replicas, config.optimizer.accumulate_steps)
    there = len(tf.config.list_physical_devices("GPU")) >= replicas
    config = config.replace(force=True, replicas=replicas if there else 1, precision=auto_precision.resolved(config))
    strategy = devices.start(config.runtime, config.training, config.optimizer, console)
    source = load(config.data, config.training.batch_size, console)
    if not there:  # TensorFlow computes on the CPU what is to be placed on a GPU that is not there.
        strategy = tf.distribute.MirroredStrategy([f"GPU:{index}" for index in range(replicas)])
    experiment = build(config, source, strategy, tries_reduction=False)
    experiment.check_batches()
    return [_step(experiment), _evaluation(experiment)]


def _step(experiment: Experiment) -> PlacedFunction:
    function = experiment.steps.train_steps.get_concrete_function(experiment.train_iterator(0), tf.constant(1))
    return _placed("step", experiment, function)


def _evaluation(experiment: Experiment) -> PlacedFunction:
    inference = experiment.steps.inference
    function = inference.evaluate_steps.get_concrete_function(
        experiment.evaluation_iterator(experiment.watched), tf.constant(1), tf.zeros([inference.num_sums], tf.float64))
    return _placed("eval", experiment, function)


def _placed(title: str, experiment: Experiment, function: Any) -> PlacedFunction:
    fetched = tuple((tensor.dtype.name, tuple(tensor.shape)) for tensor in function.outputs)
    return PlacedFunction(title, placement(function, experiment.steps.input_distributor.distributes), fetched)


def findings(placed: Sequence[PlacedFunction], compiled: bool) -> list[Finding]:
    """Returns what a configuration copies as lines of a report; `compiled`: whether XLA compiles part of the step."""
    return [line for function in placed for line in _lines(function, compiled)]


def _lines(function, compiled):
    """Yields the findings about one function, of which the data and what XLA lacks are problems."""
    name, found = function.title, function.placement
    if found.fed:
        size = sum(_size(dtype, shape) or 0 for dtype, shape in found.fed)
        batch = ", ".join(_tensor(*one) for one in found.fed)
        yield Finding(f"{name} in", OK, f"{batch}: {size / 1024:,.1f} KiB, sent ahead while the GPU computes")
    numbers = [one for one in found.crossings if not one.is_data]
    for to_host, words in ((True, "to the host, which waits for each"), (False, "from the host")):
        some = [one for one in numbers if one.to_host == to_host]
        if some:
            each = ", ".join(f"{one.operation} {_name(one.name)} ({_tensor(one.dtype, one.shape)})" for one in some)
            yield Finding(f"{name} numbers", OK, f"{counted(len(some), 'tensor')} {words}: {each}")
    for one in found.crossings:
        if one.is_data:
            size = "unknown size" if one.bytes is None else f"{one.bytes:,} bytes"
            why = "its GPU kernel wants them in host memory" if one.has_kernel else "has no GPU kernel for its types"
            way = "to" if one.to_host else "from"
            yield Finding(f"{name} data", PROBLEM, f"{one.operation} {_name(one.name)} {why}: "
                          f"{_tensor(one.dtype, one.shape)}, {size} {way} the host each time")
    if compiled:
        for operation, where in found.uncompiled:
            yield Finding(f"{name} XLA", PROBLEM, f"XLA has no kernel for {operation} {_name(where)} on GPUs",
                          "--xla=off")
    yield Finding(f"{name} out", OK, f"{', '.join(_tensor(*one) for one in function.fetched)}: fetched once a window")


def _name(name):
    """Returns the name of an operation without the loop over the steps."""
    return name.removeprefix("while/").removeprefix("while/")


def _tensor(dtype, shape):
    """Returns a tensor as text: "uint8 64x28x28x3", "bool"."""
    if shape is None:
        return f"{dtype} of unknown shape"
    sizes = "x".join(str(size) for size in shape if size is not None)
    return f"{dtype} {sizes}{' a step' if None in shape else ''}".strip()


def _size(dtype, shape):
    return None if None in shape else math.prod(shape) * tf.as_dtype(dtype).size
