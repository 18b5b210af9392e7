"""TFRecord framing: length, its checksum, bytes, their checksum (tensorflow/core/lib/io/record_writer.h).

Files are not written by tf.io.TFRecordWriter, whose buffer is lost when the disk is full: what of it reached the file
cannot be told, and neither repeated nor taken back. Many records are framed by it in memory, twenty times as fast as
here.
"""
import functools
import itertools
import os
import struct

import numpy as np
import tensorflow as tf

HEADER, CHECKSUM = 12, 4  # Bytes of the length with its checksum, and of the checksum at the end.
FEWEST, SMALLEST = 4, 4096  # Records, and bytes of them all, from which on it pays to open a file in memory.
_NUMBER = itertools.count()
_POLYNOMIAL = 0x82F63B78  # CRC-32C (Castagnoli), reflected: RFC 3720, appendix B.4.
_MASK = 0xA282EAD8


def _remainders():
    """Returns the remainders of all pairs of bytes, so that a checksum takes two bytes at a time."""
    table = np.arange(1 << 16, dtype=np.uint32)
    for _ in range(16):
        table = np.where(table & 1, (table >> 1) ^ np.uint32(_POLYNOMIAL), table >> 1)
    return table.tolist()


_PAIRS = _remainders()
_BYTES = [_PAIRS[byte << 8] for byte in range(256)]  # A pair of zero and the byte: the byte moves through 8 bits more.


def checksum(data):
    """Returns the CRC-32C of bytes, rotated and shifted as TFRecord wants it (a checksum of checksums is weak)."""
    value, even = 0xFFFFFFFF, len(data) & ~1
    for pair in struct.unpack(f"<{even // 2}H", data[:even]):
        value = _PAIRS[(value ^ pair) & 0xFFFF] ^ (value >> 16)
    if even < len(data):
        value = _BYTES[(value ^ data[-1]) & 0xFF] ^ (value >> 8)
    value ^= 0xFFFFFFFF
    return ((value >> 15 | value << 17) + _MASK) & 0xFFFFFFFF


@functools.lru_cache(4096)
def _header(length):
    """Returns the HEADER bytes that announce a record; most records of a run have one of a few lengths."""
    packed = struct.pack("<Q", length)
    return packed + struct.pack("<I", checksum(packed))


def frame(data):
    """Returns bytes as a whole record."""
    return b"".join((_header(len(data)), data, struct.pack("<I", checksum(data))))


def frames(records):
    """Returns a list of bytes as whole records, the same as `frame` of each."""
    if len(records) < FEWEST and sum(map(len, records)) < SMALLEST:
        return [frame(data) for data in records]
    path = f"ram://records-{os.getpid()}-{next(_NUMBER)}"  # TensorFlow's file system in memory.
    with tf.io.TFRecordWriter(path) as writer:
        for data in records:
            writer.write(data)
    with tf.io.gfile.GFile(path, "rb") as file:
        whole = file.read()
    tf.io.gfile.remove(path)
    ends = list(itertools.accumulate(HEADER + len(data) + CHECKSUM for data in records))
    return [whole[begin:end] for begin, end in zip([0, *ends], ends, strict=False)]


def length_of(header):
    """Returns the number of bytes that a record's header announces, or None where it is none."""
    if len(header) < HEADER:
        return None
    length, = struct.unpack("<Q", header[:8])
    return length if _header(length) == header else None
