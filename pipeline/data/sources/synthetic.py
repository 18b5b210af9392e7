"""Random images that can be learned, for benchmarks and tests."""
import re

import numpy as np

from pipeline.choices import DATASETS
from pipeline.data.memory import InMemory
from pipeline.data.source import Source, Split, digest
from pipeline.errors import UsageError

_BYTES = 256 * 2**20
_KEY = 11


@DATASETS.built_in("synthetic", argument="HxWxC")
def load_synthetic(text: str, image_size: int | None = None) -> Source:
    """Makes random images: the pattern of a class, with noise.

    Args:
      text: HxWxC or HxWxCxCLASSES, such as 32x32x3 or 32x32x3x100; default 10 classes.
      image_size: height and width instead of H and W, or None.

    Returns:
      Source with at most 4,096 training and a quarter as many test examples (fewer for large images), the same in every
      run.

    Raises:
      UsageError: text of another form.
    """
    match = re.fullmatch(r"(\d+)x(\d+)x(\d+)(?:x(\d+))?", text)
    numbers = [int(n or 10) for n in match.groups()] if match else [0]
    if min(numbers) < 1 or numbers[3] < 2:
        raise UsageError(f"--dataset=synthetic:{text}: give height x width x channels, and classes (at least 2) if not "
                         f"10, such as synthetic:32x32x3 or synthetic:32x32x3x100")
    shape, classes = (image_size or numbers[0], image_size or numbers[1], numbers[2]), numbers[3]
    count = int(np.clip(_BYTES // np.prod(shape), 64, 4096))
    train, test = (_split(name, shape, classes, n) for name, n in (("train", count), ("test", count // 4)))
    names = tuple(str(c) for c in range(classes))
    return Source(f"synthetic:{text}", names, shape, train, test, None, digest("synthetic", 1, shape, classes, count))


def _split(name, shape, classes, count):
    height, width, channels = shape
    coarse = np.random.RandomState(_KEY).randint(0, 128, (classes, 4, 4, channels), np.uint8)
    patterns = coarse[:, np.arange(height) * 4 // height][:, :, np.arange(width) * 4 // width]
    labels = (np.arange(count) % classes).astype(np.int32)
    images = np.random.RandomState(_KEY + len(name)).randint(0, 128, (count, *shape), np.uint8)
    for c in range(classes):
        images[labels == c] += patterns[c]
    return Split(name, count, InMemory(images, labels), labels)
