"""Examples streamed from image files, decoded on demand inside the graph."""
import collections
import os

import numpy as np
import tensorflow as tf

from pipeline.console import STANDARD
from pipeline.data import damage
from pipeline.data.augment.resized_crop import DecodedCrop, boxes
from pipeline.data.decode import UnreadableImage, in_parallel, read_image
from pipeline.data.encoded_header import Header
from pipeline.data.encoded_images import Shortcut, decode_fast, decode_one
from pipeline.data.image_index import ImageIndex
from pipeline.data.image_reader import NO_BOX, ImageReader
from pipeline.data.order import example_index
from pipeline.data.resizing import box_of
from pipeline.data.source import Finish, numbered_batches
from pipeline.data.unreadable import EVALUATION, Unreadable
from pipeline.errors import RunFailure, UsageError
from pipeline.preprocessing import EARLIER, Preprocessing
from pipeline.terminal import printable

_MOST_TRIES = 10  # Replacements tried for a file; if none can be read, the cause is not the files.
_REMEMBERED = 16_384  # Files opened last, among which one that stopped the stream is looked for.


class ImageFiles:
    """Reads image files by name and decodes them on demand: any position at the same cost.

    Which files a batch has, and every random number of it, is computed once a batch; then each file is read and decoded
    by TensorFlow's kernels. With `skips` they are called from Python, file by file, and one that cannot be
    decoded is replaced by the next file of its class: a function of the files alone, so that every replica and every
    resume does the same.
    """

    calls_python = True  # See damage.pipelines_call_python.
    crops = True  # See source.Reader.

    def __init__(self, index: ImageIndex, training: Preprocessing, evaluation: Preprocessing,
                 skips: Unreadable | None = None):
        """
        Args:
          index: the files.
          training: of `shuffled`.
          evaluation: of `in_order`.
          skips: where files that cannot be decoded and are replaced are added; None: they end the stream.
        """
        self.index, self.training, self.evaluation, self.skips = index, training, evaluation, skips
        self._opened: collections.deque[int] = collections.deque(maxlen=_REMEMBERED)
        self._sized: dict[int, ImageFiles] = {}  # Kept: a stream refers weakly to what finds damaged files.

    def shuffled(self, seed: int, start_step: int, batch_size: int, finish: Finish, rows: np.ndarray | None = None,
                 crop: DecodedCrop | None = None) -> tf.data.Dataset:
        rows = np.arange(batch_size) if rows is None else rows
        count = len(self.index)

        def choose(step):
            positions = step * batch_size + tf.constant(rows, tf.int64)
            return self._facts(example_index(positions, count, seed), positions, crop and crop.draw(seed, positions))

        steps = tf.data.Dataset.range(start_step, np.iinfo(np.int64).max // batch_size)
        return self._batches(steps, choose, self.training, start_step, len(rows), finish, crop)

    def in_order(self, start_batch: int, batch_size: int, finish: Finish) -> tf.data.Dataset:
        count = len(self.index)

        def choose(number):
            index = tf.range(number * batch_size, tf.minimum((number + 1) * batch_size, count))
            return self._facts(index, tf.fill(tf.shape(index), tf.constant(EVALUATION, tf.int64)))

        numbers = tf.data.Dataset.range(start_batch, -(-count // batch_size))
        return self._batches(numbers, choose, self.evaluation, start_batch, batch_size, finish)

    def select(self, index: np.ndarray) -> "ImageFiles":
        return ImageFiles(self.index.select(index), self.training, self.evaluation, self.skips)

    def sized(self, size: int) -> "ImageFiles":
        """Returns a reader of the same files whose training images are size x size."""
        if size not in self._sized:
            self._sized[size] = ImageFiles(self.index, self.training.sized(size), self.evaluation, self.skips)
        return self._sized[size]

    def read_labels(self) -> np.ndarray:
        return self.index.labels

    def _facts(self, index, positions, drawn=None):
        """Returns the facts about the files of a batch.

        Returns:
          {"index", "position": int64 [n], "facts": int32 [n, 5], and of a crop "seeds": int32 [n, 2], "mirrors":
          bool [n]}.
        """
        index = tf.ensure_shape(tf.numpy_function(self._remember, [index], tf.int64), index.shape)
        seeds, mirrors = drawn or (tf.zeros([tf.size(index), 2], tf.int32), tf.zeros([tf.size(index)], tf.bool))
        return {"index": index, "position": positions, "facts": tf.gather(self.index.headers, index), "seeds": seeds,
                "mirrors": mirrors}

    def _remember(self, index):
        self._opened.extend(index.tolist())
        return index

    def _batches(self, numbers, choose, preprocessing, first, batch_size, finish, crop=None):
        damage.watch(self)
        in_python = self.skips is not None or preprocessing.version == EARLIER
        image = (self._image_by_python if in_python else self._image)(preprocessing, crop)
        paths_of = self.index.path_reader()

        @tf.autograph.experimental.do_not_convert
        def boxed(number):
            batch = choose(number)
            if in_python:
                return batch
            header = Header(*tf.unstack(batch["facts"][:, :4], axis=1))
            if crop is None:
                box = box_of(header.height, header.width, preprocessing)
            else:
                box = boxes(header.height, header.width, batch["seeds"], crop.least_area)
            shortcut = Shortcut.of(header, box, preprocessing)
            facts = tf.concat([batch["facts"], shortcut.way[:, None], shortcut.window, box], axis=1)
            return {"index": batch["index"], "path": paths_of(batch["index"]), "facts": facts,
                    "mirrors": batch["mirrors"]}

        @tf.autograph.experimental.do_not_convert
        def example(file):
            found, label = image(file), file["facts"][4]
            return (found if crop is None else crop.mirror(found, file["mirrors"])), label

        files = numbers.map(boxed, num_parallel_calls=1, deterministic=True).prefetch(2).unbatch()
        return numbered_batches(files, example, first, batch_size, finish)

    def _image(self, preprocessing, _):
        """Returns a function from the facts of a file to its image, of TensorFlow's kernels."""
        def image(file):
            content, facts = tf.io.read_file(file["path"]), file["facts"]
            header, shortcut = Header(*tf.unstack(facts[:4])), Shortcut(facts[5], facts[6:10])

            def by_pillow():
                return tf.ensure_shape(tf.numpy_function(self._pillow, [file["index"]], tf.uint8), [None, None, 3])

            return decode_fast(content, shortcut, header, preprocessing, lambda: decode_one(
                content, preprocessing, header, facts[10:], by_pillow))

        return image

    def _pillow(self, i):
        """Returns the pixels of a file that only Pillow decodes: uint8 [h, w, 3]."""
        path = self.index.path(i)
        try:
            return read_image(path, 3)
        except UnreadableImage as error:
            raise damage.report(_failure(path, error)) from None

    def _image_by_python(self, preprocessing, crop):
        """As `_image`, with a call of Python for each file."""
        reader, least_area = ImageReader(preprocessing), crop and crop.least_area

        def read(i, position, seeds):
            try:
                return self._read(reader, i, seeds, least_area)
            except UnreadableImage as error:
                reason = error
            for other in self._next_of_class(i) if self.skips else ():
                try:
                    image = self._read(reader, other, seeds, least_area)
                except UnreadableImage:
                    continue
                if self.skips.replace(int(self.index.start[i]), int(position)):
                    STANDARD.warning(printable(
                        f"cannot read the image {self.index.path(i)}: {reason}; in its place stands "
                        f"{os.path.basename(self.index.path(other))} of the same class"))
                return image
            raise damage.report(_failure(self.index.path(i), reason)) from None

        def image(file):
            arguments = [file["index"], file["position"], file["seeds"]]
            return tf.ensure_shape(tf.numpy_function(read, arguments, tf.uint8, stateful=False),
                                   preprocessing.image_shape)

        return image

    def _read(self, reader, i, seeds=None, least_area=None):
        """Returns the image of a file by its number."""
        files, box = self.index, NO_BOX
        header = tuple(int(column[i]) for column in (files.decoder, files.height, files.width, files.orientation))
        if least_area is not None:
            box = boxes(*(tf.constant([side]) for side in header[1:3]), tf.constant(seeds[None]), least_area)[0].numpy()
        return reader.read(files.path(i), header, box)

    def _next_of_class(self, i):
        """Returns the numbers of the next files of the class, from the last one on to the first."""
        same = np.flatnonzero(self.index.labels == self.index.labels[i])
        return np.roll(same, -1 - np.searchsorted(same, i))[:-1][:_MOST_TRIES]

    def find_damage(self) -> UsageError | RunFailure | None:
        """Returns the error about the first of the files opened last that cannot be read; None without one."""
        reader, files = ImageReader(self.evaluation), list(dict.fromkeys(self._opened))
        for i, found in zip(files, in_parallel(lambda i: self._read(reader, i), files), strict=True):
            if isinstance(found, UnreadableImage):
                return _failure(self.index.path(i), found)
        return None


def _failure(path, reason):
    """Returns the error that ends a run at a file: one that is gone may be back at the next attempt."""
    return (RunFailure if reason.lost else UsageError)(unreadable(path, reason))


def unreadable(path: str, reason: Exception) -> str:
    """Returns the line about an image that cannot be read."""
    return f"cannot read the image {path}: {reason}; repair or remove it, or give --skip_unreadable to go on without it"
