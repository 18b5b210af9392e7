"""Keras `fit` as its guides write it, with several steps an execution, and the custom loop of TensorFlow's guides."""
from collections.abc import Mapping
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from benchmarks import keras_models
from benchmarks.gate import Blocks, Gate, timed
from benchmarks.workloads import SEED, Workload

SHUFFLE, SHUFFLE_IN_LOOP = 10_000, 1024  # Buffers, in examples, as in the guides.


def run(order: Mapping[str, Any], gate: Gate) -> None:
    """Trains as an order's peer does: "keras_fit", "keras_fit_many" or "custom_loop"."""
    workload, folder = order["workload"], order["data"]
    keras.utils.set_random_seed(SEED)
    images, labels = (np.load(f"{folder}/train_{name}.npy") for name in ("images", "labels"))
    model = keras_models.create(workload.model, workload.image_shape)
    first = None
    if order["weights"]:
        with np.load(order["weights"]) as stored:
            model.set_weights([stored[f"arr_{i}"] for i in range(len(model.weights))])
            first = stored["first"].reshape(-1, workload.batch_size)
    (run_custom_loop if order["peer"] == "custom_loop" else run_fit)(order, gate, model, images, labels, first)


def batches(images: np.ndarray, labels: np.ndarray, workload: Workload, shuffle: int) -> tf.data.Dataset:
    """Returns a tf.data.Dataset of batches (float32 images in the range of the model, labels)."""
    preprocess = keras_models.preprocessing(workload.model)
    dataset = tf.data.Dataset.from_tensor_slices((images, labels))
    if shuffle:
        dataset = dataset.shuffle(shuffle)
    dataset = dataset.batch(workload.batch_size).map(lambda x, y: (preprocess(x), y))
    return dataset.prefetch(tf.data.AUTOTUNE)


def run_fit(order: Mapping[str, Any], gate: Gate, model: keras.Model, images: np.ndarray, labels: np.ndarray,
            first: np.ndarray | None) -> None:
    """Trains by `model.fit` at its fastest: scaling whole uint8 batches, without a progress bar."""
    workload = order["workload"]
    many = order["peer"] == "keras_fit_many"
    model.compile(optimizer=keras.optimizers.Adam(1e-3),
                  loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True), metrics=["accuracy"],
                  steps_per_execution=workload.steps_per_execution if many else 1)
    if first is not None:
        gate.report_first_steps(
            model.fit(batches(images[index], labels[index], workload, 0), verbose=0).history["loss"][0]
            for index in first)
    tests = [np.load(f"{order['data']}/test_{name}.npy")[:workload.evaluated] for name in ("images", "labels")]
    watched = batches(*tests, workload, 0)
    gate.on("evaluate", timed(lambda: model.evaluate(watched, verbose=0)))
    steps = -(-len(labels) // workload.batch_size)
    model.fit(batches(images, labels, workload, SHUFFLE), epochs=10**6, verbose=0,
              callbacks=[HoldBetweenBlocks(Blocks(gate), workload.steps_per_execution if many else 1, steps)])


class HoldBetweenBlocks(keras.callbacks.Callback):
    """Holds `fit` between two blocks; what an epoch's end costs belongs to the block in which it comes."""

    def __init__(self, blocks, steps_per_execution, steps_per_epoch):
        super().__init__()
        self.blocks, self.steps_per_execution, self.steps_per_epoch = blocks, steps_per_execution, steps_per_epoch

    def on_train_batch_begin(self, batch: int, logs: Any = None) -> None:
        self.blocks.call_begins()
        self.blocks.count(min(self.steps_per_execution, self.steps_per_epoch - batch))


def run_custom_loop(order: Mapping[str, Any], gate: Gate, model: keras.Model, images: np.ndarray, labels: np.ndarray,
                    first: np.ndarray | None) -> None:
    """Trains by one call of a tf.function a batch, from a Python loop over the data set, float32 images and one-hot
    labels in memory, as the guides to custom training have it; without their line to TensorBoard a step."""
    workload = order["workload"]
    optimizer = keras.optimizers.Adam(1e-3)
    loss_fn = keras.losses.CategoricalCrossentropy(from_logits=True)
    accuracy = keras.metrics.CategoricalAccuracy()

    @tf.function
    def train_step(x, y):
        with tf.GradientTape() as tape:
            logits = model(x, training=True)
            loss_value = loss_fn(y, logits)
        grads = tape.gradient(loss_value, model.trainable_weights)
        optimizer.apply_gradients(zip(grads, model.trainable_weights, strict=True))
        accuracy.update_state(y, logits)
        return loss_value

    images = keras_models.preprocessing(workload.model)(images).numpy()
    labels = keras.utils.to_categorical(labels, num_classes=10)
    if first is not None:
        gate.report_first_steps(
            train_step(tf.constant(images[index]), tf.constant(labels[index])) for index in first)
    dataset = tf.data.Dataset.from_tensor_slices((images, labels)).shuffle(SHUFFLE_IN_LOOP).batch(workload.batch_size)
    blocks = Blocks(gate)
    while True:
        for x, y in dataset:
            blocks.call_begins()
            blocks.count(1)
            train_step(x, y)
        accuracy.reset_state()
