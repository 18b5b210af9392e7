"""Images embedded in a page as data URLs."""
import base64
import io
from typing import NamedTuple

import numpy as np
from PIL import Image

SMALL, LARGEST = 64, 224  # Pixels of the longer side.


class PageImage(NamedTuple):
    """Attributes of an <img> element: data URL, size in pixels, and whether to show it without smoothing."""

    address: str
    width: int
    height: int
    small: bool


def page_image(pixels: np.ndarray) -> PageImage:
    """Encodes an image for a page: a small one as a PNG, exactly, a larger one as a JPEG of at most LARGEST pixels.

    Args:
      pixels: uint8 [H, W, C]; the first of 1 or 2 channels is gray, the first three of more are colors.
    """
    pixels = np.asarray(pixels)
    image = Image.fromarray(np.ascontiguousarray(pixels[..., 0] if pixels.shape[-1] < 3 else pixels[..., :3]))
    small, data = max(image.size) <= SMALL, io.BytesIO()
    if small:
        image.save(data, "PNG", optimize=True)
    else:  # A tenth of the size of a PNG of the same photograph.
        image.thumbnail((LARGEST, LARGEST))
        image.save(data, "JPEG", quality=85)
    address = f"data:image/{'png' if small else 'jpeg'};base64,{base64.b64encode(data.getvalue()).decode()}"
    return PageImage(address, image.width, image.height, small)
