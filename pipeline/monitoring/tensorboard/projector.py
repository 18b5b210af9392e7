"""Embeddings of the test split, the input of the last layer, for TensorBoard's projector."""
import math
import os
from collections.abc import Sequence

import numpy as np
from google.protobuf import text_format
from PIL import Image
from tensorboard.plugins.projector import metadata
from tensorboard.plugins.projector.projector_config_pb2 import ProjectorConfig

from pipeline import files
from pipeline.monitoring.tensorboard.canvas import draw, encode, scaled, visible

MOST_EXAMPLES, MOST_DIMENSIONS = 1000, 64
SKETCH = 4096  # Wider features are first reduced to so many values.
SPRITE_SIDE = 64  # Pixels of a thumbnail at most; 32 x 32 of them stay far below the projector's 8192.
TENSORS, LABELS, SPRITE = "penultimate.tsv", "metadata.tsv", "sprite.png"


def spread(count: int, most: int = MOST_EXAMPLES) -> np.ndarray:
    """Returns the indices of at most `most` of `count` examples at equal distances, int64 ascending."""
    return np.arange(count) if count <= most else np.arange(most) * count // most


class FeatureSketch:
    """Keeps the features of chosen examples, and reduces wide ones at once.

    A hundred thousand features of a thousand examples are 400 MB and seconds of arithmetic. SKETCH sums of features
    with random signs keep the distances to a few percent (Charikar et al., "Finding frequent items in data streams").
    """

    def __init__(self, chosen: np.ndarray):
        """Args: chosen: int64 [n], ascending indices of examples."""
        self._chosen, self._signs = chosen, None
        self._parts: list[np.ndarray] = []

    def __call__(self, first: int, features: np.ndarray) -> None:
        """Adds the features, float32 [b, F], of the examples from index `first` on: every batch once, in order."""
        rows = self._chosen[np.searchsorted(self._chosen, first):] - first
        found, width = features[rows[rows < len(features)]], features.shape[1]
        if width > SKETCH:
            if self._signs is None:
                self._signs = np.random.default_rng(0).choice(np.array([-1, 1], np.float32), width)
            found = np.pad(found * self._signs, [(0, 0), (0, -width % SKETCH)])
            found = found.reshape(len(found), -1, SKETCH).sum(axis=1)
        self._parts.append(found)

    @property
    def values(self) -> np.ndarray:
        """float32 [n, min(F, SKETCH)], of the chosen examples in their order."""
        return np.concatenate(self._parts)


def principal_components(values: np.ndarray, most: int = MOST_DIMENSIONS) -> np.ndarray:
    """Returns float64 [N, <= most]: the coordinates of rows [N, F] along their principal components, largest first.

    Computed from the N x N Gram matrix, as F is larger. (Importing scikit-learn takes longer than this.)
    """
    if values.shape[1] <= most:
        return values
    centered = values - values.mean(axis=0)
    squares, vectors = np.linalg.eigh((centered @ centered.T).astype(np.float64))
    squares, vectors = squares[::-1][:most], vectors[:, ::-1][:, :most]
    return vectors * np.sqrt(np.maximum(squares, 0.0))


def sprite(images: np.ndarray) -> tuple[Image.Image, tuple[int, int]]:
    """Returns an image of the thumbnails of uint8 [N, H, W, C], row by row, and the (width, height) of one."""
    tiles = [scaled(image, SPRITE_SIDE) if max(image.shape[:2]) > SPRITE_SIDE else image for image in visible(images)]
    (height, width, channels), columns = tiles[0].shape, math.ceil(math.sqrt(len(tiles)))
    rows = -(-len(tiles) // columns)
    canvas = np.zeros((rows * columns, height, width, channels), np.uint8)
    canvas[:len(tiles)] = tiles
    canvas = canvas.reshape(rows, columns, height, width, channels).swapaxes(1, 2)
    return draw(canvas.reshape(rows * height, columns * width, channels))[0], (width, height)


def write_projector(folder: str, values: np.ndarray, images: np.ndarray, labels: np.ndarray, predicted: np.ndarray,
                    class_names: Sequence[str]) -> None:
    """Writes the files of TensorBoard's projector, replacing earlier ones; the one that refers to the others last.

    The projector labels points by the first column that is not numeric, else by the first column. Class names may be
    numbers: `right` is numeric, 1 or 0, so that `label` is always that column.

    Args:
      folder: directory of a TensorBoard run.
      values: float [N, D], D small.
      images: uint8 [N, H, W, C].
      labels, predicted: int [N].
      class_names: in the order of the labels.

    Raises:
      OSError: the disk is full, or the folder cannot be written.
    """
    os.makedirs(folder, exist_ok=True)
    names = [" ".join(str(name).split()) or "?" for name in class_names]
    lines = ["label\tprediction\tright"] + [
        f"{names[label]}\t{names[guess]}\t{int(label == guess)}"
        for label, guess in zip(labels.tolist(), predicted.tolist(), strict=True)]
    thumbnails, size = sprite(images)
    config = ProjectorConfig()
    embedding = config.embeddings.add(tensor_name="penultimate layer", tensor_path=TENSORS, metadata_path=LABELS,
                                      tensor_shape=values.shape)
    embedding.sprite.image_path = SPRITE
    embedding.sprite.single_image_dim.extend(size)
    files.write_text(os.path.join(folder, TENSORS), "\n".join(
        "\t".join(f"{value:.5g}" for value in row) for row in values.tolist()) + "\n")
    files.write_text(os.path.join(folder, LABELS), "\n".join(lines) + "\n")
    files.write_bytes(os.path.join(folder, SPRITE), encode(thumbnails))
    files.write_text(os.path.join(folder, metadata.PROJECTOR_FILENAME), text_format.MessageToString(config))
