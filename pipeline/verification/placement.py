"""What a step copies between a GPU and its host, read from its graph.

An operation without a GPU kernel for its types is computed on the host, and kernels want single inputs and outputs in
host memory, as those of int32 do. Each tensor that is made in one memory and read in the other is copied. What is
copied to the host stops the GPU: the host waits for what was computed before, and the GPU for what comes after.
"""
import dataclasses
import math
import re
from collections.abc import Sequence
from typing import Any

import tensorflow as tf

from pipeline.device_scope import HOST_SCOPE
from pipeline.internals.tensorflow_internals import called_graph
from pipeline.monitoring.operations import called_functions
from pipeline.verification.gpu_kernels import compiles_for_gpus, gpu_kernel

# Where a tensor is. FREE: constants, and what follows from them alone: made where they are read.
HOST, DEVICE, FREE = "host", "device", "free"
CALLS, LOOPS, BRANCHES = (("PartitionedCall", "StatefulPartitionedCall"), ("While", "StatelessWhile"),
                          ("If", "StatelessIf", "Case", "StatelessCase"))
NUMBER_BYTES = 8  # Of a number of bookkeeping; anything larger is data.
COMPILED = "_XlaMustCompile"
_MEANT_FOR_HOST = re.compile(rf"(^|/){HOST_SCOPE}(_\d+)?/")
UNSIZED = (tf.resource, tf.variant, tf.string)  # Handles and lists of tensors, which are not copied.


@dataclasses.dataclass(frozen=True)
class Crossing:
    """One tensor that is copied in each step.

    Attributes:
      operation: type of the operation for which it is copied ("RandomIndexShuffle").
      name: of that operation in the graph, with the names of layers.
      dtype, shape: of the tensor; the shape is None where it is unknown.
      to_host: whether it is copied to the host, else to the GPU.
      has_kernel: whether the operation is computed by the GPU, and only reads or writes this in host memory.
    """

    operation: str
    name: str
    dtype: str
    shape: tuple[int, ...] | None
    to_host: bool
    has_kernel: bool

    @property
    def is_data(self) -> bool:
        """Whether it is in the way: anything but single numbers, and what the host makes of numbers of its own.

        Such as the order of examples, which it sends ahead.
        """
        if self.bytes is not None and self.bytes <= NUMBER_BYTES:
            return False
        return self.to_host or not (self.has_kernel or _MEANT_FOR_HOST.search(self.name))

    @property
    def bytes(self) -> int | None:
        """Its size, None where the shape is unknown."""
        return None if self.shape is None else math.prod(self.shape) * tf.as_dtype(self.dtype).size


@dataclasses.dataclass(frozen=True)
class Placement:
    """What was found in a graph.

    Attributes:
      fed: (dtype, shape) of the tensors of its batches that are sent to the GPU ahead, while it computes.
      crossings: the tensors that are copied besides.
      uncompiled: (type, name) of operations in compiled functions that XLA has no kernel for.
    """

    fed: list[tuple[str, tuple[int | None, ...]]]
    crossings: list[Crossing]
    uncompiled: list[tuple[str, str]]


def placement(function: Any, prefetched: bool) -> Placement:
    """Follows the tensors of a concrete function, whose body of a loop is one step, as TensorFlow would place them.

    Where the graph was traced says nothing: only operations of pipeline.device_scope.on_host are meant for the host.
    What the function is called with is where control flow holds it, and what its caller fetches is left out.

    Args:
      function: tf.types.experimental.ConcreteFunction, traced for a GPU.
      prefetched: whether the batches of its iterator are sent to the GPU ahead, see InputDistributor.
    """
    flow, graph = _Flow(prefetched), function.graph
    flow.follow(graph, [_Location(HOST if tensor.dtype == tf.int32 else DEVICE) for tensor in graph.inputs])
    return Placement(flow.fed, list(flow.crossings.values()), list(flow.uncompiled))


@dataclasses.dataclass(frozen=True)
class _Location:
    """Where a tensor is, and the operation that put it there, as Crossing names it."""

    place: str
    operation: str = ""
    name: str = ""
    has_kernel: bool = True


