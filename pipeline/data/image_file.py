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
_LEAST_OF_16_BITS = 2**14  # A largest value that 10, 12 and 14 bits do not reach, and a picture of 16 bits does.
_LEAST_OF_LEVELS = 16  # A largest float: below it a picture of levels would be black, and one of floats too bright.
_ONE_COLOUR = 8  # Levels within which a picture has one colour.
_ORIENTATION = 0x0112
_TURNED = (5, 6, 7, 8)  # Values of the EXIF orientation that exchange height and width.


@dataclasses.dataclass(frozen=True)
class ImageHeader:
    """What is known of an image file without decoding it.

    Attributes:
      height, width: in pixels, after the EXIF orientation is applied.
      grey: whether it has no colours.
      interpreted: whether its pixels depend on what `read_image` makes of transparency, or of floats.
      ends: the first and the last 64 KiB of the file, for its fingerprint.
    """

    height: int
    width: int
    grey: bool
    interpreted: bool
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
                interpreted = image.mode == "F" or image.has_transparency_data
                return ImageHeader(height, width, image.mode in _GREY_MODES, interpreted, ends)
    except UnreadableImage:
        raise
    except Exception as error:
        raise UnreadableImage(_reason(error, path)) from error


def read_image(path, channels, size=None):
    """Decodes an image file.

    An animation gives its first frame, the EXIF orientation is applied, 16 bits a channel become 8, and so do floats in
    [0, 1]. Transparency is dropped; but a picture of one colour, drawn by its transparency alone, is laid over white,
    and over black where it is light.

    Args:
      path: the file.
      channels: 1 (grey) or 3 (red, green, blue).
      size: what to resize to, bilinear with antialiasing: one number for height and width, (height, width), or None.

    Returns:
      uint8 [H, W, channels].

    Raises:
      UnreadableImage: no image, cut short, or of numbers of which it is not known which is white.
    """
    try:
        with Image.open(path) as image:
            image = ImageOps.exif_transpose(image)
            if image.mode in _GREY_MODES and image.mode not in _EIGHT_BITS:
                image = Image.fromarray(_levels(np.asarray(image).astype(np.float64), image.mode == "F"))
            if image.has_transparency_data:
                image = _laid_over(image.convert("RGBA"))
            image = image.convert("L" if channels == 1 else "RGB")
            height, width = (size, size) if size is None or isinstance(size, int) else size
            if size is not None and image.size != (width, height):
                image = image.resize((width, height), Image.Resampling.BILINEAR)
            return np.asarray(image).reshape(image.height, image.width, channels)
    except UnreadableImage:
        raise
    except Exception as error:
        raise UnreadableImage(_reason(error, path)) from error


def _levels(values, floats):
    """Returns uint8 [H, W] of grey values that a file holds with more than 8 bits.

    Files do not say which number is white. Floats up to 1 and numbers up to 255 leave no doubt, nor do numbers that
    only 16 bits hold. Scanners and cameras of 10, 12 and 14 bits leave files in which white may be any of three.

    Args:
      values: float64 [H, W].
      floats: whether they are no whole numbers.
    """
    low, high = float(values.min()), float(values.max())
    if low >= 0 and floats and high <= 1:
        return np.rint(255 * values).astype(np.uint8)
    if low >= 0 and high <= 255 and not (floats and high < _LEAST_OF_LEVELS):
        return values.astype(np.uint8)
    if low >= 0 and _LEAST_OF_16_BITS <= high < 2**16:
        return (values / 256).astype(np.uint8)
    raise UnreadableImage(f"its grey values go from {low:g} to {high:g}, and it does not say which is black and which "
                          "white; save it with 8 bits, or with all of 16")


def _laid_over(image):
    """Lays a picture of one colour, drawn by its transparency alone, over a ground; returns any other as it is.

    Args:
      image: Pillow's, of mode RGBA.
    """
    values = np.asarray(image)
    alpha = values[..., 3]
    seen = values[alpha > 0][:, :3]
    if np.ptp(alpha) <= _ONE_COLOUR or np.ptp(seen, axis=0).max() > _ONE_COLOUR:
        return image
    ground = "white" if seen.mean() < 128 else "black"
    return Image.alpha_composite(Image.new("RGBA", image.size, ground), image)


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


def in_parallel(function, items, advance=lambda: None):
    """Returns [function(item)] computed on as many threads as there are processors; UnreadableImage is returned.

    Args:
      function: of one item.
      items: iterable.
      advance: called after each item.
    """
    def attempt(item):
        try:
            return function(item)
        except UnreadableImage as error:
            return error

    pool, results = ThreadPoolExecutor(len(os.sched_getaffinity(0))), []
    try:
        for result in pool.map(attempt, items):
            results.append(result)
            advance()
    finally:
        pool.shutdown(cancel_futures=True)  # Interrupted, nobody waits for thousands of files.
    return results


def _reason(error, path):
    """Returns one line that says what is wrong without the path, which the reader's caller names."""
    if isinstance(error, UnidentifiedImageError):
        return "it is no image of a known format"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror.lower()
    text = str(error).replace(repr(str(path)), "it").splitlines()
    return text[0] if text and text[0] else type(error).__name__
