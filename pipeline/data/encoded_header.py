"""Headers of encoded images, read inside the graph: size and orientation."""
import functools
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from pipeline.data.image_index import GRAPH, JPEG

ORIENTATION = 0x0112
_SIZES = 64  # Bytes of a file in which its height and width are, unless it is a JPEG file.
HEADER = 65_536  # Bytes of a file in which its EXIF block or color table begins.
EXIF = b"Exif\0\0"
PNG = b"\x89PNG"
# Heights and widths in the first bytes: (place, bytes, 1 for the least significant one first or -1) of PNG, GIF, a WebP
# canvas, lossy WebP and BMP, and of lossless WebP both in one number.
_NUMBERS = ((20, 4, -1), (16, 4, -1), (8, 2, 1), (6, 2, 1), (27, 3, 1), (24, 3, 1), (28, 2, 1), (26, 2, 1), (22, 4, 1),
            (18, 4, 1), (21, 4, 1))


class Header(NamedTuple):
    """Facts about an image file before its pixels are decoded.

    Attributes:
      decoder: int32 scalar, JPEG, GRAPH or PILLOW of pipeline.data.image_index.
      height, width: int32 scalars, in pixels, upright.
      orientation: int32 scalar, 1 to 8 (EXIF).
    """

    decoder: Any
    height: Any
    width: Any
    orientation: Any


def read_header(content: tf.Tensor) -> Header:
    """Reads the header of a file from its content, string scalar."""
    return Header(*_header_function()(content))


@functools.cache
def _header_function():
    """Returns `_header` as a function that is traced once, whatever graphs call it."""
    return tf.function(_header, autograph=False, input_signature=[tf.TensorSpec([], tf.string)])


def _header(content):
    def of_jpeg():
        orientation = _orientation(content)
        return (tf.constant(JPEG), *upright_size(content, orientation), orientation)

    def of_other():
        first = first_bytes(content, _SIZES)
        return (tf.constant(GRAPH), *(tf.cast(side, tf.int32) for side in declared_size(first)), tf.constant(1))

    return tf.cond(tf.io.is_jpeg(content), of_jpeg, of_other)


def upright_size(content: tf.Tensor, orientation: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Returns (height, width) of a JPEG file, upright."""
    shape = tf.image.extract_jpeg_shape(content)
    lies = orientation > 4  # Height and width change places.
    return tf.where(lies, shape[1], shape[0]), tf.where(lies, shape[0], shape[1])


def declared_size(header: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Returns (height, width) that the first bytes of a PNG, GIF, WebP or BMP file declare; of others, nothing: 0, 0.

    int64, since damaged files declare any number. All numbers are read at once, and those of the format taken: branches
    of a graph cost more. https://developers.google.com/speed/webp/docs/riff_container, RFC 6386 and 9649 for WebP files
    with and without a canvas.
    """
    weights = np.zeros([len(_NUMBERS), _SIZES], np.int64)
    for row, (begin, size, order) in enumerate(_NUMBERS):
        weights[row, begin:begin + size] = [256**k for k in range(size)][::order]
    found = tf.unstack(tf.reduce_sum(tf.cast(header[:_SIZES], tf.int64) * weights, axis=1))
    png, gif, canvas, lossy, bmp = (found[i:i + 2] for i in range(0, 10, 2))
    packed, riff = found[10], starts_with(header, b"RIFF")
    formats = [
        (starts_with(header, PNG), png), (starts_with(header, b"GIF8"), gif),
        (riff & tf.reduce_all(header[12:16] == list(b"VP8X")), [canvas[0] + 1, canvas[1] + 1]),
        (riff & tf.reduce_all(header[12:16] == list(b"VP8L")), [packed // 2**14 % 2**14 + 1, packed % 2**14 + 1]),
        (riff, [lossy[0] % 2**14, lossy[1] % 2**14]),
        # The height of a file stored from top to bottom is negative.
        (starts_with(header, b"BM"), [tf.minimum(bmp[0], 2**32 - bmp[0]), bmp[1]])]
    height, width = tf.zeros([], tf.int64), tf.zeros([], tf.int64)
    for is_format, size in reversed(formats):
        height, width = tf.where(is_format, size[0], height), tf.where(is_format, size[1], width)
    return height, width


def first_bytes(content: tf.Tensor, count: int = HEADER) -> tf.Tensor:
    """Returns int32 [3 * count], the first bytes of a file and zeros, so that every offset in them can be read."""
    data = tf.io.decode_raw(tf.strings.substr(content, 0, count), tf.uint8)
    return tf.concat([tf.cast(data, tf.int32), tf.zeros([3 * count - tf.size(data)], tf.int32)], 0)


def starts_with(header: tf.Tensor, mark: bytes) -> tf.Tensor:
    """Returns whether a file, by its first bytes, begins with these."""
    return tf.reduce_all(header[:len(mark)] == list(mark))


def _orientation(content):
    """Reads the EXIF orientation of a JPEG file: int32 scalar, 1 (upright, also where it is missing) to 8."""
    data = tf.io.decode_raw(tf.strings.substr(content, 0, HEADER), tf.uint8)
    size = tf.maximum(tf.size(data) - len(EXIF), 0)
    found = tf.reduce_all(tf.stack([data[k:size + k] == byte for k, byte in enumerate(EXIF)]), axis=0)
    return tf.cond(tf.reduce_any(found), lambda: _orientation_at(first_bytes(content), tf.argmax(
        tf.cast(found, tf.uint8), output_type=tf.int32) + len(EXIF)), lambda: tf.constant(1))


def _orientation_at(header, tiff):
    """Reads the orientation from a TIFF header and its table of entries (Exif 2.32, section 4.6.4).

    Args:
      header: int32, bytes of the file.
      tiff: where the TIFF header begins.
    """
    little = header[tiff] == ord("I")

    def word(at):  # Of two bytes, in the order of the TIFF header.
        first, second = tf.gather(header, at), tf.gather(header, at + 1)
        return tf.where(little, first + 256 * second, 256 * first + second)

    table = tiff + word(tiff + tf.where(little, 4, 6))  # Below 64 KiB: the other half of the offset is 0.
    entries = table + 2 + 12 * tf.range(tf.minimum(word(table), 256))
    number = tf.reduce_max(tf.where(word(entries) == ORIENTATION, word(entries + 8), 0))
    return tf.where((number >= 1) & (number <= 8), number, 1)
