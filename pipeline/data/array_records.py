"""Records of ArrayRecord files, which TensorFlow Datasets prepares some data sets as: read by their number.

TensorFlow has no kernel for them, so a data set of them calls Python.
"""
import threading
import zlib

import numpy as np
import tensorflow as tf

from pipeline.data import damage
from pipeline.errors import UsageError

SUFFIX = ".array_record"
_AT_ONCE = 512  # Records that are read together where a file is read from its beginning.
_RANDOM_ACCESS = "readahead_buffer_size:0,max_parallelism:0"


def is_array_record(path):
    """Tells by a file's name whether it is an ArrayRecord file; shards have a number behind."""
    return SUFFIX in path


def walk(path):
    """Returns {"offset": int64 [n], the numbers of its records, "checksum": uint32 [n], the CRC-32 of each}."""
    checksums = [zlib.crc32(record) for record in _all_of(path)]
    return {"offset": np.arange(len(checksums), dtype=np.int64), "checksum": np.array(checksums, np.uint32)}


def dataset(path):
    """Returns the tf.data.Dataset of a file's records, string scalars."""
    def generate():
        try:
            yield from _all_of(path)
        except UsageError as error:
            raise damage.report(error) from None

    return tf.data.Dataset.from_generator(generate, output_signature=tf.TensorSpec([], tf.string))


class ArrayRecords:
    """Reads records of several files by file and number, from any thread."""

    def __init__(self, files):
        """Args: files: paths."""
        self._files, self._readers, self._lock = files, {}, threading.Lock()

    def read(self, file, number):
        """Returns records, list of n bytes.

        Args:
          file: int [n], which file each is in; those of one file stand together.
          number: int [n], its number in that file.

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
    """Yields the records of a file, bytes each."""
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
        raise UsageError(f"the data set lies in ArrayRecord files, and the package array_record cannot be loaded "
                         f"({error}): install it, or prepare the data set with file_format=tfrecord") from error
    return array_record_module
