"""Random images with the sizes of photographs and JPEG files of their lengths: smooth shapes, texture and noise."""
import io
import pathlib

import numpy as np
from PIL import Image

_BLOCKS, _STRENGTH = (64, 8), 32  # Pixels from one random value to the next, and the values' greatest size in levels.


def photograph(draw: np.random.Generator, height: int, width: int, noise: int, quality: int) -> bytes:
    """Returns a JPEG file.

    Args:
      draw: where the random numbers come from.
      height, width: in pixels.
      noise: greatest level of the noise; 20 gives 0.47 bytes a pixel at quality 90, 10 gives 0.35.
      quality: of the encoder, 1 to 95.
    """
    image = Image.fromarray(draw.integers(0, 256, (3, 4, 3), np.uint8))
    for block in (*_BLOCKS, 1):
        tall, wide = max(1, height // block), max(1, width // block)
        pixels = np.asarray(image.resize((wide, tall), Image.Resampling.BICUBIC)).astype(np.int16)
        strength, channels = (noise, 1) if block == 1 else (_STRENGTH, 3)
        pixels += draw.integers(-strength, strength + 1, (tall, wide, channels), np.int16)
        image = Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))
    file = io.BytesIO()
    image.save(file, "JPEG", quality=quality)
    return file.getvalue()


def make_folder(folder: pathlib.Path, count: int, height: int, width: int, noise: int, quality: int = 90) -> None:
    """Makes folder/train/{a,b}/*.jpg, `count` photographs, and a test split of one a class; keeps a finished folder."""
    if (folder / "made").exists():
        return
    draw = np.random.default_rng(0)
    for number in range(count + 2):
        split = "train" if number < count else "test"
        path = folder / split / "ab"[number % 2] / f"{number}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(photograph(draw, height, width, noise, quality))
    (folder / "made").touch()
