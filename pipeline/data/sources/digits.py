"""The built-in data set: 1,797 handwritten digits of the UCI repository, from scikit-learn."""
import numpy as np
import scipy.ndimage
import sklearn.datasets

from pipeline.choices import DATASETS
from pipeline.data.holdout import stratified
from pipeline.data.memory import InMemory
from pipeline.data.source import Source, Split, digest

SIZE = 28
TEST_EXAMPLES = 360
LEVELS = 255 / 16  # Of uint8 for one of the counts.
CLOSE = 1e-9  # Of a level; far more than the rounding errors of the interpolation.


@DATASETS.built_in("digits")
def load_digits(image_size: int | None = None) -> Source:
    """Returns scikit-learn's digits (https://archive.ics.uci.edu/dataset/80) as a Source.

    Images of 8x8 counts from 0 to 16 become uint8 [size, size, 1] in 0 to 255 by cubic interpolation; 1,437 train, 360
    test, stratified, the same in every run.

    Args:
      image_size: height and width; None: 28.
    """
    size = image_size or SIZE
    data = sklearn.datasets.load_digits()
    images, labels = enlarge(data.images, size), data.target.astype(np.int32)
    is_test = np.zeros(len(labels), bool)
    is_test[stratified(labels, TEST_EXAMPLES)] = True
    train, test = (Split(name, int(rows.sum()), InMemory(images[rows], labels[rows]), labels[rows])
                   for name, rows in (("train", ~is_test), ("test", is_test)))
    class_names = tuple(str(name) for name in data.target_names)
    fingerprint = digest(images, labels, is_test, class_names)
    return Source("digits", class_names, (size, size, 1), train, test, None, fingerprint)


def enlarge(images: np.ndarray, size: int) -> np.ndarray:
    """Returns images [N, 8, 8] of 0 to 16 as uint8 [N, size, size, 1] of 0 to 255."""
    side = images.shape[1]
    # Pixels are areas, not points: the centre of target pixel i lies at (i + 1/2) side/size - 1/2.
    centres = (np.arange(size) + 0.5) * side / size - 0.5
    padded = np.pad(images, [(0, 0), (1, 1), (1, 1)])

    def interpolated(pixels: np.ndarray, *coordinates: np.ndarray) -> np.ndarray:
        return scipy.ndimage.map_coordinates(pixels, [axis + 1 for axis in coordinates], order=3, mode="constant")

    # Interpolation is linear and separable: one matrix for the rows and the columns of every image.
    weights = np.stack([interpolated(unit, centres) for unit in np.eye(side + 2)], axis=1)
    levels = weights @ padded @ weights.T * LEVELS
    # Half-way between two levels the last bit decides, which is that of the interpolation of the whole image.
    for i in np.flatnonzero((np.abs(levels - np.floor(levels) - 0.5) < CLOSE).any(axis=(1, 2))):
        levels[i] = interpolated(padded[i], *np.meshgrid(centres, centres, indexing="ij")) * LEVELS
    return np.clip(np.rint(levels), 0, 255).astype(np.uint8)[..., None]
