"""What every peer trains: models, data, lengths of the timed blocks."""
import dataclasses
import pathlib
import subprocess
import sys
from collections.abc import Sequence
from typing import Any

import numpy as np

from pipeline.errors import UsageError

PEERS = ("mirrorline", "keras_fit", "keras_fit_many", "custom_loop", "torch_eager", "torch_compiled")
TORCH_PEERS = ("torch_eager", "torch_compiled")
CEILING = "ceiling"
PROOF_STEPS = 3
SEED = 0
_KEY = 17  # Seed of random images.


@dataclasses.dataclass(frozen=True)
class Target:
    """Least ratio of Mirrorline's examples/s over a peer's."""

    peer: str
    at_least: float


@dataclasses.dataclass(frozen=True)
class Workload:
    """One model on one kind of data.

    Attributes:
      model: name in Mirrorline's table of models.
      dataset: name in TensorFlow Datasets, whose shapes and sizes random data have too; "random-..." for data that are
        always random.
      image_shape: (height, width, channels) of the uint8 images.
      num_train, num_test: examples of the splits.
      steps_per_execution: of Keras `fit` where it runs several steps a call.
      block_seconds: length of a timed block; each peer's number of steps is chosen to fit it.
      warm_steps: steps before anything is timed, after which memory is read.
      evaluated: test examples of a timed evaluation.
      targets: Target of each ratio that has one.
      ceiling_target: the share of the matrix product's rate to be reached, or None.
      batch_size: examples a step.
      architecture: whether the model is one of keras.applications, which only peers of Keras train here.
      loss_tolerance: by which losses of the first steps may differ, in nats: little, but for deep models, which amplify
        rounding, and for those with dropout.
    """

    model: str
    dataset: str
    image_shape: tuple[int, int, int]
    num_train: int
    num_test: int = 10_000
    steps_per_execution: int = 4
    block_seconds: float = 2.0
    warm_steps: int = 6
    evaluated: int = 512
    targets: tuple[Target, ...] = ()
    ceiling_target: float | None = None
    batch_size: int = 64
    architecture: bool = False
    loss_tolerance: float = 1e-2

    def peers(self, chosen: Sequence[str]) -> list[str]:
        """Returns those of the chosen peers that train it."""
        return [peer for peer in chosen if not (self.architecture and peer in TORCH_PEERS)]


@dataclasses.dataclass(frozen=True)
class Settings:
    """Settings of a run.

    Attributes:
      rounds: turns of every peer.
      data_dir: folder of prepared TensorFlow Datasets, or None for random images.
      peers: names of PEERS; Mirrorline is always among them.
      options: {option: value} of Mirrorline's configuration that differ from its defaults.
    """

    rounds: int
    data_dir: str | None
    peers: tuple[str, ...]
    options: dict[str, Any]


def _targets(keras_fit, torch_compiled, keras_fit_many=None):
    targets = (Target("keras_fit", keras_fit), Target("torch_compiled", torch_compiled))
    return targets if keras_fit_many is None else (*targets, Target("keras_fit_many", keras_fit_many))


MNIST, CIFAR10 = ("mnist", (28, 28, 1), 60_000), ("cifar10", (32, 32, 3), 50_000)
WORKLOADS = {
    "mlp": Workload("mlp", *MNIST, steps_per_execution=64, block_seconds=0.9, warm_steps=512, evaluated=10_000,
                    targets=_targets(5.0, 1.5, 2.5)),
    "resnet_like": Workload("resnet_like", *MNIST, targets=_targets(1.6, 1.15), ceiling_target=0.9),
    "mini_inception": Workload("mini_inception", *CIFAR10, targets=_targets(1.45, 1.15), ceiling_target=0.8),
}


def _architecture(model, size, **more):
    return Workload(model, f"random-{size}", (size, size, 3), 1280, 128, evaluated=128, block_seconds=4.0, warm_steps=3,
                    targets=(Target("keras_fit", 1.3),), architecture=True, **more)


# Measured where they are asked for: they take a quarter of an hour more.
ARCHITECTURES = {f"{model}-{size}": _architecture(model, size, **more) for size in (64, 96) for model, more in (
    ("resnet50", {"loss_tolerance": 0.1}), ("efficientnet_v2_b0", {"loss_tolerance": 1.5}))}
# For comparisons of Mirrorline with itself.
CNN = {"mnist": Workload("cnn", *MNIST), "cifar10": Workload("cnn", *CIFAR10)}


def prepare_data(workload: Workload, folder: pathlib.Path, data_dir: str | None = None) -> pathlib.Path:
    """Writes the arrays that every peer trains on into a folder, once.

    Args:
      workload: Workload.
      folder: an existing one.
      data_dir: folder of prepared TensorFlow Datasets; None for random images of the same shapes and sizes.

    Returns:
      The folder with train_images.npy and test_images.npy, uint8 [N, H, W, C], and train_labels.npy
      and test_labels.npy, int32 [N].

    Raises:
      UsageError: the data set is not in data_dir.
    """
    place = folder / workload.dataset
    if place.exists():
        return place
    place.mkdir()
    if data_dir and not workload.dataset.startswith("random-"):
        copy = subprocess.run([sys.executable, "-m", "benchmarks.workloads", workload.dataset, data_dir, str(place)],
                              cwd=pathlib.Path(__file__).resolve().parent.parent, capture_output=True, text=True)
        if copy.returncode:
            place.rmdir()
            raise UsageError((copy.stderr.strip().splitlines() or ["the data could not be read"])[-1])
        return place
    for split, count in (("train", workload.num_train), ("test", workload.num_test)):
        images, labels = random_images(split, workload.image_shape, count)
        np.save(place / f"{split}_images.npy", images)
        np.save(place / f"{split}_labels.npy", labels)
    return place


def random_images(split: str, shape: tuple[int, int, int], count: int,
                  classes: int = 10) -> tuple[np.ndarray, np.ndarray]:
    """Returns (uint8 [count, *shape], int32 [count]): each class's pattern under noise, the same in every run."""
    height, width, channels = shape
    coarse = np.random.RandomState(_KEY).randint(0, 128, (classes, 4, 4, channels), np.uint8)
    patterns = coarse[:, np.arange(height) * 4 // height][:, :, np.arange(width) * 4 // width]
    labels = (np.arange(count) % classes).astype(np.int32)
    images = np.random.RandomState(_KEY + len(split)).randint(0, 128, (count, *shape), np.uint8)
    images += patterns[labels]
    return images, labels


def copy_data_set(name: str, data_dir: str, place: str) -> None:
    """Writes the arrays of a prepared data set into a folder; in a process of its own, since it loads TensorFlow."""
    from pipeline import silence
    silence.quiet("normal")
    from pipeline.config import ExperimentConfig
    from pipeline.console import Console
    from pipeline.data.load import load
    config = ExperimentConfig.from_flat({"dataset": name, "data_dir": data_dir})
    source = load(config.data, 1, Console(quiet=True))
    for split in (source.train, source.test):
        np.save(pathlib.Path(place) / f"{split.name}_images.npy", split.reader.images)
        np.save(pathlib.Path(place) / f"{split.name}_labels.npy", split.reader.labels)


if __name__ == "__main__":
    try:
        copy_data_set(*sys.argv[1:])
    except UsageError as error:
        sys.exit(str(error))
