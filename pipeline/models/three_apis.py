"""One network written with each of the three APIs of Keras: Sequential, Functional, subclassing."""
from collections.abc import Sequence
from typing import Any

import keras

from pipeline.choices import MODELS
from pipeline.errors import unknown_name
from pipeline.internals.keras_internals import name_scope
from pipeline.models.classifier import Classifier
from pipeline.models.dropout import Dropout
from pipeline.models.normalization import BatchNormalization
from pipeline.models.serialization import logits_dtype, registered

APIS = ("subclass", "sequential", "functional")


def build_sequential(input_shape: Sequence[int], num_classes: int, batch_norm_momentum: float, dtype: Any
                     ) -> keras.Sequential:
    """Returns the network as a keras.Sequential over (height, width, channels)."""
    return keras.Sequential([
        keras.Input(tuple(input_shape)),
        keras.layers.Conv2D(32, 3, strides=2, activation="relu", name="convolution1", dtype=dtype),
        keras.layers.MaxPooling2D(3, name="max_pool", dtype=dtype),
        BatchNormalization(momentum=batch_norm_momentum, name="norm1", dtype=dtype),
        keras.layers.Conv2D(64, 3, activation="relu", name="convolution2", dtype=dtype),
        BatchNormalization(momentum=batch_norm_momentum, name="norm2", dtype=dtype),
        Dropout(0.3, name="dropout", dtype=dtype),
        keras.layers.GlobalAveragePooling2D(name="average_pool", dtype=dtype),
        keras.layers.Dense(num_classes, name="classifier", dtype=logits_dtype(dtype)),
    ], name="network")


def build_functional(input_shape: Sequence[int], num_classes: int, batch_norm_momentum: float, dtype: Any
                     ) -> keras.Model:
    """Returns the network as a functional keras.Model over (height, width, channels)."""
    image = keras.Input(tuple(input_shape))
    x = keras.layers.Conv2D(32, 3, strides=2, activation="relu", name="convolution1", dtype=dtype)(image)
    x = keras.layers.MaxPooling2D(3, name="max_pool", dtype=dtype)(x)
    x = BatchNormalization(momentum=batch_norm_momentum, name="norm1", dtype=dtype)(x)
    x = keras.layers.Conv2D(64, 3, activation="relu", name="convolution2", dtype=dtype)(x)
    x = BatchNormalization(momentum=batch_norm_momentum, name="norm2", dtype=dtype)(x)
    x = Dropout(0.3, name="dropout", dtype=dtype)(x)
    x = keras.layers.GlobalAveragePooling2D(name="average_pool", dtype=dtype)(x)
    logits = keras.layers.Dense(num_classes, name="classifier", dtype=logits_dtype(dtype))(x)
    return keras.Model(image, logits, name="network")


@registered
class SubclassedNetwork(Classifier):
    """The network as a subclass of keras.Model."""

    minimum_size = 19

    def __init__(self, num_classes: int = 10, batch_norm_momentum: float = 0.9, **kwargs):
        super().__init__(**kwargs)
        self.num_classes, self.batch_norm_momentum = num_classes, batch_norm_momentum
        dtype = self.dtype_policy
        self.convolution1 = keras.layers.Conv2D(32, 3, strides=2, activation="relu", name="convolution1", dtype=dtype)
        self.max_pool = keras.layers.MaxPooling2D(3, name="max_pool", dtype=dtype)
        self.norm1 = BatchNormalization(momentum=batch_norm_momentum, name="norm1", dtype=dtype)
        self.convolution2 = keras.layers.Conv2D(64, 3, activation="relu", name="convolution2", dtype=dtype)
        self.norm2 = BatchNormalization(momentum=batch_norm_momentum, name="norm2", dtype=dtype)
        self.dropout = Dropout(0.3, name="dropout", dtype=dtype)
        self.average_pool = keras.layers.GlobalAveragePooling2D(name="average_pool", dtype=dtype)
        self.classifier = keras.layers.Dense(num_classes, name="classifier", dtype=logits_dtype(dtype))

    def call(self, x: Any, training: bool = False) -> Any:
        """Maps images [batch, height, width, channels] to logits [batch, num_classes]."""
        x = self.norm1(self.max_pool(self.convolution1(x)), training=training)
        x = self.norm2(self.convolution2(x), training=training)
        x = self.dropout(x, training=training)
        return self.classifier(self.average_pool(x))


@MODELS.built_in("three_apis", example_shape=(28, 28, 3), wanted_channels=3, parameters=20_426, multiply_adds=220_384)
@registered
class ThreeAPIs(Classifier):
    """The network built with one of the APIs: 20,426 parameters for 28x28x3 and 10 classes.

    Args:
      api: "subclass", "sequential" or "functional".
    """

    minimum_size = SubclassedNetwork.minimum_size

    def __init__(self, num_classes: int = 10, api: str = "subclass", batch_norm_momentum: float = 0.9, **kwargs):
        kwargs.setdefault("name", "three_apis")
        super().__init__(**kwargs)
        if api not in APIS:
            raise unknown_name("api", api, APIS)
        self.num_classes, self.api, self.batch_norm_momentum = num_classes, api, batch_norm_momentum
        self.network: Any = None

    def build(self, input_shape: Sequence[int | None]) -> None:
        arguments = dict(num_classes=self.num_classes, batch_norm_momentum=self.batch_norm_momentum,
                         dtype=self.dtype_policy)
        if self.api == "subclass":
            self.network = SubclassedNetwork(name="network", **arguments)
        else:
            builder: Any = build_sequential if self.api == "sequential" else build_functional
            with name_scope(self):
                self.network = builder(tuple(input_shape)[1:], **arguments)
        super().build(input_shape)

    def call(self, x: Any, training: bool = False) -> Any:
        """Maps images [batch, height, width, channels] to logits [batch, num_classes]."""
        return self.network(x, training=training)


def copy_weights(source: keras.Model, target: keras.Model) -> None:
    """Copies every weight of a built model to another of the same architecture, whatever API made it.

    Raises:
      ValueError: the weights differ in number or shape.
    """
    shapes = [[tuple(w.shape) for w in model.weights] for model in (source, target)]
    if shapes[0] != shapes[1]:
        raise ValueError(f"the weights of '{source.name}' and '{target.name}' differ: {shapes[0]} and {shapes[1]}")
    target.set_weights(source.get_weights())
