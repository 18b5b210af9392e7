"""The image files of a split: their paths, labels and sizes in arrays, with no object for each file."""
import dataclasses
import functools
import os
from collections.abc import Callable, Iterator, Sequence
from typing import overload

import numpy as np
import tensorflow as tf

# What decodes a file. JPEG: libjpeg; of 8 bits, baseline or progressive with Huffman coding, in grey or YCbCr. GRAPH:
# pipeline.data.encoded_images, to the same pixels as Pillow. PILLOW: nothing else does.
JPEG, GRAPH, PILLOW = 0, 1, 2
_AT_ONCE = 65_536  # Paths made at once.


@dataclasses.dataclass(frozen=True, eq=False)
class PackedNames:
    """The names of files one after another, in the encoding of the file system.

    Attributes:
      content: all names; it is known elsewhere where each begins and how long it is.
    """

    content: bytes

    @functools.cached_property
    def tensor(self) -> tf.Tensor:
        """The content as uint8 [bytes] in host memory: a graph would have a copy of a string in each function."""
        with tf.device("CPU:0"), tf.init_scope():
            return tf.constant(np.frombuffer(self.content, np.uint8))


@dataclasses.dataclass(frozen=True, eq=False)
class ImageIndex:
    """Files of one split, in order.

    Attributes:
      folder: that of the data set, which the names are relative to.
      names: of all files of the data set, shared by its splits.
      start, length: int64 and int32 [N], place of each file's name in `names`.
      labels: int32 [N].
      height, width: int32 [N] in pixels, after the EXIF orientation is applied.
      orientation: uint8 [N], EXIF orientation, 1 to 8.
      decoder: uint8 [N], JPEG, GRAPH or PILLOW.
    """

    folder: str
    names: PackedNames
    start: np.ndarray
    length: np.ndarray
    labels: np.ndarray
    height: np.ndarray
    width: np.ndarray
    orientation: np.ndarray
    decoder: np.ndarray

    def __len__(self) -> int:
        return len(self.start)

    def name(self, i: int) -> str:
        """Returns the path of file i relative to the folder."""
        return os.fsdecode(self.names.content[self.start[i]:self.start[i] + self.length[i]])

    def path(self, i: int) -> str:
        """Returns the path of file i."""
        return os.path.join(self.folder, self.name(i))

    def path_reader(self) -> Callable[[tf.Tensor], tf.Tensor]:
        """Returns a function, for graphs, from the numbers of files to their paths: int64 [n] to string [n].

        Its constants take a third of the memory of `paths`.
        """
        with tf.device("CPU:0"), tf.init_scope():
            start, length = tf.constant(self.start), tf.constant(self.length)
            characters = tf.constant([bytes([value]) for value in range(256)])
        names, folder = self.names.tensor, os.fsencode(os.path.join(self.folder, ""))

        def paths_of(index):
            count, begins, lengths = tf.size(index), tf.gather(start, index), tf.gather(length, index)
            which = tf.repeat(tf.range(count), lengths)  # Of the files, each character belongs to.
            before = tf.gather(begins - tf.cast(tf.cumsum(lengths, exclusive=True), tf.int64), which)
            places = before + tf.range(tf.size(which, tf.int64), dtype=tf.int64)
            found = tf.gather(characters, tf.cast(tf.gather(names, places), tf.int32))
            return tf.strings.join([folder, tf.strings.unsorted_segment_join(found, which, count)])

        return paths_of

    @functools.cached_property
    def headers(self) -> tf.Tensor:
        """What decoding needs, int32 [N, 5] in host memory: decoder, height, width, orientation, label."""
        columns = self.decoder, self.height, self.width, self.orientation, self.labels
        table = np.empty([len(self), len(columns)], np.int32)
        for k, column in enumerate(columns):
            table[:, k] = column
        with tf.device("CPU:0"), tf.init_scope():
            return tf.constant(table)

    def paths(self) -> tf.Tensor:
        """Returns all paths, string [N] in host memory."""
        pieces = [[os.fsencode(self.path(i)) for i in range(first, min(first + _AT_ONCE, len(self)))]
                  for first in range(0, len(self), _AT_ONCE)]
        with tf.device("CPU:0"), tf.init_scope():
            return tf.concat([tf.constant([], tf.string), *map(tf.constant, pieces)], 0)

    def select(self, index: np.ndarray) -> "ImageIndex":
        """Returns the index of the files `index`, int64 [n]."""
        chosen = {field.name: getattr(self, field.name)[index] for field in dataclasses.fields(self)[2:]}
        return dataclasses.replace(self, **chosen)


class FileNames(Sequence[str]):
    """The names of the files of an ImageIndex, relative to its folder, as text that can be printed and saved."""

    def __init__(self, index: ImageIndex):
        self._index = index

    def __len__(self) -> int:
        return len(self._index)

    @overload
    def __getitem__(self, i: int) -> str: ...
    @overload
    def __getitem__(self, i: slice) -> list[str]: ...

    def __getitem__(self, i):
        if isinstance(i, slice):
            return [self[k] for k in range(*i.indices(len(self)))]
        return readable(self._index.name(range(len(self))[i]))

    def __iter__(self) -> Iterator[str]:
        return (self[i] for i in range(len(self)))


def readable(name: str) -> str:
    """Returns a name as text that can be printed and saved; bytes that are not UTF-8 become \\x and two digits."""
    return os.fsencode(name).decode("utf-8", "backslashreplace")
