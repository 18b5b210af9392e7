"""The same architectures out of Keras's own layers, as a user writes them by subclassing.

Layers are made in the order in which Mirrorline's models make theirs, so that lists of weights fit by position.
"""
import contextlib
import inspect
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import keras
import tensorflow as tf

from pipeline.architectures import ARCHITECTURES

MOMENTUM, EPSILON = 0.9, 1e-3
INCEPTION_STAGES = ((32, 32), (32, 48), 80, (112, 48), (96, 64), (80, 80), (48, 96), 96, (176, 160), (176, 160))


class KerasConvModule(keras.layers.Layer):
    """Convolution, batch normalization, ReLU."""

    def __init__(self, filters, kernel_size=3, strides=1, padding="same"):
        super().__init__()
        self.conv = keras.layers.Conv2D(filters, kernel_size, strides=strides, padding=padding)
        self.bn = keras.layers.BatchNormalization(momentum=MOMENTUM, epsilon=EPSILON)

    def call(self, x: Any, training: bool = False) -> Any:
        return keras.ops.relu(self.bn(self.conv(x), training=training))


class KerasInceptionModule(keras.layers.Layer):
    """A 1x1 and a 3x3 KerasConvModule side by side."""

    def __init__(self, filters_1x1, filters_3x3):
        super().__init__()
        self.conv1, self.conv2 = KerasConvModule(filters_1x1, 1), KerasConvModule(filters_3x3, 3)
        self.cat = keras.layers.Concatenate()

    def call(self, x: Any, training: bool = False) -> Any:
        return self.cat([self.conv1(x, training=training), self.conv2(x, training=training)])


class KerasDownsampleModule(keras.layers.Layer):
    """A 3x3 KerasConvModule of stride 2, parallel to max pooling."""

    def __init__(self, filters):
        super().__init__()
        self.conv3 = KerasConvModule(filters, 3, strides=2, padding="valid")
        self.pool = keras.layers.MaxPooling2D(3, strides=2)
        self.cat = keras.layers.Concatenate()

    def call(self, x: Any, training: bool = False) -> Any:
        return self.cat([self.conv3(x, training=training), self.pool(x)])


class KerasResBlock(keras.layers.Layer):
    """Three KerasConvModules with a shortcut around the first two, and max pooling."""

    def __init__(self, channels):
        super().__init__()
        self.cnn1, self.cnn2 = KerasConvModule(channels[0]), KerasConvModule(channels[1])
        self.identity_mapping = keras.layers.Conv2D(channels[1], 1, padding="same")
        self.cnn3 = KerasConvModule(channels[2])
        self.pool = keras.layers.MaxPooling2D()

    def call(self, x: Any, training: bool = False) -> Any:
        inner = self.cnn2(self.cnn1(x, training=training), training=training)
        return self.pool(self.cnn3(inner + self.identity_mapping(x), training=training))


class Stack(keras.Model):
    """Blocks one after another, global average pooling or flatten, dense."""

    def __init__(self, blocks, pool, num_classes):
        super().__init__()
        self.blocks, self.pool = blocks, pool
        self.classifier = keras.layers.Dense(num_classes)

    def call(self, x: Any, training: bool = False) -> Any:
        for block in self.blocks:
            x = block(x, training=training)
        return self.classifier(self.pool(x))


class KerasMLP(keras.Model):
    """Flatten, dense of 64, ReLU, dense."""

    def __init__(self, num_classes):
        super().__init__()
        self.flatten = keras.layers.Flatten()
        self.hidden = keras.layers.Dense(64, activation="relu")
        self.classifier = keras.layers.Dense(num_classes)

    def call(self, x: Any) -> Any:
        return self.classifier(self.hidden(self.flatten(x)))


def create(name: str, image_shape: tuple[int, int, int], num_classes: int = 10) -> keras.Model:
    """Returns a built keras.Model of a name in Mirrorline's table, for images (height, width, channels)."""
    if name == "mlp":
        model = KerasMLP(num_classes)
    elif name == "cnn":
        model = Stack([KerasConvModule(n) for n in (32, 64, 128)], keras.layers.Flatten(), num_classes)
    elif name in ARCHITECTURES:
        return getattr(keras.applications, ARCHITECTURES[name].constructor)(
            weights=None, input_shape=image_shape, classes=num_classes, classifier_activation=None)
    elif name == "resnet_like":
        blocks = [KerasResBlock(c) for c in ((32, 32, 64), (128, 128, 256), (128, 256, 512))]
        model = Stack(blocks, keras.layers.GlobalAveragePooling2D(), num_classes)
    else:
        blocks = [KerasConvModule(96), *(KerasInceptionModule(*s) if isinstance(s, tuple) else KerasDownsampleModule(s)
                                    for s in INCEPTION_STAGES)]
        model = Stack(blocks, keras.layers.GlobalAveragePooling2D(), num_classes)
    model(keras.ops.zeros((1, *image_shape)))
    return model


def preprocessing(name: str) -> Callable[[tf.Tensor], tf.Tensor]:
    """Returns the function of uint8 images [B, H, W, C] to the float32 input of a model, as its guide has it."""
    if name not in ARCHITECTURES:
        return lambda images: tf.cast(images, tf.float32) / 255.0
    module = inspect.getmodule(getattr(keras.applications, ARCHITECTURES[name].constructor))
    return lambda images: module.preprocess_input(tf.cast(images, tf.float32))


def convolutions(name: str, image_shape: tuple[int, int, int]) -> list[dict[str, Any]]:
    """Returns what a model's convolutions are: [{"input": (H, W, C), "kernel": (h, w, C, F), "strides": int, "padding":
    "SAME" or "VALID", "output": (H, W, F)}], in order of execution, the one on the image first."""
    found, model = [], create(name, image_shape)  # Building calls layers too: only what comes after it counts.
    with _recorded(found):
        model(keras.ops.zeros((1, *image_shape)))
    return found


@contextlib.contextmanager
def _recorded(found):
    original = keras.layers.Conv2D.call

    def call(self, x):
        y = original(self, x)
        found.append({"input": tuple(x.shape[1:]), "kernel": tuple(self.kernel.shape), "strides": self.strides[0],
                      "padding": self.padding.upper(), "output": tuple(y.shape[1:])})
        return y

    keras.layers.Conv2D.call = call
    try:
        yield
    finally:
        keras.layers.Conv2D.call = original


def step_operations(layers: Sequence[Mapping[str, Any]]) -> int:
    """Returns the floating-point operations of a training step an image: a product and a sum count two.

    The convolutions, forward and both backward (the gradient of the image itself is not computed); everything else is
    below one percent.
    """
    total = 0
    for layer in layers:
        height, width, _ = layer["output"]
        on_image = layer["input"] == layers[0]["input"]
        total += 2 * height * width * math.prod(layer["kernel"]) * (2 if on_image else 3)
    return total
