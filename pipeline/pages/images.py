"""Images that stand in a page itself, as data addresses."""
import base64
import io
from typing import NamedTuple

import numpy as np
from PIL import Image

SMALL, LARGEST = 64, 224  # Pixels of the longer side.


class PageImage(NamedTuple):
    """What an <img> element needs: its address, its size in pixels, and whether its pixels are to be seen as such."""

    address: str
    width: int
    height: int
    small: bool


def page_image(pixels) -> PageImage:
    """Encodes an image for a page.

    A small one is a PNG, exact, whose pixels are seen as such. A larger one is brought down to LARGEST as a JPEG, which
    takes a tenth of the room of a PNG of the same photograph.

    Args:
      pixels: uint8 [H, W, C]; of 1 or 2 channels the first is gray, of 3 or more the first three are colors.
    """
    pixels = np.asarray(pixels)
    image = Image.fromarray(np.ascontiguousarray(pixels[..., 0] if pixels.shape[-1] < 3 else pixels[..., :3]))
    small, data = max(image.size) <= SMALL, io.BytesIO()
    if small:
        image.save(data, "PNG", optimize=True)
    else:
        image.thumbnail((LARGEST, LARGEST))
        image.save(data, "JPEG", quality=85)
    address = f"data:image/{'png' if small else 'jpeg'};base64,{base64.b64encode(data.getvalue()).decode()}"
    return PageImage(address, image.width, image.height, small)
