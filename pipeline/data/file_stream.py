"""Examples streamed from image files, decoded on demand."""
import os
import threading

import numpy as np
import tensorflow as tf

from pipeline.console import STANDARD
from pipeline.data import damage
from pipeline.data.decode import UnreadableImage, read_image
from pipeline.data.image_index import ImageIndex
from pipeline.data.order import example_index
from pipeline.data.source import Finish, numbered_batches
from pipeline.errors import RunFailure, UsageError
from pipeline.terminal import printable

_MOST_TRIES = 10  # Replacements tried for a file; if none can be read, the cause is not the files.


class ImageFiles:
    """Reads image files by name and decodes them on demand: any position at the same cost.

    With `skip_unreadable` a file that cannot be decoded is replaced by the next file of its class: a function of the
    files alone, so that every replica and every resume does the same.
    """

    calls_python = True  # See damage.pipelines_call_python.

    def __init__(self, index: ImageIndex, shape: tuple[int, int, int], size: int | None, skip_unreadable: bool = False,
                 replaced: set[str] | None = None):
        """
        Args:
          index: the files.
          shape: (H, W, C) of all of them.
          size: see read_image.
          skip_unreadable: whether to replace files that cannot be decoded.
          replaced: paths whose replacement was reported already.
        """
        self.index, self.labels, self.shape, self.size = index, index.labels, shape, size
        self.skip_unreadable = skip_unreadable
        self._replaced, self._lock = set() if replaced is None else replaced, threading.Lock()

    def shuffled(self, seed: int, start_step: int, batch_size: int, finish: Finish, rows: np.ndarray | None = None
                 ) -> tf.data.Dataset:
        positions = tf.data.Dataset.range(start_step * batch_size, np.iinfo(np.int64).max)
        count = len(self.labels)
        if rows is not None:
            steps = tf.data.Dataset.range(start_step, np.iinfo(np.int64).max // batch_size)
            positions = steps.map(lambda step: step * batch_size + tf.constant(rows, tf.int64)).unbatch()

        def index_of(position):
            return example_index(position[None], count, seed)[0]

        return self._batches(positions, index_of, start_step, batch_size if rows is None else len(rows), finish)

    def in_order(self, start_batch: int, batch_size: int, finish: Finish) -> tf.data.Dataset:
        positions = tf.data.Dataset.range(start_batch * batch_size, len(self.labels))
        return self._batches(positions, lambda p: p, start_batch, batch_size, finish)

    def select(self, index: np.ndarray) -> "ImageFiles":
        return ImageFiles(self.index.select(index), self.shape, self.size, self.skip_unreadable, self._replaced)

    def read_labels(self) -> np.ndarray:
        return self.labels

    def _batches(self, positions, index_of, first, batch_size, finish):
        with tf.device("CPU:0"), tf.init_scope():
            labels = tf.constant(self.labels)
        damage.watch(self)

        @tf.autograph.experimental.do_not_convert
        def example(position):
            index = index_of(position)
            image = tf.numpy_function(self._decode, [index], tf.uint8, stateful=False)
            return tf.ensure_shape(image, self.shape), labels[index]

        examples = positions.map(example, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True)
        return numbered_batches(examples, first, batch_size, finish)

    def _decode(self, index):
        """Returns the pixels of a file by its number, or of its replacement."""
        try:
            return self._read(self.index.path(index))
        except UnreadableImage as error:
            path, reason = self.index.path(index), error
        for other in self._next_of_class(index) if self.skip_unreadable else ():
            try:
                image = self._read(other)
            except UnreadableImage:
                continue
            self._warn_replaced(path, reason, other)
            return image
        raise damage.report((RunFailure if reason.lost else UsageError)(unreadable(path, reason))) from None

    def _read(self, path):
        image = read_image(path, self.shape[-1], self.size)
        if image.shape != self.shape:
            raise UnreadableImage(f"it is {image.shape[0]}x{image.shape[1]} (height x width) now and was "
                                  f"{self.shape[0]}x{self.shape[1]} when the data were loaded")
        return image

    def _next_of_class(self, index):
        """Returns the paths of the next files of the class, from the last one on to the first."""
        same = np.flatnonzero(self.labels == self.labels[index])
        others = np.roll(same, -1 - np.searchsorted(same, index))[:-1]
        return [self.index.path(i) for i in others[:_MOST_TRIES]]

    def _warn_replaced(self, path, reason, other):
        with self._lock:
            if path in self._replaced:
                return
            self._replaced.add(path)
        STANDARD.warning(printable(f"cannot read the image {path}: {reason}; in its place stands "
                                   f"{os.path.basename(other)} of the same class"))

    def find_damage(self) -> None:
        """Returns None: unreadable files are reported as they are met."""


def unreadable(path: str, reason: Exception) -> str:
    """Returns the line about an image that cannot be read."""
    return f"cannot read the image {path}: {reason}; repair or remove it, or give --skip_unreadable to go on without it"
