"""Whether networks learn as with Keras: python -m benchmarks.learning --data_dir=FOLDER --place=FOLDER [--model=NAME].

Trains a network on a part of CIFAR-10 by `mirrorline train` and by Keras `fit`, the same files, settings, seeds and
epochs, and compares the accuracies on the test images. Runs that are finished in --place are not repeated.
"""
import argparse
import json
import os
import pathlib
import shlex
import subprocess
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import scipy.stats

from benchmarks.image_folders import CLASSES, first_of_each, read_cifar10, write_split
from benchmarks.processes import REPOSITORY

BATCH_SIZE, LEARNING_RATE = 32, 1e-3
# {model: (height and width of the images, options of the model)}.
NETWORKS = {"resnet50": (64, {}), "vit_ti16": (32, {"patch_size": 4}), "wrn16_8": (32, {})}


def make_images(folder: pathlib.Path, data_dir: str, size: int, examples: int, tests: int) -> None:
    """Makes folder/{train,test}/CLASS/*.png, as many of each class; keeps a folder that is finished."""
    if (folder / "made").exists():
        return
    for split, count in (("train", examples), ("test", tests)):
        images, labels = read_cifar10(data_dir)[split]
        chosen = first_of_each(labels, range(len(CLASSES)), count // len(CLASSES))
        write_split(folder / split, images[chosen], labels[chosen], size)
    (folder / "made").touch()


def command(model: str, options: Mapping[str, int], images: pathlib.Path, epochs: int, seed: int,
            workdir: pathlib.Path) -> list[str]:
    """Returns the command line that trains a network of NETWORKS, after `mirrorline`."""
    more = "".join(f",{name}={value}" for name, value in options.items()).lstrip(",")
    return ["train", f"--dataset=folder:{images}", f"--model={model}", *([f"--model_options={more}"] if more else []),
            "--optimizer=adam", f"--learning_rate={LEARNING_RATE}", f"--batch_size={BATCH_SIZE}", f"--epochs={epochs}",
            f"--evaluate_every={epochs}epoch", f"--checkpoint_every={epochs}epoch", f"--seed={seed}",
            "--verbosity=quiet", f"--workdir={workdir}"]


def train_ours(arguments: Sequence[str], workdir: pathlib.Path) -> float:
    """Runs `mirrorline train`, or takes what it left; returns the accuracy on the test split, in [0, 1]."""
    subprocess.run([sys.executable, "-m", "launch", *arguments], cwd=workdir.parent, check=True,
                   env={**os.environ, "PYTHONPATH": str(REPOSITORY)})
    return json.loads((workdir / "result.json").read_text())["test_accuracy"]


def train_keras(order: Mapping[str, Any]) -> float:
    """Trains by Keras `fit` in a process of its own, or takes what it left; returns the accuracy on the test split."""
    result = pathlib.Path(order["result"])
    if not result.exists():
        subprocess.run([sys.executable, "-m", "benchmarks.keras_learning", json.dumps(order)], cwd=REPOSITORY,
                       check=True, env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"})
    return json.loads(result.read_text())["test_accuracy"]


def difference(ours: Sequence[float], theirs: Sequence[float]) -> tuple[float, float, float]:
    """Returns (mean, low, high) of the difference of two means by Welch's 95% interval, of [seeds] values each."""
    found = scipy.stats.ttest_ind(ours, theirs, equal_var=False).confidence_interval()
    return float(np.mean(ours) - np.mean(theirs)), float(found.low), float(found.high)


def main() -> None:
    """Runs the comparison; prints a line a run, and a row of Markdown at the end."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data_dir", required=True, help="folder of prepared TensorFlow Datasets")
    parser.add_argument("--place", required=True, type=pathlib.Path, help="folder for images and runs")
    parser.add_argument("--model", choices=NETWORKS, default="vit_ti16")
    parser.add_argument("--examples", type=int, default=4000)
    parser.add_argument("--tests", type=int, default=2000)
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--seeds", type=int, default=3)
    settings = parser.parse_args()
    size, options = NETWORKS[settings.model]
    place = settings.place.resolve()
    images = place / f"cifar10-{size}-{settings.examples}"
    make_images(images, settings.data_dir, size, settings.examples, settings.tests)
    ours, theirs = [], []
    for seed in range(settings.seeds):
        run = place / f"{settings.model}-{settings.examples}-{settings.epochs}-{seed}"
        arguments = command(settings.model, options, images, settings.epochs, seed, run)
        if not seed:
            print("mirrorline", shlex.join(arguments), flush=True)
        ours.append(train_ours(arguments, run))
        theirs.append(train_keras({
            "model": settings.model, "options": options, "images": str(images), "batch_size": BATCH_SIZE,
            "learning_rate": LEARNING_RATE, "epochs": settings.epochs, "seed": seed, "result": f"{run}-keras.json"}))
        print(f"seed {seed}: {ours[-1]:.2%}, Keras fit {theirs[-1]:.2%}", flush=True)
    mean, low, high = (100 * value for value in difference(ours, theirs))
    print(f"| `{settings.model}`, {size}x{size} | {settings.examples:,} | {settings.epochs} | "
          + " | ".join(", ".join(f"{value:.1%}" for value in values) for values in (ours, theirs))
          + f" | {mean:+.1f} ({low:+.1f} to {high:+.1f}) |")


if __name__ == "__main__":
    main()
