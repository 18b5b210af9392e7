"""What is known of an image file without decoding it: its size, its orientation, and what can decode it."""
import dataclasses
import os

import numpy as np

from pipeline.data import jpeg_header
from pipeline.data.decode import GREY_MODES, TURNED, orientation_of, with_image
from pipeline.data.image_index import GRAPH, JPEG, PILLOW
from pipeline.data.source import digest

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
      file_size: in bytes.
      ends_digest: of the first and the last 64 KiB of the file.
    """

    height: int
    width: int
    orientation: int
    decoder: int
    grey: bool
    interpreted: bool
    file_size: int
    ends_digest: str


def read_header(path: str) -> ImageHeader:
    """Returns the header of an image file.

    A file whose last bytes do not show that it is complete (truncated, or with other data after the image) is decoded.
    Damage in the middle of a file is found only by decoding it.

    Raises:
      UnreadableImage: no image, or truncated.
    """
    def header(image, ends, size, intact):
        (width, height), whole = image.size, _ends_whole(image, ends, size)
        turn = orientation_of(image)
        turn = turn if turn in range(1, 9) else 1
        if turn in TURNED:
            width, height = height, width
        grey, interpreted = image.mode in GREY_MODES, image.mode == "F" or image.has_transparency_data
        decoder = GRAPH if intact and whole and turn == 1 and _is_plain(image, ends) else PILLOW
        if not whole:
            image.load()
        if image.format in ("JPEG", "MPO") and _is_plain_jpeg(path):
            decoder = JPEG
        return ImageHeader(height, width, turn, decoder, grey, interpreted, size,
                           digest(np.frombuffer(ends, np.uint8)))

    return with_image(path, header)


def _is_plain_jpeg(path):
    with open(path, "rb", buffering=0) as file:
        return jpeg_header.parse(lambda offset, count: os.pread(file.fileno(), count, offset)) is not None


def _is_plain(image, ends):
    """Returns whether pipeline.export.encoded_images decodes a file, which is no JPEG, to the pixels of Pillow.

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
