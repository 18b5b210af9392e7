"""Facts about an image file without decoding it: its size, its orientation, and what can decode it."""
import dataclasses
import hashlib
import os

import numpy as np

from pipeline.data import jpeg_header
from pipeline.data.decode import GREY_MODES, TURNED, UnreadableImage, open_regular, orientation_of, with_image
from pipeline.data.image_index import GRAPH, JPEG, PILLOW
from pipeline.data.source import digest as digest_of

_PART, _EARLIER_PART = 16_384, 65_536  # Bytes.
_MOST_PIXELS = 89_478_485  # Of an image that Pillow opens without a warning; it refuses twice as many.
# Tags of a TIFF file: offsets and lengths of the strips or tiles of an image.
_PLACES, _LENGTHS = (273, 324), (279, 325)
_PNG_DEPTH, _PNG_GREY = 24, 0  # Position of the bits per value, before that of the color type; color type of grey.
_RGB_OF_BMP = 0  # Compression of a BMP file without one.


@dataclasses.dataclass(frozen=True)
class ImageHeader:
    """Properties of an image file that are known without decoding it.

    Attributes:
      height, width: in pixels, after the EXIF orientation is applied.
      orientation: EXIF orientation, 1 to 8.
      decoder: JPEG, GRAPH or PILLOW of image_index.
      grey: whether it has no colours.
      interpreted: whether its pixels depend on how `read_image` treats transparency or floats.
      digest: 16 bytes, that change with the first and the last 16 KiB of the file; also with 16 KiB in its middle where
        it is no JPEG file, since the ends of files without compression are often of one colour.
    """

    height: int
    width: int
    orientation: int
    decoder: int
    grey: bool
    interpreted: bool
    digest: bytes


def read_header(path: str) -> ImageHeader:
    """Returns the header of an image file.

    A file whose last bytes do not show that it is complete (truncated, or with other data after the image) is decoded.
    Damage in the middle of a file is found only by decoding it.

    Raises:
      UnreadableImage: no image, or truncated.
    """
    try:
        descriptor, size = open_regular(path)
        try:
            jpeg, whole, digest = _jpeg_header(descriptor, size)
        finally:
            os.close(descriptor)
    except OSError as error:
        raise UnreadableImage((error.strerror or str(error)).lower(), bool(error.errno)) from error
    if jpeg is None or jpeg.orientation is None or not whole or jpeg.height * jpeg.width > _MOST_PIXELS:
        return with_image(path, lambda *image: _pillow_header(jpeg, digest, *image))
    height, width = jpeg.height, jpeg.width
    if jpeg.orientation in TURNED:
        height, width = width, height
    return ImageHeader(height, width, jpeg.orientation, JPEG, jpeg.components == 1, False, digest)


def _jpeg_header(descriptor, size):
    """Returns (JpegHeader or None, whether the file ends as a whole JPEG file, digest of parts of the file)."""
    first = os.pread(descriptor, _PART, 0)
    last = os.pread(descriptor, _PART, max(size - _PART, _PART)) if size > _PART else b""
    parts, jpeg = first + last, None
    if first.startswith(jpeg_header.BEGINNING):
        jpeg = jpeg_header.parse(lambda offset, count: os.pread(descriptor, count, offset) if offset else first)
    elif size > 2 * _PART:
        parts += os.pread(descriptor, _PART, size // 2)
    return jpeg, parts.endswith(jpeg_header.END), hashlib.sha256(parts).digest()[:16]


def _pillow_header(jpeg, digest, image, ends, size, intact):
    """Returns the ImageHeader of Pillow's image, see with_image."""
    (width, height), whole = image.size, _ends_whole(image, ends, size)
    orientation = orientation_of(image)
    orientation = orientation if orientation in range(1, 9) else 1
    if orientation in TURNED and image.format != "TIFF":  # Of which Pillow gives the upright size.
        width, height = height, width
    grey, interpreted = image.mode in GREY_MODES, image.mode == "F" or image.has_transparency_data
    decoder = GRAPH if intact and whole and orientation == 1 and _is_plain(image, ends) else PILLOW
    if not whole:
        image.load()
    return ImageHeader(height, width, orientation, JPEG if jpeg else decoder, grey, interpreted, digest)


def earlier_digest(path: str) -> str:
    """Returns the digest of the first and last 64 KiB of a file, part of the fingerprints of earlier versions."""
    descriptor, size = open_regular(path)
    try:
        ends = os.pread(descriptor, _EARLIER_PART, 0)
        if size > _EARLIER_PART:
            ends += os.pread(descriptor, _EARLIER_PART, max(size - _EARLIER_PART, _EARLIER_PART))
    finally:
        os.close(descriptor)
    return digest_of(np.frombuffer(ends, np.uint8))


def _is_plain(image, ends):
    """Returns whether pipeline.data.encoded_images decodes a file, which is no JPEG, to the pixels of Pillow.

    Args:
      image: Pillow's, opened.
      ends: bytes that the file begins with.
    """
    if getattr(image, "is_animated", False):
        return False
    clear = "transparency" in image.info
    if image.format == "PNG":
        depth, kind = ends[_PNG_DEPTH], ends[_PNG_DEPTH + 1]
        if kind == _PNG_GREY:
            return depth == 8 or not clear
        return depth <= 8
    if image.format == "GIF":
        box = image.tile[0][1] if image.tile else None
        return not clear and box == (0, 0, *image.size)
    if image.format == "BMP":
        return image.info.get("compression") == _RGB_OF_BMP and int.from_bytes(ends[28:30], "little") in (8, 24, 32)
    return image.format == "WEBP"


def _ends_whole(image, ends, size):
    """Returns whether the end of a file shows, without decoding it, that no pixel is missing; False where unknown.

    Args:
      image: Pillow's, opened.
      ends: bytes that the file begins and ends with.
      size: of the file in bytes.
    """
    kind, tile = image.format, next(iter(image.tile), None)
    if kind in ("JPEG", "MPO"):
        return ends.endswith(jpeg_header.END)
    if kind == "GIF":
        return ends.endswith(b";")
    if kind == "WEBP":
        return int.from_bytes(ends[4:8], "little") + 8 <= size
    if kind == "PNG":
        return ends[-8:-4] == b"IEND"
    if kind in ("BMP", "DIB") and tile and tile[0] == "raw":
        offset, (_, stride, _) = tile[2], tile[3]
        return offset + stride * image.height <= size
    if kind == "TIFF":
        places, lengths = (np.hstack([image.tag_v2.get(tag, ()) for tag in tags]) for tags in (_PLACES, _LENGTHS))
        return len(places) == len(lengths) > 0 and bool((places + lengths).max() <= size)
    return False
