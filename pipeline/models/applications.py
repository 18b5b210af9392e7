"""The architectures of keras.applications by name, of this package's layers.

Weights have the names, shapes and order that Keras gives them, and outputs in evaluation are equal bit for bit, so that
files of weights fit. Batch normalization, dropout and stochastic depth are this package's own: synchronized, drawn by
position, and fused. Their epsilon is the architecture's; the momentum of their moving statistics is the run's, since
those are bias-corrected and fit short runs too, which 0.99 to 0.9997 do not.

EfficientNet B0 to B7: with weights="imagenet" Keras divides the normalized input once more, by the root of the std of
each channel, which is no weight of the published file. These models are those of weights=None.
"""
import contextlib
import inspect
import weakref
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import keras

from pipeline.architectures import ARCHITECTURES, Architecture
from pipeline.errors import UsageError
from pipeline.internals.keras_internals import connections, named_from_the_start
from pipeline.models.dropout import Dropout
from pipeline.models.layers import Convolution
from pipeline.models.normalization import BatchNormalization, InputNormalization
from pipeline.models.serialization import logits_dtype

BATCH_AXES = (-1, 3)  # The last axis of images.
PATH_END = "_identity"  # Of the layers of ConvNeXt that stand where stochastic depth would.


def __getattr__(name: str) -> Callable:
    """Returns the function that makes an architecture; the table of models names it as an attribute of this module."""
    if name not in ARCHITECTURES:
        raise AttributeError(name)
    return _builder(name, ARCHITECTURES[name])


def _builder(name: str, row: Architecture) -> Callable:
    """Returns a function of num_classes, input_shape and the options of an architecture to a keras.Model."""
    def build(num_classes: int, input_shape: Sequence[int], batch_norm_momentum: float = 0.9, **options: Any
              ) -> keras.Model:
        if input_shape[-1] != row.wanted_channels:
            raise UsageError(f"model {name} takes images of 3 channels, or of 1, which is repeated; found "
                             f"{input_shape[-1]}: take a model for any number of channels, such as resnet_like")
        options = {**defaults, **options}
        dropout, drop_path = options.pop("dropout"), options.pop("drop_path", 0.0)
        for option, rate in (("dropout", dropout), ("drop_path", drop_path)):
            if not 0 <= rate < 1:
                raise UsageError(f"option {option} of model {name} must be at least 0 and below 1; found {rate:g}")
        with named_from_the_start():
            plain = _plain(name, row, num_classes, input_shape, options)
            model = _Replacement(plain, batch_norm_momentum, dropout, drop_path, row.drop_path or 1.0).model()
        model.name = name
        return model

    paths = {} if row.drop_path is None else {"drop_path": row.drop_path}
    defaults = {"dropout": row.dropout, **paths, **row.options}
    parameter = inspect.Parameter
    build.__signature__ = inspect.Signature([  # type: ignore[attr-defined]
        *(parameter(n, parameter.POSITIONAL_OR_KEYWORD) for n in ("num_classes", "input_shape")),
        parameter("batch_norm_momentum", parameter.KEYWORD_ONLY, default=0.9, annotation=float),
        *(parameter(n, parameter.KEYWORD_ONLY, default=v, annotation=type(v)) for n, v in defaults.items())])
    build.__name__ = build.__qualname__ = name
    build.minimum_size = row.smallest  # type: ignore[attr-defined]
    return build


def _plain(name, row, num_classes, input_shape, options):
    """Returns the model of keras.applications, of logits."""
    try:
        return getattr(keras.applications, row.constructor)(
            weights=None, input_shape=tuple(input_shape), classes=num_classes, classifier_activation=None, **options)
    except ValueError as error:
        given = ", ".join(f"{option}={value}" for option, value in options.items())
        raise UsageError(f"model {name} cannot be made with {given}: {str(error).splitlines()[0]}") from error


