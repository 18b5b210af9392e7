"""TFRecord framing: length, its checksum, bytes, their checksum (tensorflow/core/lib/io/record_writer.h).

Written here and not by tf.io.TFRecordWriter, whose buffer is lost when the disk is full: what of it reached the file
cannot be told, and neither repeated nor taken back.
"""
import struct

import numpy as np

HEADER, CHECKSUM = 12, 4  # Bytes of the length with its checksum, and of the checksum at the end.
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


def frame(data):
    """Returns bytes as a whole record."""
    length = struct.pack("<Q", len(data))
    return b"".join((length, struct.pack("<I", checksum(length)), data, struct.pack("<I", checksum(data))))


def length_of(header):
    """Returns the number of bytes that a record's header announces, or None where it is none."""
    if len(header) < HEADER:
        return None
    length, expected = struct.unpack("<QI", header)
    return length if checksum(header[:8]) == expected else None
