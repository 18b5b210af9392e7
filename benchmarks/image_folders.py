"""Parts of CIFAR-10 as a user has images: folders of PNG files, one for each class."""
import pathlib
import tempfile
from collections.abc import Sequence

import numpy as np
from PIL import Image

from benchmarks.workloads import WORKLOADS, prepare_data

CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")


def read_cifar10(data_dir: str) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Returns {"train" and "test": (uint8 [N, 32, 32, 3], int32 [N])} of a prepared TensorFlow Datasets folder.

    Raises:
      UsageError: the data set is not there.
    """
    with tempfile.TemporaryDirectory() as folder:
        place = prepare_data(WORKLOADS["mini_inception"], pathlib.Path(folder), data_dir)
        return {split: (np.load(place / f"{split}_images.npy"), np.load(place / f"{split}_labels.npy"))
                for split in ("train", "test")}


def first_of_each(labels: np.ndarray, classes: Sequence[int], count: int, seed: int = 0) -> np.ndarray:
    """Returns the indices of `count` examples of each class, drawn by a seed: int64 [classes * count]."""
    order = np.random.default_rng(seed).permutation(len(labels))
    return np.concatenate([order[labels[order] == label][:count] for label in classes])


def write_split(folder: pathlib.Path, images: np.ndarray, labels: np.ndarray, size: int = 32) -> None:
    """Writes folder/CLASS/NUMBER.png, each image resized to `size` by `size`; see read_cifar10 for the arrays."""
    for number, (image, label) in enumerate(zip(images, labels, strict=True)):
        path = folder / CLASSES[label] / f"{number:05}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        found = Image.fromarray(image)
        (found if size == len(image) else found.resize((size, size), Image.Resampling.BICUBIC)).save(path)


def read_split(folder: pathlib.Path) -> tuple[np.ndarray, np.ndarray]:
    """Returns (uint8 [N, H, W, 3], int32 [N]) of what write_split wrote; labels number the classes that are there."""
    images, labels = [], []
    for label, inside in enumerate(sorted(folder.iterdir())):
        for path in sorted(inside.iterdir()):
            images.append(np.asarray(Image.open(path)))
            labels.append(label)
    return np.stack(images), np.asarray(labels, np.int32)
