"""The position of each record in TFRecord files, from their framing alone.

A record is framed as length (uint64), checksum of the length (uint32), data, checksum of the data (uint32), all
little-endian (https://www.tensorflow.org/tutorials/load_data/tfrecord). The walk from header to header also reads the
checksums of the data, so that a fingerprint of every byte needs no reading of the data.
"""
import dataclasses
import functools
import os
import struct
from collections.abc import Sequence

import numpy as np

from pipeline.data import array_records
from pipeline.data.array_cache import cached
from pipeline.errors import UsageError

_HEADER, _FOOTER = 12, 4


@dataclasses.dataclass(frozen=True, eq=False)
class RecordTable:
    """Records of one split, in order.

    Attributes:
      files: the shards.
      file: int32 [N], the index of each record's shard.
      offset: int64 [N], byte in its shard at which it begins; in an ArrayRecord file, its number there.
      place: int64 [N], its number among all records of all shards: consecutive unless records are left out.
      checksum: uint32 [N], the masked CRC-32C of its data; in an ArrayRecord file the CRC-32.
    """

    files: tuple[str, ...]
    file: np.ndarray
    offset: np.ndarray
    place: np.ndarray
    checksum: np.ndarray

    @property
    def is_array_record(self) -> bool:
        """Whether the shards are ArrayRecord files."""
        return array_records.is_array_record(self.files[0])

    def select(self, index: np.ndarray) -> "RecordTable":
        """Returns the table of the records `index`, int64 [n] ascending."""
        return RecordTable(self.files, self.file[index], self.offset[index], self.place[index], self.checksum[index])


def read_table(files: Sequence[str], cache_dir: str | None = None) -> RecordTable:
    """Makes the table of the records in TFRecord files, without reading the records, or in ArrayRecord files.

    Args:
      files: paths of shards, in order.
      cache_dir: folder for the tables; see array_cache.cached.

    Raises:
      UsageError: a file that cannot be read, is truncated or does not consist of records.
    """
    def walk(path):
        return array_records.walk(path) if array_records.is_array_record(path) else _walk(path)

    indexes = [cached(("records", *_identity(path)), functools.partial(walk, path), cache_dir) for path in files]
    file = np.repeat(np.arange(len(files), dtype=np.int32), [len(index["offset"]) for index in indexes])
    offset = np.concatenate([index["offset"] for index in indexes])
    checksum = np.concatenate([index["checksum"] for index in indexes])
    return RecordTable(tuple(files), file, offset, np.arange(len(offset)), checksum)


def _identity(path):
    try:
        stat = os.stat(path)
    except OSError as error:
        raise UsageError(f"cannot read {path}: {error.strerror}") from error
    # The time of the change too, which no program sets: cp -p and rsync -t keep the other.
    return os.path.abspath(path), stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns


def _walk(path):
    """Returns {"offset": int64 [n], "checksum": uint32 [n]} of one file."""
    offsets, checksums, position = [], [], 0
    with open(path, "rb", buffering=0) as file:
        size = os.fstat(file.fileno()).st_size
        descriptor = file.fileno()
        header = os.pread(descriptor, _HEADER, 0)
        while position < size:
            length = struct.unpack_from("<Q", header)[0] if len(header) == _HEADER else size
            footer = position + _HEADER + length
            if footer + _FOOTER > size:
                raise UsageError(f"{path} is cut short or damaged at byte {position} of {size}: prepare the data set "
                                 f"again")
            tail = os.pread(descriptor, _FOOTER + _HEADER, footer)
            offsets.append(position)
            checksums.append(struct.unpack_from("<I", tail)[0])
            position, header = footer + _FOOTER, tail[_FOOTER:]
    return {"offset": np.array(offsets, np.int64), "checksum": np.array(checksums, np.uint32)}