class _Replacement:
    """A functional model with layers of this package in place of some of Keras's; the rest is used as it is."""

    def __init__(self, plain: keras.Model, momentum: float, dropout: float, drop_path: float,
                 usual_drop_path: float):
        self.plain, self.momentum, self.dropout = plain, momentum, dropout
        layers = plain.layers
        head = max(i for i, layer in enumerate(layers) if layer.weights)
        self.head, self.after = layers[head], {layer.name for layer in layers[head:]}
        # By the names of layers: what stands between the backbone and the classifier; paths and their rates.
        self.own_dropout = next((layer.name for layer in layers if _is_dropout(layer, paths=False)), None)
        self.rates = dict(_rates(layers, drop_path, usual_drop_path))
        self.bias_before = dict(_biases_before_normalization(plain))
        self.scopes = {layer.name: (layer.path or "").split("/")[:-1] for layer in layers}
        self.made: dict[str, Any] = {}

    def model(self) -> keras.Model:
        """Returns the model, with biases left to the normalization after them."""
        image = keras.Input(self.plain.input_shape[1:], dtype=logits_dtype(self.plain.dtype_policy))
        model = keras.models.clone_model(self.plain, input_tensors=image, clone_function=self.replaced,
                                         call_function=self.call)
        for norm, convolution in self.bias_before.items():
            self.made[convolution].normalization = weakref.ref(self.made[norm])
            self.made[norm].convolution = weakref.ref(self.made[convolution])
        return model

    def replaced(self, layer: Any) -> Any:
        """Returns the layer that stands in place of one of Keras's; that itself where nothing differs."""
        self.made[layer.name] = found = self._replaced(layer)
        return found

    def _replaced(self, layer):
        if isinstance(layer, keras.layers.BatchNormalization):
            return _normalization(layer, self.momentum)
        if isinstance(layer, keras.layers.Normalization) and layer.variables:
            return InputNormalization.from_config(layer.get_config())
        if layer.name in self.rates:
            return Dropout(self.rates[layer.name], noise_shape=(None, 1, 1, 1), name=layer.name)
        if layer.name == self.own_dropout:
            return Dropout(self.dropout, name=layer.name)
        if type(layer) is keras.layers.Conv2D and (
                layer.kernel_size == (1, 1) or layer.name in self.bias_before.values()):
            return Convolution.from_config(layer.get_config())
        if layer.name in self.after and layer.dtype_policy.name != logits_dtype(layer.dtype_policy):
            # In mixed precision logits are float32, from the classifier on.
            return type(layer).from_config({**layer.get_config(), "dtype": logits_dtype(layer.dtype_policy)})
        return layer

    def call(self, layer: Any, *args: Any, **kwargs: Any) -> Any:
        """Calls a layer, the classifier behind dropout where the architecture has none of its own."""
        if kwargs.get("mask") is None:  # Of sequences; layers of this package have no such argument.
            kwargs.pop("mask", None)
        if layer.name == self.head.name and self.own_dropout is None and self.dropout:
            return layer(Dropout(self.dropout, name="dropout")(*args), **kwargs)
        with contextlib.ExitStack() as scopes:  # A new layer gets the path of the one that it replaces.
            for scope in self.scopes.get(layer.name, ()):
                scopes.enter_context(keras.name_scope(scope))
            return layer(*args, **kwargs)


def _normalization(layer, momentum):
    """Returns the normalization of this package in place of one of Keras."""
    default = keras.layers.BatchNormalization().get_config()
    config = layer.get_config()
    taken = ("name", "dtype", "axis", "momentum", "epsilon", "center", "scale", "trainable")
    odd = [key for key in config if key not in taken and config[key] != default[key]]
    if odd or config["axis"] not in BATCH_AXES:
        raise ValueError(f"{layer.name} cannot be replaced: its {(odd or ['axis'])[0]} is not the default")
    return BatchNormalization(momentum=momentum, epsilon=layer.epsilon, center=layer.center, scale=layer.scale,
                              fused_inference=False, name=layer.name, dtype=layer.dtype_policy)


def _is_dropout(layer: Any, paths: bool) -> bool:
    """Returns whether a layer drops whole paths of an example, or else single values."""
    return isinstance(layer, keras.layers.Dropout) and (layer.noise_shape is not None) == paths


def _rates(layers: Sequence[Any], drop_path: float, usual: float) -> Iterator[tuple[str, float]]:
    """Yields (name, rate) of the layers of stochastic depth, whose rate grows with the depth (arXiv:1603.09382).

    `usual`: the drop_path with which Keras made those layers that it has.
    """
    own = [layer for layer in layers if _is_dropout(layer, paths=True)]
    ends = [layer.name for layer in layers if layer.name.endswith(PATH_END)]
    yield from ((layer.name, layer.rate * (drop_path / usual)) for layer in own)
    yield from ((name, drop_path * i / (len(ends) - 1)) for i, name in enumerate(ends) if drop_path and i)


def _biases_before_normalization(model: keras.Model) -> Iterator[tuple[str, str]]:
    """Yields (name of a batch normalization, name of the convolution before it whose bias it removes)."""
    inputs: dict[str, list] = {}
    outputs: dict[str, int] = {}
    for source, target in connections(model):
        inputs.setdefault(target.name, []).append(source)
        outputs[source.name] = outputs.get(source.name, 0) + 1
    for layer in model.layers:
        before = inputs.get(layer.name, [None])[0]
        if isinstance(layer, keras.layers.BatchNormalization) and type(before) is keras.layers.Conv2D and (
                before.use_bias and outputs[before.name] == 1 and before.activation is keras.activations.linear):
            yield layer.name, before.name
