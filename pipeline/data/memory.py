"""Examples held in memory."""
import functools

import numpy as np
import tensorflow as tf

from pipeline.data.order import example_index

_ALIGNMENT = 64  # Bytes; what TensorFlow's kernels take for granted of memory that they did not allocate.


def empty_images(count, shape):
    """Returns uninitialized uint8 [count, *shape] that a tensor can share."""
    size = count * int(np.prod(shape))
    memory = np.empty(size + _ALIGNMENT, np.uint8)
    start = -memory.ctypes.data % _ALIGNMENT
    return memory[start:start + size].reshape(count, *shape)


class InMemory:
    """Reads from two arrays: images uint8 [N, H, W, C] and labels int32 [N]."""

    def __init__(self, images, labels):
        if images.ctypes.data % _ALIGNMENT or not images.flags.c_contiguous or not images.flags.writeable:
            aligned = empty_images(len(images), images.shape[1:])
            aligned[...] = images
            images = aligned
        self.images, self.labels = images, np.asarray(labels, np.int32)

    @functools.cached_property
    def tensors(self):
        """(images, labels) as tensors in host memory, made once; the images' shares the array's, no copy is made."""
        with tf.device("CPU:0"), tf.init_scope():
            return tf.experimental.dlpack.from_dlpack(self.images.__dlpack__()), tf.constant(self.labels)

    def shuffled(self, seed, start_step, batch_size, finish, rows=None):
        images, labels = self.tensors
        count, rows = len(self.labels), np.arange(batch_size) if rows is None else rows

        @tf.autograph.experimental.do_not_convert
        def batch(step):
            positions = step * batch_size + tf.constant(rows, tf.int64)
            index = example_index(positions, count, seed)
            return finish(tf.gather(images, index), tf.gather(labels, index), step)

        steps = tf.data.Dataset.range(start_step, np.iinfo(np.int64).max)
        return steps.map(batch, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True)

    def in_order(self, start_batch, batch_size, finish):
        images, labels = self.tensors

        @tf.autograph.experimental.do_not_convert
        def batch(number):
            rows = slice(number * batch_size, (number + 1) * batch_size)
            return finish(images[rows], labels[rows], number)

        numbers = tf.data.Dataset.range(start_batch, -(-len(self.labels) // batch_size))
        return numbers.map(batch, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True)

    def select(self, index):
        images = empty_images(len(index), self.images.shape[1:])
        np.take(self.images, index, axis=0, out=images, mode="clip")  # Any other mode fills a buffer beside it.
        return InMemory(images, self.labels[index])

    def read_labels(self):
        return self.labels
