"""ArrayRecord files, a format of TensorFlow Datasets whose records are read by number.

TensorFlow has no kernel for them, so a data set of them calls Python.
"""
import threading
import zlib
from collections.abc import Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from pipeline.data import damage
from pipeline.errors import UsageError

# Imports inside functions: an optional package.

SUFFIX = ".array_record"
_AT_ONCE = 512  # Records read together when a file is read from its beginning.
_RANDOM_ACCESS = "readahead_buffer_size:0,max_parallelism:0"


def is_array_record(path: str) -> bool:
    """Returns whether the name of a file is that of an ArrayRecord file or of a shard of one."""
    return SUFFIX in path


def walk(path: str) -> dict[str, np.ndarray]:
    """Returns {"offset": int64 [n], numbers of the records of a file, "checksum": uint32 [n], the CRC-32 of each}."""
    checksums = [zlib.crc32(record) for record in _all_of(path)]
    return {"offset": np.arange(len(checksums), dtype=np.int64), "checksum": np.array(checksums, np.uint32)}


def dataset(path: str) -> tf.data.Dataset:
    """Returns the records of a file, string scalars."""
    def generate():
        try:
            yield from _all_of(path)
        except UsageError as error:
            raise damage.report(error) from None

    return tf.data.Dataset.from_generator(generate, output_signature=tf.TensorSpec([], tf.string))


class ArrayRecords:
    """Reads records of several files by file and number, from any thread."""

    def __init__(self, files: Sequence[str]):
        """Args: files: paths."""
        self._files, self._lock = files, threading.Lock()
        self._readers: dict[int, Any] = {}

    def read(self, file: np.ndarray, number: np.ndarray) -> list[bytes]:
        """Returns n records.

        Args:
          file: int [n], index of the file of each; records of one file are adjacent.
          number: int [n], number in that file.

        Raises:
          UsageError: a file cannot be read.
        """
        records = []
        for index in dict.fromkeys(file.tolist()):
            path = self._files[index]
            with self._lock:
                try:
                    if index not in self._readers:
                        self._readers[index] = _module().ArrayRecordReader(path, _RANDOM_ACCESS)
                    records += self._readers[index].read(number[file == index].tolist())
                except (RuntimeError, ValueError, IndexError, OSError) as error:
                    raise _damaged(path, error) from error
        return records


def _all_of(path):
    """Yields the records of a file as bytes."""
    try:
        reader = _module().ArrayRecordReader(path, _RANDOM_ACCESS)
        count = reader.num_records()
        for first in range(0, count, _AT_ONCE):
            yield from reader.read(first, min(first + _AT_ONCE, count))
        reader.close()
    except (RuntimeError, ValueError, IndexError, OSError) as error:
        raise _damaged(path, error) from error


def _damaged(path, error):
    reason = next(iter(str(error).splitlines()), type(error).__name__)
    return UsageError(f"cannot read {path}: {reason}; prepare the data set again")


def _module():
    try:
        from array_record.python import array_record_module
    except ImportError as error:
        raise UsageError(f"the data set consists of ArrayRecord files, and array_record cannot be imported ({error}): "
                         "install it, or prepare the data set with file_format=tfrecord") from error
    return array_record_module
