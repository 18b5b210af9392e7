"""Pictures that stand in a page itself, as data addresses."""
import base64
import io

import numpy as np
from PIL import Image

from pipeline.pages.markup import escape

SMALL, LARGEST = 64, 224  # Pixels of the longer side.


def image_tag(pixels, alt):
    """Returns an <img> element that holds its picture.

    A small one is a PNG, exact, whose pixels are seen as such. A larger one is brought down to LARGEST as a JPEG, which
    takes a tenth of the room of a PNG of the same photograph.

    Args:
      pixels: uint8 [H, W, C]; of 1 or 2 channels the first is grey, of 3 or more the first three are colours.
      alt: what is said of it to those who cannot see it.
    """
    pixels = np.asarray(pixels)
    image = Image.fromarray(np.ascontiguousarray(pixels[..., 0] if pixels.shape[-1] < 3 else pixels[..., :3]))
    small, bytes_ = max(image.size) <= SMALL, io.BytesIO()
    if small:
        image.save(bytes_, "PNG", optimize=True)
    else:
        image.thumbnail((LARGEST, LARGEST))
        image.save(bytes_, "JPEG", quality=85)
    address = f"data:image/{'png' if small else 'jpeg'};base64,{base64.b64encode(bytes_.getvalue()).decode()}"
    kind = ' class="pixels"' if small else ""
    return f'<img{kind} src="{address}" width="{image.width}" height="{image.height}" alt="{escape(alt)}">'
