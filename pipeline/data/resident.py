"""Splits in device memory: each replica gathers and augments its own rows of a batch inside the step.

Only the positions and numbers of the examples are sent to a device; the host, which has the only kernel for their
order, counts the batches. The examples are those of pipeline.data.stream: the same functions of (seed, position).
"""
import math
from collections.abc import Sequence

import numpy as np
import tensorflow as tf

from pipeline.augmentation import Augmentation
from pipeline.data import augment
from pipeline.data.memory import InMemory
from pipeline.data.order import example_index
from pipeline.data.source import Split
from pipeline.data.stream import BatchLayout
from pipeline.device_scope import on_host
from pipeline.errors import UsageError

_WORD = 4  # Bytes.


class ResidentSplit:
    """The images and labels of a split on the devices of the replicas.

    Attributes:
      num_examples: how many.
    """

    def __init__(self, split: Split, copy: bool):
        """
        Args:
          split: held in memory.
          copy: whether every replica gets its own copy (GPUs, each with its own memory), made in the scope of the
            strategy; else all replicas read the same memory.

        Raises:
          UsageError: the split streams from disk, or does not fit on a device.
        """
        if not isinstance(split.reader, InMemory):
            raise UsageError(f"--cache=device: the {split.name} split streams from disk, as it is larger than "
                             "--memory_budget, or as a file has several images (--augment=resized_crop, "
                             "--eval_image_size); take --cache=host")
        self.num_examples, self._copied = split.num_examples, copy
        self._images, self._labels = split.reader.tensors
        self._shape = self._images.shape[1:]
        if copy:
            try:
                # Variables, since host tensors would be sent to each GPU at every call; int64, since int32 variables
                # stay on the host.
                self._images = tf.Variable(_words(split.reader.images), trainable=False, name=f"{split.name}_images")
                self._labels = tf.Variable(tf.cast(self._labels, tf.int64), trainable=False,
                                           name=f"{split.name}_labels")
            except tf.errors.ResourceExhaustedError:
                size = split.reader.images.nbytes / 2**20
                raise UsageError(f"--cache=device: {size:,.0f} MiB of the {split.name} split do not fit on the "
                                 "device together with the model; take --cache=host") from None

    def gather(self, index: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """Returns images uint8 [n, H, W, C] and labels int32 [n] of the examples index, int64 [n]."""
        images = tf.gather(self._images, index)
        if self._copied:
            values = tf.reshape(tf.bitcast(images, tf.uint8), [-1, images.shape[1] * _WORD])
            images = tf.reshape(values[:, :math.prod(self._shape)], [-1, *self._shape])
        return images, tf.cast(tf.gather(self._labels, index), tf.int32)


def _words(images):
    """Returns uint8 images [N, H, W, C] as float32 words [N, words], padded: GPUs have no kernel that gathers uint8."""
    values = images.reshape(len(images), -1)
    missing = -values.shape[1] % _WORD
    return (np.pad(values, [(0, 0), (0, missing)]) if missing else values).view(np.float32)


class ResidentBatch:
    """One global batch by its number, whose rows each replica makes itself."""

    def __init__(self, iterator: "ResidentIterator", number: tf.Tensor):
        self._iterator, self._number = iterator, number

    def rows(self, replica: int | tf.Tensor) -> dict[str, tf.Tensor]:
        """Returns the rows of a replica, an int scalar, equal to those of the streamed batch."""
        return self._iterator.rows(self._number, tf.cast(replica, tf.int64))


class ResidentIterator:
    """Iterates over the batches of a split on the devices.

    A compiled step belongs to one iterator, so an iterator is made once and opened at any position.
    """

    def __init__(self, split: ResidentSplit, layout: BatchLayout):
        self._split, self._layout = split, layout
        with tf.device("CPU:0"):
            self._next = tf.Variable(0, trainable=False, dtype=tf.int64, name="next_batch")

    def open(self, number: int) -> "ResidentIterator":
        """Goes to a batch by its number, and returns the iterator."""
        self._next.assign(number)
        return self

    def rows(self, number: tf.Tensor, replica: tf.Tensor) -> dict[str, tf.Tensor]:
        """Returns the rows of a replica of a batch by its number."""
        raise NotImplementedError

    def get_next(self) -> ResidentBatch:
        """Returns the next batch; to be called in the cross-replica context."""
        with on_host():
            number = tf.identity(self._next)
            with tf.control_dependencies([number]):
                self._next.assign_add(1)
        return ResidentBatch(self, number)

    def _row_numbers(self, replica):
        """Returns the rows of the global batch that belong to a replica: int64 [batch_size / replicas].

        Micro-batch m of all replicas together is a range of positions, in replica order.
        """
        layout = self._layout
        first = tf.range(layout.micro_batches, dtype=tf.int64)[:, None] * (layout.part * layout.replicas)
        return tf.reshape(first + replica * layout.part + tf.range(layout.part, dtype=tf.int64), [-1])


class TrainIterator(ResidentIterator):
    """The endless stream of training batches: that of pipeline.data.stream.train_stream."""

    def __init__(self, split: ResidentSplit, layout: BatchLayout, seed: int, augmentations: Sequence[Augmentation],
                 image_size: int | None = None):
        super().__init__(split, layout)
        self._seed, self._augmentations, self._size = seed, augmentations, image_size

    def rows(self, number: tf.Tensor, replica: tf.Tensor) -> dict[str, tf.Tensor]:
        with on_host():
            positions = number * self._layout.batch_size + self._row_numbers(replica)
            index = example_index(positions, self._split.num_examples, self._seed)
        images, labels = self._split.gather(index)
        batch = {"image": images, "label": labels, "weight": tf.ones(labels.shape)}
        if self._augmentations or self._size:
            batch["image"], mix = augment.apply(images, positions, self._seed, self._augmentations, 0, self._size)
            if mix is not None:
                batch["mix"] = mix
        return batch


class EvaluationIterator(ResidentIterator):
    """One pass over a split in its own order: the batches of pipeline.data.stream.eval_batches."""

    def rows(self, number: tf.Tensor, replica: tf.Tensor) -> dict[str, tf.Tensor]:
        with on_host():
            index = number * self._layout.batch_size + self._row_numbers(replica)
        there = index < self._split.num_examples
        images, labels = self._split.gather(tf.where(there, index, 0))
        return {"image": tf.where(there[:, None, None, None], images, tf.zeros([], tf.uint8)),
                "label": tf.where(there, labels, 0), "weight": tf.cast(there, tf.float32)}
