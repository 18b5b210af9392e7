"""Matrix products with very many terms, summed in parts.

A dense layer after flattened images sums a hundred thousand products. TFLite's kernels (XNNPACK) do that in float32
one after another, and the error grows with the number of terms (Higham, "The accuracy of floating point summation",
1993): for cnn on digits to 2.5e-4 in a logit, where TensorFlow, which sums in blocks, has 2e-5.
"""
from typing import Any

import numpy as np
import tensorflow as tf

LONGEST = 4096  # Terms that are summed one after another.


def split_long_sums(function: Any, longest: int = LONGEST) -> Any:
    """Returns the same function with every matrix product of more terms split into a sum of several."""
    graph = function.graph.as_graph_def()
    nodes = {node.name: node for node in graph.node}
    found = tf.compat.v1.GraphDef(versions=graph.versions)
    for node in graph.node:
        weights = _weights(node, nodes)
        found.node.extend([node] if weights is None or len(weights) <= longest else _parts(node, weights, longest))
    if len(found.node) == len(graph.node):
        return function
    imported = tf.compat.v1.wrap_function(lambda: tf.import_graph_def(found, name=""), [])
    names = tf.nest.map_structure(lambda tensor: tensor.name, (function.inputs, function.structured_outputs))
    return imported.prune(*tf.nest.map_structure(imported.graph.get_tensor_by_name, names))


def _weights(node: Any, nodes: dict) -> np.ndarray | None:
    """Returns the constant [terms, outputs] that a node multiplies with, or None."""
    if node.op != "MatMul" or any(node.attr[name].b for name in ("transpose_a", "transpose_b")):
        return None
    source = nodes[node.input[1].split(":")[0]]
    while source.op == "Identity":
        source = nodes[source.input[0].split(":")[0]]
    return tf.make_ndarray(source.attr["value"].tensor) if source.op == "Const" else None


def _parts(node: Any, weights: np.ndarray, longest: int) -> list:
    """Returns the nodes that replace a product; the last one has its name."""
    count, kind = -(-len(weights) // longest), node.attr["T"]

    def made(op, name, inputs, **attributes):
        new = tf.compat.v1.NodeDef(op=op, name=name, input=inputs, device=node.device)
        for key, value in attributes.items():
            new.attr[key].CopyFrom(value)
        return new

    def constant(name, array):
        proto = tf.make_tensor_proto(array)
        return made("Const", f"{node.name}/{name}", [], value=tf.compat.v1.AttrValue(tensor=proto),
                    dtype=tf.compat.v1.AttrValue(type=proto.dtype))

    pieces = np.array_split(weights, count)
    sizes, axis = constant("sizes", np.array([len(p) for p in pieces], np.int32)), constant("axis", np.int32(1))
    split = made("SplitV", f"{node.name}/split", [node.input[0], sizes.name, axis.name], T=kind,
                 Tlen=sizes.attr["dtype"], num_split=tf.compat.v1.AttrValue(i=count))
    found, products = [sizes, axis, split], []
    for number, piece in enumerate(pieces):
        part = constant(f"weights{number}", piece)
        products.append(made("MatMul", f"{node.name}/product{number}", [f"{split.name}:{number}", part.name], T=kind))
        found += [part, products[-1]]
    return [*found, made("AddN", node.name, [p.name for p in products], T=kind, N=split.attr["num_split"])]
