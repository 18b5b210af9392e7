"""Drawing of images for TensorBoard with Pillow; a matplotlib figure takes a third of a second."""
import functools
import importlib.util
import io
import os

import numpy as np
from PIL import Image, ImageDraw, ImageFont
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.plugins.image import metadata
from tensorboard.util.tensor_util import make_tensor_proto

PAPER, INK, FAINT = (255,) * 3, (33,) * 3, (116,) * 3
TITLE, LABEL = 15, 13  # Font sizes in pixels.
MARGIN = 10  # Pixels around everything.


@functools.cache
def font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    """Returns DejaVu Sans, which covers most scripts; without it Pillow's own font, which covers Latin."""
    matplotlib = importlib.util.find_spec("matplotlib")  # Not imported: that takes longer than to draw an image.
    if matplotlib and matplotlib.origin:
        path = os.path.join(os.path.dirname(matplotlib.origin), "mpl-data", "fonts", "ttf", "DejaVuSans.ttf")
        if os.path.exists(path):
            return ImageFont.truetype(path, size, layout_engine=ImageFont.Layout.BASIC)
    return ImageFont.load_default(size)


@functools.lru_cache(4096)
def fit(text: str, width: int, size: int = LABEL) -> str:
    """Returns a text as one line of at most `width` pixels, shortened with an ellipsis."""
    text, letters = " ".join(str(text).split()), font(size)
    if letters.getlength(text) <= width:
        return text
    while text and letters.getlength(text + "…") > width:
        text = text[:-1]
    return text.rstrip() + "…"


def blank(width: int, height: int, channels: int = 3) -> np.ndarray:
    """Returns white pixels, uint8 [height, width, channels], to be filled before `draw`."""
    return np.full((height, width, channels), PAPER[0], np.uint8)


def draw(pixels: np.ndarray) -> tuple[Image.Image, ImageDraw.ImageDraw]:
    """Returns (PIL image, ImageDraw) of pixels, uint8 [height, width, 3 or 1], to write text on."""
    image = Image.fromarray(pixels if pixels.shape[-1] == 3 else pixels[..., 0])
    return image, ImageDraw.Draw(image)


def encode(image: Image.Image) -> bytes:
    """Returns an image as a PNG file."""
    file = io.BytesIO()
    image.save(file, "PNG", compress_level=3)
    return file.getvalue()


def image_value(tag: str, image: Image.Image, description: str = "") -> Summary.Value:
    """Returns an image as a value for TensorBoard's tab Images."""
    parts = [*(str(side).encode() for side in image.size), encode(image)]
    return Summary.Value(tag=tag, tensor=make_tensor_proto(np.array(parts, object)),
                         metadata=metadata.create_summary_metadata("", description))


def visible(images: np.ndarray) -> np.ndarray:
    """Returns the displayable channels of uint8 [n, H, W, C]: the first three, or the first one as gray."""
    return images[..., :3 if images.shape[-1] >= 3 else 1]


def scaled(image: np.ndarray, side: int) -> np.ndarray:
    """Scales uint8 [H, W, 3 or 1] so that its longer side is at most `side` pixels.

    Small images are enlarged by a whole factor, pixel by pixel: they show what the model sees.
    """
    longest = max(image.shape[:2])
    if longest <= side:
        factor = side // longest
        return image.repeat(factor, axis=0).repeat(factor, axis=1)
    height, width = (max(1, round(length * side / longest)) for length in image.shape[:2])
    small = draw(image)[0].resize((width, height), Image.Resampling.BOX)
    return np.asarray(small).reshape(height, width, -1)
