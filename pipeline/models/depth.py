"""The blocks of a model from its input to its head, by which --layer_decay counts depth."""
import re
from collections.abc import Sequence
from typing import Any

import keras

from pipeline.models.recording import Graph, record_calls
from pipeline.models.weight_names import named

# Names of layers that say of which block they are. It is called like the beginning of the name up to the end of what
# matches; where that differs within a block, by the number alone.
BLOCKS = re.compile(r"""
      stage_\d+_block_\d+ | downsampling_block_\d+             # ConvNeXt
    | ^conv\d+_block\d+ | ^pool\d+(?=_)                        # ResNet, DenseNet and its transitions
    | block_?\d+[a-z]?(?:_\d+(?=_|$))?                         # EfficientNet, MobileNetV2, Xception, VGG, others
    | ^expanded_conv(?:_\d+)?(?=_) | ^conv_(?:dw|pw)(?P<number>_\d+)
    | ^mixed_?\d+[a-z]?                                        # Inception
    | ^(?:adjust|normal|reduction|separable_conv)_\w*?_(?P<cell>(?:(?:stem|reduce)_)?\d+)$
    """, re.VERBOSE)


def blocks(model: keras.Model, image_shape: Sequence[int]) -> list[tuple[str, list[str]]]:
    """Returns the blocks of a model, those near its input first and its head last.

    A block is a layer made of layers that the model calls; or the layers whose names say so, as those of
    keras.applications do (conv2_block1_1_conv); or, of layers that Keras has named, those between two points that every
    path through the model passes; else a layer with a kernel, with the normalization after it.

    Args:
      model: built, over images; before anything of it is frozen.
      image_shape: (height, width, channels) of its images.

    Returns:
      [(name of the block, names of its float variables)], every variable once. What is of no layer that is called, as
      an embedding of positions, belongs to the first block.
    """
    graph, variables = record_calls(model, image_shape), named(model)
    *calls, head = [call for call in graph.calls if call.is_leaf and call.layer is not None and call.layer.weights]
    outer = _common_layers([call.path for call in calls])
    members: dict[str, list[str]] = {}
    segments, last = _segments(graph, outer), ""
    names = {id(variable): name for name, variable in variables.items()}
    own_head = [names.pop(id(v)) for v in head.layer.variables if id(v) in names]
    for call in calls:
        if not any(weight.trainable for weight in call.layer.weights):
            continue  # A normalization of the images.
        block = _block(call, outer, segments)
        if block == call.path[-1] and last and all(len(w.shape) < 2 for w in call.layer.weights):
            block = last  # A normalization outside of any block.
        members.setdefault(block, []).extend(names.pop(id(v)) for v in call.layer.variables if id(v) in names)
        last = block
    for call in reversed(graph.calls):  # Weights of layers that are made of layers, the inner ones first.
        block = "" if call.layer is None or len(call.path) <= outer else _block(call, outer, segments)
        if block in members:
            members[block] += [names.pop(id(v)) for v in call.layer.variables if id(v) in names]
    if members:
        members[next(iter(members))] += names.values()
    return [*members.items(), (head.name, own_head)]


def _common_layers(paths):
    """Returns the number of layers that contain all others: a backbone that is one layer is looked into."""
    count = 0
    while paths and all(len(path) > count + 1 for path in paths) and len({path[count] for path in paths}) == 1:
        count += 1
    return count


def _block(call, outer, segments):
    """Returns the name of the block of a call of a layer."""
    name = call.path[outer]
    found = _block_name(name)
    if found or len(call.path) > outer + 1 or not call.is_leaf or not _is_named_by_keras(name, call.layer):
        return found or name
    return segments[call.path]


def _block_name(name):
    """Returns the name of the block that the name of a layer contains, or ""."""
    found = BLOCKS.search(name)
    if not found:
        return ""
    if found["cell"]:
        return f"cell {found['cell']}"
    return f"block{found['number']}" if found["number"] else name[:found.end()]


def _is_named_by_keras(name: str, layer: Any) -> bool:
    """Returns whether Keras has named a layer, by its class and a number."""
    plain = re.sub(r"_\d+$", "", name).replace("_", "")
    return plain in (kind.__name__.lower() for kind in type(layer).__mro__)


def _segments(graph: Graph, outer: int) -> dict[tuple[str, ...], str]:
    """Returns {path of a call: name of its segment}: of what lies between two points that every path passes.

    It is the block that the last of its layers with such a name is of, else a number.
    """
    parts: list[list[Any]] = [[]]
    passing = 0  # The last node to which an edge leads from before the current one.
    ends: dict[int, int] = {}
    for start, end in graph.edges:
        ends[start] = max(end, ends.get(start, 0))
    for place, node in enumerate(graph.nodes):
        parts[-1].append(node)
        if passing <= place:  # Every path passes this node.
            parts.append([])
        passing = max(passing, ends.get(place, 0))
    found = {}
    for number, part in enumerate(parts):
        known = [block for node in part if (block := _block_name(node.path[min(outer, len(node.path) - 1)]))]
        several = sum(bool(node.layer is not None and node.layer.weights) for node in part) > 1
        found.update({node.path: known[-1] if known else f"segment {number}" if several else node.path[-1]
                      for node in part})
    return found
