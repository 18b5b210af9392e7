"""Examples held in memory."""
import functools
from collections.abc import Sequence

import numpy as np
import tensorflow as tf

from pipeline.data.augment.resized_crop import DecodedCrop
from pipeline.data.order import example_index
from pipeline.data.source import Finish

_ALIGNMENT = 64  # Bytes; TensorFlow's kernels assume it of memory that they did not allocate.


def empty_images(count: int, shape: Sequence[int]) -> np.ndarray:
    """Returns uninitialized uint8 [count, *shape] that a tensor can share."""
    size = count * int(np.prod(shape))
    memory = np.empty(size + _ALIGNMENT, np.uint8)
    start = -memory.ctypes.data % _ALIGNMENT
    return memory[start:start + size].reshape(count, *shape)


class InMemory:
    """Reads from two arrays: images uint8 [N, H, W, C] and labels int32 [N]."""

    crops = False  # See source.Reader.

    def __init__(self, images: np.ndarray, labels: np.ndarray):
        if images.ctypes.data % _ALIGNMENT or not images.flags.c_contiguous or not images.flags.writeable:
            aligned = empty_images(len(images), images.shape[1:])
            aligned[...] = images
            images = aligned
        self.images, self.labels = images, np.asarray(labels, np.int32)

    @functools.cached_property
    def tensors(self) -> tuple[tf.Tensor, tf.Tensor]:
        """(images, labels) as tensors in host memory; the images share the memory of the array."""
        with tf.device("CPU:0"), tf.init_scope():
            return tf.experimental.dlpack.from_dlpack(self.images.__dlpack__()), tf.constant(self.labels)

    def shuffled(self, seed: int, start_step: int, batch_size: int, finish: Finish, rows: np.ndarray | None = None,
                 crop: DecodedCrop | None = None) -> tf.data.Dataset:
        images, labels = self.tensors
        count, rows = len(self.labels), np.arange(batch_size) if rows is None else rows

        @tf.autograph.experimental.do_not_convert
        def batch(step):
            positions = step * batch_size + tf.constant(rows, tf.int64)
            index = example_index(positions, count, seed)
            return finish(tf.gather(images, index), tf.gather(labels, index), step)

        steps = tf.data.Dataset.range(start_step, np.iinfo(np.int64).max)
        return steps.map(batch, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True)

    def in_order(self, start_batch: int, batch_size: int, finish: Finish) -> tf.data.Dataset:
        images, labels = self.tensors

        @tf.autograph.experimental.do_not_convert
        def batch(number):
            rows = slice(number * batch_size, (number + 1) * batch_size)
            return finish(images[rows], labels[rows], number)

        numbers = tf.data.Dataset.range(start_batch, -(-len(self.labels) // batch_size))
        return numbers.map(batch, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True)

    def select(self, index: np.ndarray) -> "InMemory":
        images = empty_images(len(index), self.images.shape[1:])
        np.take(self.images, index, axis=0, out=images, mode="clip")  # Any other mode allocates a buffer.
        return InMemory(images, self.labels[index])

    def read_labels(self) -> np.ndarray:
        return self.labels
