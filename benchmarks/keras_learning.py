"""Trains by Keras `fit` on a folder of images and writes its accuracy: python -m benchmarks.keras_learning ORDER."""
import json
import pathlib
import sys
from collections.abc import Callable
from typing import Any

import keras
import tensorflow as tf

from benchmarks import keras_architectures, keras_models
from benchmarks.image_folders import read_split
from pipeline.architectures import ARCHITECTURES

MOMENTUM = 0.9  # Of batch normalization: Mirrorline's default for every model.
_SCALES = {"vit_ti16": (1 / 127.5, -1.0), "wrn16_8": (1 / 255, 0.0)}  # (factor, offset) of the pixels.


def create(name: str, options: dict[str, Any], image_shape: tuple[int, int, int], num_classes: int) -> keras.Model:
    """Returns the network, with Mirrorline's momentum in every batch normalization."""
    if name in ARCHITECTURES:
        model = keras_models.create(name, image_shape, num_classes)
    else:
        model = getattr(keras_architectures, name)(image_shape, num_classes, **options)
    for layer in model.layers:
        if isinstance(layer, keras.layers.BatchNormalization):
            layer.momentum = MOMENTUM
    return model


def preprocessing(name: str) -> Callable[[tf.Tensor], tf.Tensor]:
    """Returns the function of uint8 images [B, H, W, C] to the float32 input of a model."""
    if name in ARCHITECTURES:
        return keras_models.preprocessing(name)
    factor, offset = _SCALES[name]
    return lambda images: tf.cast(images, tf.float32) * factor + offset


def train(order: dict[str, Any]) -> float:
    """Trains as an order of benchmarks.learning says; returns the accuracy on the test split, in [0, 1]."""
    keras.utils.set_random_seed(order["seed"])
    preprocess = preprocessing(order["model"])

    def dataset(split, shuffled):
        images, labels = read_split(pathlib.Path(order["images"]) / split)
        examples = tf.data.Dataset.from_tensor_slices((images, labels))
        if shuffled:
            examples = examples.shuffle(len(labels), seed=order["seed"])
        batches = examples.batch(order["batch_size"]).map(lambda x, y: (preprocess(x), y))
        return images.shape[1:], int(labels.max()) + 1, batches.prefetch(tf.data.AUTOTUNE)

    shape, num_classes, training = dataset("train", True)
    model = create(order["model"], order["options"], shape, num_classes)
    model.compile(optimizer=keras.optimizers.Adam(order["learning_rate"]),
                  loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True), metrics=["accuracy"])
    model.fit(training, epochs=order["epochs"], verbose=0)
    return model.evaluate(dataset("test", False)[2], verbose=0, return_dict=True)["accuracy"]


if __name__ == "__main__":
    found = json.loads(sys.argv[1])
    pathlib.Path(found["result"]).write_text(json.dumps({"test_accuracy": train(found)}))
