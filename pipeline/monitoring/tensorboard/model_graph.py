"""The model's graph for TensorBoard's tab Graphs: its layers, nested as in the model."""
from collections.abc import Sequence
from typing import Any

MOST_CONSTANT_BYTES = 1024
BEFORE, INPUT, OUTPUT = "preprocess", "images", "logits"


def model_graph(experiment: Any) -> bytes:
    """Returns the serialized GraphDef of an Experiment's forward pass over a batch of images; see `simplify`."""
    graph = experiment.steps.inference.graph_def(experiment.source.image_shape)
    simplify(graph, experiment.state.model.name)
    return graph.SerializeToString()


def simplify(graph: Any, model: str) -> None:
    """Makes a GraphDef readable, in place.

    Scopes get the names of their layers (Keras opens each scope a second time, as `layer_1`), operations before the
    model get a scope of their own, and control edges and the values of large constants are removed.

    Args:
      graph: GraphDef of a forward pass from the placeholder "images" to the last node.
      model: name of the model.
    """
    kept = [node for node in graph.node if node.op != "NoOp"]
    names = {node.name: "/".join(parts) for node, parts in zip(kept, _scopes(kept), strict=True)}
    if any(name.startswith(f"{model}/") for name in names.values()):
        inside = (f"{model}/", f"{BEFORE}/")
        names = {old: new if new.startswith(inside) or new == INPUT else f"{BEFORE}/{new}"
                 for old, new in names.items()}
    names[kept[-1].name] = OUTPUT
    for node in kept:
        inputs = [name for name in node.input if not name.startswith("^")]
        node.name = names[node.name]
        del node.input[:]
        node.input.extend(":".join([names[name.split(":")[0]], *name.split(":")[1:]]) for name in inputs)
    nodes = [type(node).FromString(node.SerializeToString()) for node in kept]
    del graph.node[:]
    graph.node.extend(nodes)
    for part in (graph.node, *(function.node_def for function in graph.library.function)):
        for node in part:
            _remove_value(node)


def _scopes(nodes: Sequence[Any]) -> list[list[str]]:
    """Returns the parts of the names of nodes, with `_1` removed from the end of scopes where the name is free."""
    paths = [node.name.split("/") for node in nodes]
    siblings: dict[tuple, dict[str, Any]] = {}  # {old path of a scope: {old name of a scope or node in it: new name}}
    for path in paths:
        for depth, part in enumerate(path):
            inner = depth + 1 < len(path)
            children = siblings.setdefault(tuple(path[:depth]), {})
            children[part] = children.get(part, False) or inner
    for children in siblings.values():
        taken = {part for part, inner in children.items() if not (inner and part.endswith("_1"))}
        for part in list(children):
            new = part.removesuffix("_1") if part not in taken else part
            new = part if part not in taken and new in taken else new
            taken.add(new)
            children[part] = new
    return [[siblings[tuple(path[:depth])][part] for depth, part in enumerate(path)] for path in paths]


def _remove_value(node: Any) -> None:
    """Removes the value of a large constant."""
    if node.op == "Const" and node.attr["value"].tensor.ByteSize() > MOST_CONSTANT_BYTES:
        tensor = node.attr["value"].tensor
        tensor.CopyFrom(type(tensor)(dtype=tensor.dtype, tensor_shape=tensor.tensor_shape))
