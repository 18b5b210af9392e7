"""Records of a forward pass: the called layers, their order, inputs and outputs."""
import contextlib
import dataclasses
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import keras
import tensorflow as tf

from pipeline.internals.keras_internals import layers_of


@dataclasses.dataclass(frozen=True)
class Call:
    """One call of a layer.

    Attributes:
      layer: the layer; None for the input.
      path: names of the layers that contain it, outermost first, and its own name; without the model's name.
      output_shape: (None, ...) of its first output.
      is_leaf: whether it has no layers inside.
    """

    layer: Any
    path: tuple[str, ...]
    output_shape: tuple[int | None, ...]
    is_leaf: bool

    @property
    def name(self) -> str:
        return self.path[-1]

    @property
    def class_name(self) -> str:
        return "Input" if self.layer is None else type(self.layer).__name__

    @property
    def parameters(self) -> int:
        """Number of parameters, including those of inner layers."""
        return 0 if self.layer is None else self.layer.count_params()


@dataclasses.dataclass(frozen=True)
class Graph:
    """Layer calls of one forward pass.

    Attributes:
      calls: in order of their start, those of blocks before those of their layers.
      nodes: the input and the calls of layers without layers inside, in order of execution.
      edges: (from, to), indices into nodes: an output of one is an input of the other.
    """

    calls: tuple[Call, ...]
    nodes: tuple[Call, ...]
    edges: tuple[tuple[int, int], ...]


class _Recorder:
    """Collects calls while a model is traced into a graph of TensorFlow operations."""

    def __init__(self, image: tf.Tensor):
        self.stack: list[str] = []
        self.calls: list[Any] = [Call(None, ("input",), _shape(image), True)]
        self.nodes = [self.calls[0]]
        self.edges: list[tuple[int, int]] = []
        self.makers = {_key(image): 0}  # Tensor to the node that made it.

    def wrap(self, layer: Any, is_leaf: bool) -> Callable:
        """Returns a replacement of layer.call that records."""
        original = layer.call

        def call(*args, **kwargs):
            self.stack.append(layer.name)
            place = len(self.calls)
            self.calls.append(None)
            outputs = original(*args, **kwargs)
            if is_leaf:
                # A layer that returns its input (dropout in evaluation) would hide the layer that made it.
                outputs = tf.nest.map_structure(tf.identity, outputs)
            first = tf.nest.flatten(outputs)[0]
            self.calls[place] = Call(layer, tuple(self.stack[1:]), _shape(first), is_leaf)
            self.stack.pop()
            if is_leaf:
                self._add_node(self.calls[place], (args, kwargs), outputs)
            return outputs

        return call

    def _add_node(self, call, inputs, outputs):
        self.nodes.append(call)
        node = len(self.nodes) - 1
        for tensor in tf.nest.flatten(inputs):
            if tf.is_tensor(tensor):
                self.edges += [(maker, node) for maker in self._makers_of(tf.convert_to_tensor(tensor))
                               if (maker, node) not in self.edges]
        self.makers.update({_key(tensor): node for tensor in tf.nest.flatten(outputs)})

    def _makers_of(self, tensor):
        """Returns the nodes that a tensor comes from, through operations between layers such as casts."""
        found, seen, waiting = [], set(), [tensor]
        while waiting:
            tensor = waiting.pop(0)
            if _key(tensor) in seen:
                continue
            seen.add(_key(tensor))
            if _key(tensor) in self.makers:
                found.append(self.makers[_key(tensor)])
            else:
                waiting += list(tensor.op.inputs)
        return found


def _key(tensor):
    return tensor.op.name, tensor.value_index


def _shape(tensor):
    return tuple(tensor.shape)


@contextlib.contextmanager
def _replaced_calls(layers: Sequence[Any], replacement: Callable[[Any], Callable]) -> Iterator[None]:
    """Replaces `call` of the given layers by replacement(layer), on these objects alone."""
    for layer in layers:
        layer.__dict__["call"] = replacement(layer)
    try:
        yield
    finally:
        for layer in layers:
            del layer.__dict__["call"]


def _is_leaf(layer):
    """Returns whether a layer has no layers inside."""
    return not list(layers_of(layer, include_self=False))


@contextlib.contextmanager
def record_outputs(model: keras.Model) -> Iterator[list[tuple[str, float]]]:
    """Records how large the outputs of a model's innermost layers are while it is called eagerly.

    Yields:
      A list that fills with (path of the layer, largest absolute output; NaN if one is not finite).
    """
    outputs: list[tuple[str, float]] = []

    def listen(layer):
        original = layer.call

        def call(*args, **kwargs):
            result = original(*args, **kwargs)
            values = tf.concat([tf.reshape(tf.cast(t, tf.float64), [-1]) for t in tf.nest.flatten(result)], 0)
            finite = bool(tf.reduce_all(tf.math.is_finite(values)))
            outputs.append((layer.path or layer.name, float(tf.reduce_max(tf.abs(values))) if finite else math.nan))
            return result

        return call

    with _replaced_calls([layer for layer in layers_of(model) if _is_leaf(layer)], listen):
        yield outputs


@contextlib.contextmanager
def record_last_input(model: keras.Model) -> Iterator[list[tf.Tensor]]:
    """Records the inputs of a model's innermost layers with weights while it is called.

    Yields:
      A list that fills with their first inputs in the order of the calls: the last one is the input of the classifier.
    """
    inputs: list[tf.Tensor] = []

    def listen(layer):
        original = layer.call

        def call(x, *args, **kwargs):
            inputs.append(x)
            return original(x, *args, **kwargs)

        return call

    with _replaced_calls([layer for layer in layers_of(model) if layer.weights and _is_leaf(layer)], listen):
        yield inputs


def record_calls(model: keras.Model, input_shape: Sequence[int]) -> Graph:
    """Records the layer calls of one forward pass, without computing it.

    Args:
      model: built, over images.
      input_shape: (height, width, channels).
    """
    with tf.__internal__.FuncGraph("record_calls").as_default():
        image = tf.compat.v1.placeholder(tf.float32, (None, *input_shape))
        recorder = _Recorder(image)
        with _replaced_calls(list(layers_of(model)), lambda layer: recorder.wrap(layer, _is_leaf(layer))):
            model(image, training=False)
    model_call = recorder.calls.pop(1)
    assert model_call.layer is model
    return Graph(tuple(recorder.calls), tuple(recorder.nodes), tuple(recorder.edges))
