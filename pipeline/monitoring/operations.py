"""Counts the floating-point operations of a training step in the graph that runs."""
import math
from collections.abc import Sequence
from typing import Any

from pipeline.internals.tensorflow_internals import called_graph

BACKPROP_INPUT = ("Conv2DBackpropInput", "DepthwiseConv2dNativeBackpropInput")
BACKPROP_FILTER = ("Conv2DBackpropFilter", "DepthwiseConv2dNativeBackpropFilter")
FORWARD = ("Conv2D", "DepthwiseConv2dNative")
BATCH_PRODUCTS = ("BatchMatMul", "BatchMatMulV2", "BatchMatMulV3")
FUNCTION_TYPES = ("func", "list(func)")
BRANCHES = ("If", "StatelessIf", "Case", "StatelessCase")


def count(graph: Any) -> float | None:
    """Counts the operations of matrix products and convolutions over all replicas, two for a multiply-add.

    Element-wise operations are left out, as is usual: they are bound by memory. The body of a loop counts once, so that
    a function of N steps has the operations of one; of branches the most expensive counts. Positions of a convolution
    on padding count like any other.

    Args:
      graph: tf.Graph of a concrete function, of static shapes.

    Returns:
      The number, or None where a shape is not known or a called function is not found.
    """
    try:
        return float(_count_graph(graph, {}))
    except _Unknown:
        return None


# Attributes that are functions, by type of operation: looking at every operation takes long.
_CALLING: dict[str, list[str]] = {}


class _Unknown(Exception):
    """A graph that cannot be counted."""


def _count_graph(graph: Any, known: dict[str, int]) -> int:
    return sum(_count_operation(op, graph, known) for op in graph.get_operations())


def _count_operation(op: Any, graph: Any, known: dict[str, int]) -> int:
    if op.type == "MatMul":
        rows = _shape(op.inputs[0])
        return 2 * _size(op.outputs[0]) * rows[0 if op.get_attr("transpose_a") else 1]
    if op.type in BATCH_PRODUCTS:
        return 2 * _size(op.outputs[0]) * _shape(op.inputs[0])[-2 if op.get_attr("adj_x") else -1]
    if op.type in FORWARD:
        return 2 * _size(op.outputs[0]) * _each_output(_shape(op.inputs[1]), op.type)
    if op.type in BACKPROP_INPUT:  # (sizes of the input, filter, gradient of the output)
        return 2 * _size(op.inputs[2]) * _each_output(_shape(op.inputs[1]), op.type)
    if op.type in BACKPROP_FILTER:  # (input, sizes of the filter, gradient of the output)
        return 2 * _size(op.inputs[2]) * _each_output(_shape(op.outputs[0]), op.type)
    counted = [0, *(_count_function(name, graph, known) for name in called_functions(op))]
    return max(counted) if op.type in BRANCHES else sum(counted)


def _each_output(kernel: Sequence[int], kind: str) -> int:
    """Returns the multiply-adds of one output value; kernel: [height, width, channels in, channels out]."""
    return math.prod(kernel[:2]) * (1 if kind.startswith("Depthwise") else kernel[2])


def called_functions(op: Any) -> list[str]:
    """Returns the names of the functions that an operation calls."""
    if op.type not in _CALLING:
        _CALLING[op.type] = [attribute.name for attribute in op.op_def.attr if attribute.type in FUNCTION_TYPES]
    names = []
    for name in _CALLING[op.type]:
        attribute = op.node_def.attr[name]
        functions = [attribute.func] if attribute.WhichOneof("value") == "func" else attribute.list.func
        names += [function.name for function in functions]
    return names


def _count_function(name: str, graph: Any, known: dict[str, int]) -> int:
    if name not in known:
        found = called_graph(graph, name)
        if found is None:
            raise _Unknown(name)
        known[name] = _count_graph(found, known)
    return known[name]


def _shape(tensor: Any) -> list[int]:
    if not tensor.shape.is_fully_defined():
        raise _Unknown(tensor.name)
    return tensor.shape.as_list()


def _size(tensor: Any) -> int:
    return math.prod(_shape(tensor))
