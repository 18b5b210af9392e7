"""Streams of training images of Mirrorline, tf.data and Keras."""
import glob
import os
from collections.abc import Callable

import keras
import numpy as np
import tensorflow as tf

from pipeline.augmentation import augmentations
from pipeline.config import DataConfig
from pipeline.console import Console
from pipeline.data.load import load
from pipeline.data.memory import InMemory
from pipeline.data.source import Split
from pipeline.data.stream import BatchLayout, train_stream

AREA, RATIO, ATTEMPTS = (0.08, 1.0), (3 / 4, 4 / 3), 10  # Of a random resized crop.
CROP = 4  # Pixels, of a random crop of images in memory.


def mirrorline_files(folder: str, size: int, batch_size: int, augment: tuple[str, ...]) -> tf.data.Dataset:
    """Returns Mirrorline's training stream of the photographs in a folder."""
    config = DataConfig(dataset=f"folder:{folder}", image_size=size, memory_budget=0, augment=augment,
                        cache_dir=os.path.join(folder, "cache"))
    source = load(config, batch_size, Console(quiet=True))
    return train_stream(source.train, BatchLayout(batch_size), 0, 0, augmentations(config))


def mirrorline_arrays(images: np.ndarray, labels: np.ndarray, batch_size: int) -> tf.data.Dataset:
    """Returns Mirrorline's training stream of images in memory, cropped and flipped."""
    split = Split("train", len(labels), InMemory(images, labels), labels)
    chosen = augmentations(DataConfig(augment=(f"crop:{CROP}", "flip")))
    return train_stream(split, BatchLayout(batch_size), 0, 0, chosen)


def fused_files(folder: str, size: int, batch_size: int) -> tf.data.Dataset:
    """Returns the fastest form of a random resized crop in tf.data: only the crop of each file is decoded.

    As tensorflow/models does (official/vision/ops/preprocess_ops.py), with the fast transform of the decoder.
    """
    classes = sorted(os.listdir(f"{folder}/train"))
    files = sorted(glob.glob(f"{glob.escape(folder)}/train/*/*.jpg"))
    labels = [classes.index(os.path.basename(os.path.dirname(file))) for file in files]

    def example(path, label):
        content = tf.io.read_file(path)
        # Drawn for every image: without a seed, and not with the same stateless one.
        begin, extent, _ = tf.image.sample_distorted_bounding_box(
            tf.image.extract_jpeg_shape(content), tf.zeros([1, 0, 4]), area_range=AREA, aspect_ratio_range=RATIO,
            max_attempts=ATTEMPTS, use_image_if_no_bounding_boxes=True)
        window = tf.concat([begin[:2], extent[:2]], 0)
        image = tf.image.decode_and_crop_jpeg(content, window, channels=3, dct_method="INTEGER_FAST")
        image = tf.cast(tf.image.resize(image, (size, size)), tf.uint8)
        return tf.image.random_flip_left_right(image), label

    paths = tf.data.Dataset.from_tensor_slices((files, labels)).shuffle(len(files)).repeat()
    return paths.map(example, num_parallel_calls=tf.data.AUTOTUNE).batch(batch_size).prefetch(tf.data.AUTOTUNE)


def fused_arrays(images: np.ndarray, labels: np.ndarray, batch_size: int) -> tf.data.Dataset:
    """Returns the same for images in memory, as guides to tf.data write it: cropped from a black border, flipped."""
    shape = images.shape[1:]

    def example(image, label):
        padded = tf.pad(image, [[CROP, CROP], [CROP, CROP], [0, 0]])
        return tf.image.random_flip_left_right(tf.image.random_crop(padded, shape)), label

    stored = tf.data.Dataset.from_tensor_slices((images, labels)).shuffle(len(labels)).repeat()
    return stored.map(example, num_parallel_calls=tf.data.AUTOTUNE).batch(batch_size).prefetch(tf.data.AUTOTUNE)


def keras_files(folder: str, size: int, batch_size: int) -> tf.data.Dataset:
    """Returns Keras's stream of a folder: whole files, resized."""
    return keras.utils.image_dataset_from_directory(
        f"{folder}/train", image_size=(size, size), batch_size=batch_size, verbose=False).repeat()


def opener(dataset: tf.data.Dataset) -> Callable[[], Callable[[], int]]:
    """Returns what pulling.pull opens: an iterator of a data set, of which the numbers of images are returned."""
    def open_stream():
        iterator = iter(dataset)

        def take():
            batch = next(iterator)
            return int((batch["image"] if isinstance(batch, dict) else batch[0]).shape[0])

        return take

    return open_stream
