"""The record of one forward pass: which layers were called, in which order, on what."""
import contextlib
import dataclasses
import math

import tensorflow as tf

from pipeline.internals.keras_internals import layers_of


@dataclasses.dataclass(frozen=True)
class Call:
    """One call of a layer.

    Attributes:
      layer: the layer; None for the input.
      path: names of the layers it was called in, outermost first, and its own name last; without the model's name.
      output_shape: (None, ...) of its first output.
      is_leaf: whether it has no layers inside.
    """

    layer: object
    path: tuple
    output_shape: tuple
    is_leaf: bool

    @property
    def name(self):
        return self.path[-1]

    @property
    def class_name(self):
        return "Input" if self.layer is None else type(self.layer).__name__

    @property
    def parameters(self):
        """Number of weights, those of inner layers included."""
        return 0 if self.layer is None else self.layer.count_params()


@dataclasses.dataclass(frozen=True)
class Graph:
    """Layer calls of one forward pass.

    Attributes:
      calls: every Call in order of beginning, those of blocks before those of their layers.
      nodes: the input and the calls of layers without layers inside, in order of execution.
      edges: (from, to) indices into nodes: an output of one goes into the other.
    """

    calls: tuple
    nodes: tuple
    edges: tuple


class _Recorder:
    """Collects calls while a model is traced into a graph of TensorFlow operations."""

    def __init__(self, image):
        self.stack = []
        self.calls = [Call(None, ("input",), _shape(image), True)]
        self.nodes, self.edges = [self.calls[0]], []
        self.makers = {_key(image): 0}  # Which node made a tensor.

    def wrap(self, layer, is_leaf):
        """Returns a function in place of layer.call that takes notes."""
        original = layer.call

        def call(*args, **kwargs):
            self.stack.append(layer.name)
            place = len(self.calls)
            self.calls.append(None)
            outputs = original(*args, **kwargs)
            if is_leaf:
                # A layer that returns its input (dropout, evaluating) would hide the layer that made it.
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
        """Returns the nodes that a tensor comes from, through casts and whatever else lies between layers."""
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
def _listening(model, recorder):
    """Sets a listener before the `call` of every layer of this one model."""
    layers = list(layers_of(model))
    for layer in layers:
        inner = list(layers_of(layer, include_self=False))
        layer.__dict__["call"] = recorder.wrap(layer, is_leaf=not inner)
    try:
        yield
    finally:
        for layer in layers:
            del layer.__dict__["call"]


@contextlib.contextmanager
def record_outputs(model):
    """Records how large the outputs of a model's innermost layers are while it is called eagerly.

    Yields:
      A list that fills with (path of the layer, largest absolute output as a float; NaN where one is not finite).
    """
    outputs = []

    def listen(layer):
        original = layer.call

        def call(*args, **kwargs):
            result = original(*args, **kwargs)
            values = tf.concat([tf.reshape(tf.cast(t, tf.float64), [-1]) for t in tf.nest.flatten(result)], 0)
            finite = bool(tf.reduce_all(tf.math.is_finite(values)))
            outputs.append((layer.path or layer.name, float(tf.reduce_max(tf.abs(values))) if finite else math.nan))
            return result

        return call

    leaves = [layer for layer in layers_of(model) if not list(layers_of(layer, include_self=False))]
    for layer in leaves:
        layer.__dict__["call"] = listen(layer)
    try:
        yield outputs
    finally:
        for layer in leaves:
            del layer.__dict__["call"]


@contextlib.contextmanager
def record_last_input(model):
    """Records what a model's innermost layers with weights are given while it is called.

    Yields:
      A list that fills with their first inputs, tensors, in the order of the calls: the last one is what the classifier
      sees.
    """
    inputs = []

    def listen(layer):
        original = layer.call

        def call(x, *args, **kwargs):
            inputs.append(x)
            return original(x, *args, **kwargs)

        return call

    leaves = [layer for layer in layers_of(model)
              if layer.weights and not list(layers_of(layer, include_self=False))]
    for layer in leaves:
        layer.__dict__["call"] = listen(layer)
    try:
        yield inputs
    finally:
        for layer in leaves:
            del layer.__dict__["call"]


def record_calls(model, input_shape):
    """Records the layer calls of one forward pass; nothing is computed.

    Args:
      model: a built keras.Model over images.
      input_shape: (height, width, channels).

    Returns:
      A Graph.
    """
    with tf.__internal__.FuncGraph("record_calls").as_default():
        image = tf.compat.v1.placeholder(tf.float32, (None, *input_shape))
        recorder = _Recorder(image)
        with _listening(model, recorder):
            model(image, training=False)
    model_call = recorder.calls.pop(1)
    assert model_call.layer is model
    return Graph(tuple(recorder.calls), tuple(recorder.nodes), tuple(recorder.edges))
