"""Pixels of image files, read with Pillow."""
import errno
import io
import os
import stat
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
from PIL import Image, UnidentifiedImageError

_ENDS = 65_536
GREY_MODES = ("1", "L", "LA", "La", "I", "F", "I;16", "I;16B", "I;16L", "I;16N")
_EIGHT_BITS = ("1", "L", "LA", "La")
_LEAST_OF_16_BITS = 2**14  # Smallest maximum of an image of 16 bits: one of 10, 12 or 14 bits does not reach it.
_LEAST_OF_LEVELS = 16  # Smallest maximum of floats that are levels of 0 to 255: below it they may have another range.
_ONE_COLOUR = 8  # Levels within which an image has one colour.
_ORIENTATION = 0x0112
# By the EXIF orientation; values from 5 on exchange height and width.
_TURNS = {2: Image.Transpose.FLIP_LEFT_RIGHT, 3: Image.Transpose.ROTATE_180, 4: Image.Transpose.FLIP_TOP_BOTTOM,
          5: Image.Transpose.TRANSPOSE, 6: Image.Transpose.ROTATE_270, 7: Image.Transpose.TRANSVERSE,
          8: Image.Transpose.ROTATE_90}
TURNED = (5, 6, 7, 8)
_PNG = b"\x89PNG\r\n\x1a\n"
_POSTSCRIPT = (b"%!PS", b"\xc5\xd0\xd3\xc6")  # Pillow renders it with Ghostscript if that is installed.
_OF_PIXELS = (b"IHDR", b"PLTE", b"IDAT", b"tRNS", b"IEND")  # Chunks of a PNG file that its pixels depend on.


class UnreadableImage(Exception):
    """A file that is no image or is truncated. The message has the reason, not the path.

    Attributes:
      lost: whether the file could not be read at all: removed, forbidden, or on a failing disk.
    """

    def __init__(self, message: str, lost: bool = False):
        super().__init__(message)
        self.lost = lost


def read_image(path: str, channels: int, size: int | tuple[int, int] | None = None) -> np.ndarray:
    """Decodes an image file.

    An animation gives its first frame, the EXIF orientation is applied, 16 bits a channel become 8, and so do floats in
    [0, 1]. Transparency is dropped, except of an image of one colour whose shape is in its transparency: that is
    composed over white, or over black where it is light.

    Args:
      path: the file.
      channels: 1 (grey) or 3 (red, green, blue).
      size: resize to this height and width, or (height, width), bilinear with antialiasing; None: do not.

    Returns:
      uint8 [H, W, channels].

    Raises:
      UnreadableImage: no image, truncated, or of an unknown range of values.
    """
    def pixels(image, ends, file_size, intact):
        image.load()
        turn = _TURNS.get(orientation_of(image))
        image = image if turn is None else image.transpose(turn)
        if image.mode in GREY_MODES and image.mode not in _EIGHT_BITS:
            image = Image.fromarray(_levels(np.asarray(image).astype(np.float64), image.mode == "F"))
        if image.has_transparency_data:
            image = _laid_over(image.convert("RGBA"))
        image = image.convert("L" if channels == 1 else "RGB")
        height, width = (size, size) if size is None or isinstance(size, int) else size
        if size is not None and image.size != (width, height):
            image = image.resize((width, height), Image.Resampling.BILINEAR)
        return np.asarray(image).reshape(image.height, image.width, channels)

    return with_image(path, pixels)


def with_image(path: str, function: Callable[[Any, bytes, int, bool], Any]) -> Any:
    """Returns function(Pillow's image, the file's first and last 64 KiB, its size in bytes, intact).

    A PNG file for which that fails is tried again without chunks other than pixels, such as damaged texts, and with
    intact=False.

    Raises:
      UnreadableImage: the file cannot be read, or the function raised.
    """
    try:
        descriptor, size = open_regular(path)
        with open(descriptor, "rb") as file:
            ends = file.read(_ENDS)
            if size > _ENDS:
                file.seek(max(size - _ENDS, _ENDS))
                ends += file.read()
            if ends.startswith(_POSTSCRIPT):
                raise UnreadableImage("it is PostScript, a program that draws, and no image; save it as PNG")
            try:
                file.seek(0)
                with Image.open(file) as image:
                    return function(image, ends, size, True)
            except UnreadableImage:
                raise
            except Exception as error:
                if not ends.startswith(_PNG):
                    raise
                file.seek(0)
                first, pixels = error, _only_pixels(file.read())
            try:
                with Image.open(io.BytesIO(pixels)) as image:
                    return function(image, ends, size, False)
            except Exception:
                raise first from None
    except UnreadableImage:
        raise
    except Exception as error:
        raise UnreadableImage(_reason(error, path), isinstance(error, OSError) and bool(error.errno)) from error


def open_regular(path: str) -> tuple[int, int]:
    """Opens a regular file and returns (descriptor, size in bytes); reading a pipe or a device might never end.

    Raises:
      UnreadableImage: it is no file.
      OSError: it cannot be opened.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    status = os.fstat(descriptor)
    if stat.S_ISREG(status.st_mode):
        return descriptor, status.st_size
    os.close(descriptor)
    if stat.S_ISDIR(status.st_mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), path)
    raise UnreadableImage("it is no file")


def _only_pixels(content):
    """Returns a PNG file with only those chunks that its pixels need."""
    kept, place = [content[:8]], 8
    while place + 12 <= len(content):
        end = place + 12 + int.from_bytes(content[place:place + 4], "big")
        if content[place + 4:place + 8] in _OF_PIXELS:
            kept.append(content[place:end])
        place = end
    return b"".join(kept)


def orientation_of(image: Any) -> int:
    """Returns the EXIF orientation of Pillow's image, 1 where none can be read."""
    try:
        return image.getexif().get(_ORIENTATION, 1)
    except Exception:
        image.load()  # Raises where it was the pixels that could not be read.
        return 1


def _levels(values, floats):
    """Returns uint8 [H, W] of grey values that a file stores with more than 8 bits.

    Files do not store which number is white. Floats up to 1, numbers up to 255 and numbers that only 16 bits hold are
    unambiguous. In files of scanners and cameras with 10, 12 and 14 bits, white may be any of three numbers.

    Args:
      values: float64 [H, W].
      floats: whether the file stores floats.
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
    """Composes an image of one colour, whose shape is in its transparency, over a ground; returns any other as it is.

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


def read_thumbnail(path: str, longest: int) -> np.ndarray:
    """Decodes an image file for display: with its own aspect ratio, never enlarged.

    Args:
      path: the file.
      longest: most pixels of height and of width.

    Returns:
      uint8 [H, W, 3].

    Raises:
      UnreadableImage: no image, or truncated.
    """
    image = Image.fromarray(read_image(path, 3))
    image.thumbnail((longest, longest), Image.Resampling.BILINEAR)
    return np.asarray(image)


def in_parallel(function: Callable[[Any], Any], items: Iterable, advance: Callable[[], None] = lambda: None) -> list:
    """Returns [function(item)] computed on one thread a processor; an UnreadableImage is returned in place of a result.

    Args:
      function: of one item.
      items: of any type.
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
        pool.shutdown(cancel_futures=True)  # An interrupt does not wait for thousands of files.
    return results


def _reason(error, path):
    """Returns the reason in one line, without the path, which the caller adds."""
    if isinstance(error, UnidentifiedImageError):
        return "it is no image of a known format"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror.lower()
    text = str(error).replace(repr(str(path)), "it").splitlines()
    return text[0] if text and text[0] else type(error).__name__
