"""The test split as the last layer sees it, for TensorBoard's embedding projector."""
import math
import os

import numpy as np
from google.protobuf import text_format
from tensorboard.plugins.projector import metadata
from tensorboard.plugins.projector.projector_config_pb2 import ProjectorConfig

from pipeline import files
from pipeline.monitoring.tensorboard.canvas import draw, encode, scaled, visible

MOST_EXAMPLES, MOST_DIMENSIONS = 1000, 64
SKETCH = 4096  # Values: wider features are reduced to this before anything else is done with them.
SPRITE_SIDE = 64  # Pixels of a thumbnail at most; 32 x 32 of them stay far below the projector's 8192.
TENSORS, LABELS, SPRITE = "penultimate.tsv", "metadata.tsv", "sprite.png"


def spread(count, most=MOST_EXAMPLES):
    """Returns the numbers of at most `most` of `count` examples at equal distances, int64 ascending."""
    return np.arange(count) if count <= most else np.arange(most) * count // most


class FeatureSketch:
    """Keeps what the last layer is given of chosen examples; wide features are reduced at once.

    A hundred thousand values each of a thousand examples are 400 MB and seconds of arithmetic. Sums of SKETCH values
    with random signs keep the distances to a few percent (Charikar et al., "Finding frequent items in data streams").
    """

    def __init__(self, chosen):
        """Args: chosen: int64 [n], ascending numbers of examples."""
        self._chosen, self._parts, self._signs = chosen, [], None

    def __call__(self, first, features):
        """Takes the features, float32 [b, F], of the examples from number `first` on: every batch once, in order."""
        rows = self._chosen[np.searchsorted(self._chosen, first):] - first
        found, width = features[rows[rows < len(features)]], features.shape[1]
        if width > SKETCH:
            if self._signs is None:
                self._signs = np.random.default_rng(0).choice(np.array([-1, 1], np.float32), width)
            found = np.pad(found * self._signs, [(0, 0), (0, -width % SKETCH)])
            found = found.reshape(len(found), -1, SKETCH).sum(axis=1)
        self._parts.append(found)

    @property
    def values(self):
        """float32 [n, min(F, SKETCH)], of the chosen examples in their order."""
        return np.concatenate(self._parts)


def principal_components(values, most=MOST_DIMENSIONS):
    """Returns float64 [N, <= most]: the coordinates of rows [N, F] along their principal components, largest first.

    Through the eigenvectors of the N x N Gram matrix, as F is larger. (Importing scikit-learn takes longer than this.)
    """
    if values.shape[1] <= most:
        return values
    centred = values - values.mean(axis=0)
    squares, vectors = np.linalg.eigh((centred @ centred.T).astype(np.float64))
    squares, vectors = squares[::-1][:most], vectors[:, ::-1][:, :most]
    return vectors * np.sqrt(np.maximum(squares, 0.0))


def sprite(images):
    """Returns the PIL image of thumbnails of uint8 [N, H, W, C], row by row, and (width, height) of one."""
    tiles = [scaled(picture, SPRITE_SIDE) if max(picture.shape[:2]) > SPRITE_SIDE else picture
             for picture in visible(images)]
    (height, width, channels), columns = tiles[0].shape, math.ceil(math.sqrt(len(tiles)))
    rows = -(-len(tiles) // columns)
    canvas = np.zeros((rows * columns, height, width, channels), np.uint8)
    canvas[:len(tiles)] = tiles
    canvas = canvas.reshape(rows, columns, height, width, channels).swapaxes(1, 2)
    return draw(canvas.reshape(rows * height, columns * width, channels))[0], (width, height)


def write_projector(folder, values, images, labels, predicted, class_names):
    """Writes the files of TensorBoard's projector, the one that names the others last; earlier ones are replaced.

    The projector labels and searches by the first column that holds no numbers, or by the first one where all do, and
    names of classes may be numbers: for `label` to be that column, `right` is 1 or 0. (It colours by none until the
    user chooses one.)

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
    picture, size = sprite(images)
    config = ProjectorConfig()
    embedding = config.embeddings.add(tensor_name="penultimate layer", tensor_path=TENSORS, metadata_path=LABELS,
                                      tensor_shape=values.shape)
    embedding.sprite.image_path = SPRITE
    embedding.sprite.single_image_dim.extend(size)
    files.write_text(os.path.join(folder, TENSORS), "\n".join(
        "\t".join(f"{value:.5g}" for value in row) for row in values.tolist()) + "\n")
    files.write_text(os.path.join(folder, LABELS), "\n".join(lines) + "\n")
    files.write_bytes(os.path.join(folder, SPRITE), encode(picture)[0])
    files.write_text(os.path.join(folder, metadata.PROJECTOR_FILENAME), text_format.MessageToString(config))
