"""What pictures for TensorBoard are drawn with: Pillow, since a figure of matplotlib's takes a third of a second."""
import functools
import importlib.util
import io
import os

import numpy as np
from PIL import Image, ImageDraw, ImageFont

PAPER, INK, FAINT = (255,) * 3, (33,) * 3, (116,) * 3
TITLE, LABEL = 15, 13  # Pixels: height of the letters.
MARGIN = 10  # Pixels around everything.


@functools.cache
def font(size):
    """Returns DejaVu Sans, which has most scripts' letters; Pillow's own font, which has English ones, without it."""
    matplotlib = importlib.util.find_spec("matplotlib")  # Found, not imported: that takes longer than a picture.
    if matplotlib and matplotlib.origin:
        path = os.path.join(os.path.dirname(matplotlib.origin), "mpl-data", "fonts", "ttf", "DejaVuSans.ttf")
        if os.path.exists(path):
            return ImageFont.truetype(path, size, layout_engine=ImageFont.Layout.BASIC)
    return ImageFont.load_default(size)


@functools.lru_cache(4096)
def fit(text, width, size=LABEL):
    """Returns a text on one line, cut off with dots where it is wider than `width` pixels."""
    text, letters = " ".join(str(text).split()), font(size)
    if letters.getlength(text) <= width:
        return text
    while text and letters.getlength(text + "…") > width:
        text = text[:-1]
    return text.rstrip() + "…"


def blank(width, height, channels=3):
    """Returns an empty picture, uint8 [height, width, channels], to paint on with numpy before `draw`."""
    return np.full((height, width, channels), PAPER[0], np.uint8)


def draw(pixels):
    """Returns (PIL image, ImageDraw) of painted pixels, uint8 [height, width, 3 or 1], to write on."""
    image = Image.fromarray(pixels if pixels.shape[-1] == 3 else pixels[..., 0])
    return image, ImageDraw.Draw(image)


def encode(image: Image.Image) -> tuple[bytes, tuple[int, int]]:
    """Returns (PNG file as bytes, (width, height)) of a PIL image."""
    file = io.BytesIO()
    image.save(file, "PNG", compress_level=3)
    return file.getvalue(), image.size


def visible(pictures):
    """Returns of uint8 [n, H, W, C] the channels that can be shown: the first three, or the first one as grey."""
    return pictures[..., :3 if pictures.shape[-1] >= 3 else 1]


def scaled(picture, side):
    """Scales uint8 [H, W, 3 or 1] so that its longer side is at most `side` pixels.

    Small ones by a whole factor, pixel by pixel, so that one sees what the model sees.
    """
    longest = max(picture.shape[:2])
    if longest <= side:
        factor = side // longest
        return picture.repeat(factor, axis=0).repeat(factor, axis=1)
    height, width = (max(1, round(length * side / longest)) for length in picture.shape[:2])
    small = draw(picture)[0].resize((width, height), Image.Resampling.BOX)
    return np.asarray(small).reshape(height, width, -1)