class _Flow:
    """Follows tensors through a graph and the functions that it calls."""

    def __init__(self, prefetched: bool) -> None:
        self._prefetched = prefetched
        self.fed: list[tuple[str, tuple[int | None, ...]]] = []
        self.crossings: dict[tuple, Crossing] = {}
        self.uncompiled: dict[tuple[str, str], None] = {}

    def follow(self, graph: Any, given: Sequence[_Location], path: str = "") -> list[_Location]:
        """Returns where the outputs of a graph are, whose inputs are at `given`; `path`: names of the calls to it."""
        where = {tensor.name: location for tensor, location in zip(graph.inputs, given, strict=True)}
        for op in graph.get_operations():
            if op.type == "Placeholder":
                continue
            read = [(tensor, where[tensor.name]) for tensor in op.inputs]
            if op.type in LOOPS:
                made = self._loop(op, graph, read, path)
            elif op.type in BRANCHES:
                made = self._branches(op, graph, read, path)
            elif op.type in CALLS:
                made = self._call(op, graph, read, path)
            else:
                made = self._kernel(op, read, path)
            where.update((tensor.name, location) for tensor, location in zip(op.outputs, made, strict=True))
        return [where[tensor.name] for tensor in graph.outputs]

    def _loop(self, op, graph, read, path):
        """Follows a loop, whose variables stay where they are from one pass to the next."""
        variables = self._held(op, read, path)
        for attribute in ("cond", "body"):
            name = op.get_attr(attribute).name
            body = called_graph(graph, name)
            found = self.follow(body, variables, f"{path}{op.name}/")
            if attribute == "body":
                self._held(op, list(zip(body.outputs, found, strict=True)), path)
            else:
                self._move(body.outputs[0], found[0], HOST, op, True, path)
        return variables

    def _branches(self, op, graph, read, path):
        """Follows the branches of a condition, which the host chooses from."""
        self._move(*read[0], HOST, op, True, path)
        given, made = self._held(op, read[1:], path), []
        for name in called_functions(op):
            branch = called_graph(graph, name)
            found = self.follow(branch, given, f"{path}{op.name}/")
            made = self._held(op, list(zip(branch.outputs, found, strict=True)), path)
        return made

    def _held(self, op, read, path):
        """Returns where control flow holds tensors: int32 on the host, constants on the GPU from then on."""
        held = []
        for tensor, location in read:
            place = HOST if tensor.dtype == tf.int32 else DEVICE
            self._move(tensor, location, place, op, True, path)
            held.append(location if location.place == place else _Location(place, op.type, op.name))
        return held

    def _call(self, op, graph, read, path):
        """Follows a call, which is replaced by what it calls unless XLA compiles it."""
        called, inside = called_graph(graph, op.get_attr("f").name), f"{path}{op.name}/"
        if not _is_compiled(op):
            return self.follow(called, [location for _, location in read], inside)
        for tensor, location in read:
            self._move(tensor, location, DEVICE, op, True, path)
        self._compile(called, inside)
        return [_Location(DEVICE, op.type, op.name)] * len(op.outputs)

    def _compile(self, graph, path):
        """Looks up XLA's kernels for what is compiled."""
        for op in graph.get_operations():
            names = called_functions(op)
            for name in names:
                self._compile(called_graph(graph, name), f"{path}{op.name}/")
            if not names and op.type not in ("Placeholder", "NoOp") and not compiles_for_gpus(op):
                self.uncompiled[op.type, path + op.name] = None

    def _kernel(self, op, read, path):
        """Moves what one operation reads to where its kernel reads it; returns where the kernel leaves its outputs."""
        if op.type == "Identity":  # Removed before the graph runs.
            return [location for _, location in read]
        if read and all(location.place == FREE for _, location in read) or op.type == "Const":
            if not op.op_def.is_stateful:
                return [_Location(FREE)] * len(op.outputs)
        of_iterator = "Iterator" in op.type and not self._prefetched
        if "GetNext" in op.type and self._prefetched:
            self.fed += [(tensor.dtype.name, tuple(tensor.shape)) for tensor in op.outputs]
        memory = None if of_iterator or _MEANT_FOR_HOST.search(op.name) else gpu_kernel(op)
        for index, (tensor, location) in enumerate(read):
            on_host = memory is None or memory.inputs[index]
            self._move(tensor, location, HOST if on_host else DEVICE, op, memory is not None, path)
        return [_Location(HOST if memory is None or memory.outputs[index] else DEVICE, op.type, path + op.name,
                          memory is not None) for index in range(len(op.outputs))]

    def _move(self, tensor, location, place, op, has_kernel, path):
        """Notes that a tensor is read at a place, for which it may have to be copied: once for all that read it there.

        The operation that is named is the one on the host.
        """
        if location.place in (FREE, place) or tensor.dtype in UNSIZED:
            return
        to_host = place == HOST
        named = (op.type, path + op.name, has_kernel) if to_host else (
            location.operation, location.name, location.has_kernel)
        shape = tuple(tensor.shape) if tensor.shape.is_fully_defined() else None
        self.crossings.setdefault((path, tensor.name, place), Crossing(
            named[0], named[1], tensor.dtype.name, shape, to_host, named[2]))


def _is_compiled(op):
    try:
        return bool(op.get_attr(COMPILED))
    except ValueError:
        return False
