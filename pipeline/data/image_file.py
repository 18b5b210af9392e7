"""Image files: what they are and their pixels, by Pillow."""
import dataclasses
import os
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".gif", ".webp", ".tif", ".tiff")
_ENDS = 65_536
_END_MARKS = {"JPEG": b"\xff\xd9", "PNG": b"IEND"}
_GREY_MODES = ("1", "L", "LA", "La", "I", "F", "I;16", "I;16B", "I;16L", "I;16N")
_EIGHT_BITS = ("1", "L", "LA", "La")
_ORIENTATION = 0x0112
_TURNED = (5, 6, 7, 8)  # Values of the EXIF orientation that exchange height and width.


@dataclasses.dataclass(frozen=True)
class ImageHeader:
    """What is known of an image file without decoding it.

    Attributes:
      height, width: in pixels, after the EXIF orientation is applied.
      grey: whether it has no colours.
      ends: the first and the last 64 KiB of the file, for its fingerprint.
    """

    height: int
    width: int
    grey: bool
    ends: bytes


class UnreadableImage(Exception):
    """A file that is no image, or is cut short. The message says why, not which."""


def read_header(path):
    """Returns the ImageHeader of a file; raises UnreadableImage.

    Where the format has a mark of its end, its absence says that the file was cut short.
    """
    try:
        with open(path, "rb") as file:
            size = os.fstat(file.fileno()).st_size
            ends = file.read(_ENDS)
            if size > _ENDS:
                file.seek(max(size - _ENDS, _ENDS))
                ends += file.read()
            file.seek(0)
            with Image.open(file) as image:
                width, height = image.size
                if image.getexif().get(_ORIENTATION) in _TURNED:
                    width, height = height, width
                if _END_MARKS.get(image.format, b"") not in ends:
                    raise UnreadableImage("the file is cut short")
                return ImageHeader(height, width, image.mode in _GREY_MODES, ends)
    except UnreadableImage:
        raise
    except Exception as error:
        raise UnreadableImage(_reason(error, path)) from error


def read_image(path, channels, size=None):
    """Decodes an image file.

    Transparency is dropped, an animation gives its first frame, the EXIF orientation is applied, 16 bits a channel
    become 8.

    Args:
      path: the file.
      channels: 1 (grey) or 3 (red, green, blue).
      size: what to resize to, bilinear with antialiasing: one number for height and width, (height, width), or None.

    Returns:
      uint8 [H, W, channels].

    Raises:
      UnreadableImage: no image, or cut short.
    """
    try:
        with Image.open(path) as image:
            image = ImageOps.exif_transpose(image)
            if image.mode in _GREY_MODES and image.mode not in _EIGHT_BITS:
                values = np.asarray(image).astype(np.float64)
                image = Image.fromarray((values / (256 if values.max() > 255 else 1)).clip(0, 255).astype(np.uint8))
            image = image.convert("L" if channels == 1 else "RGB")
            height, width = (size, size) if size is None or isinstance(size, int) else size
            if size is not None and image.size != (width, height):
                image = image.resize((width, height), Image.Resampling.BILINEAR)
            return np.asarray(image).reshape(image.height, image.width, channels)
    except Exception as error:
        raise UnreadableImage(_reason(error, path)) from error


def read_picture(path, longest):
    """Decodes an image file to be looked at: in its own proportions, never enlarged.

    Args:
      path: the file.
      longest: most pixels of height and of width.

    Returns:
      uint8 [H, W, 3].

    Raises:
      UnreadableImage: no image, or cut short.
    """
    image = Image.fromarray(read_image(path, 3))
    image.thumbnail((longest, longest), Image.Resampling.BILINEAR)
    return np.asarray(image)


def in_parallel(function, items):
    """Returns [function(item)] computed on as many threads as there are processors; UnreadableImage is returned."""
    def attempt(item):
        try:
            return function(item)
        except UnreadableImage as error:
            return error

    with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
        return list(pool.map(attempt, items))


def _reason(error, path):
    """Returns one line that says what is wrong without the path, which the reader's caller names."""
    if isinstance(error, UnidentifiedImageError):
        return "it is no image of a known format"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror.lower()
    text = str(error).replace(repr(str(path)), "it").splitlines()
    return text[0] if text and text[0] else type(error).__name__
