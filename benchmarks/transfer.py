"""What weights trained on other classes are worth: python -m benchmarks.transfer --data_dir=FOLDER --place=FOLDER.

Trains a network on five classes of CIFAR-10, then on 50 images of each of the other five: from those weights by the
recipe `finetune`, and from nothing, as long and ten times as long. All of it by `mirrorline train`. Runs that are
finished in --place are not repeated.
"""
import argparse
import json
import os
import pathlib
import shlex
import subprocess
import sys
from collections.abc import Sequence

import numpy as np

from benchmarks.image_folders import first_of_each, read_cifar10, write_split
from benchmarks.learning import difference
from benchmarks.processes import REPOSITORY

KNOWN, NEW = range(5), range(5, 10)
PER_CLASS = 50
AUGMENT = "--augment=resized_crop:0.25,flip"
FROM_NOTHING = ("--batch_size=32", "--optimizer=adamw", "--weight_decay=0.01", "--schedule=cosine", "--warmup=1epoch",
                "--label_smoothing=0.1", "--clip_norm=1.0", "--ema_decay=0.99")
BEGINNINGS = {
    "fine-tuned, 20 epochs": ("--recipe=finetune", "--initialize_from={first}"),
    "from nothing, 20 epochs": (*FROM_NOTHING, "--epochs=20", "--learning_rate=5e-4"),
    "from nothing, 20 epochs, 4 times the learning rate": (*FROM_NOTHING, "--epochs=20", "--learning_rate=2e-3"),
    "from nothing, 200 epochs": (*FROM_NOTHING, "--epochs=200", "--learning_rate=5e-4"),
}


def make_images(place: pathlib.Path, data_dir: str, seeds: int) -> None:
    """Makes place/known and place/new-SEED, whose test splits have all images of their classes."""
    if (place / "made").exists():
        return
    splits = read_cifar10(data_dir)
    for classes, count, folders in ((KNOWN, 5000, ["known"]), (NEW, PER_CLASS, [f"new-{n}" for n in range(seeds)])):
        for number, folder in enumerate(folders):
            for split, most in (("train", count), ("test", 1000)):
                images, labels = splits[split]
                chosen = first_of_each(labels, classes, most, number)
                write_split(place / folder / split, images[chosen], labels[chosen])
    (place / "made").touch()


def train(place: pathlib.Path, name: str, images: str, model: str, seed: int, flags: Sequence[str]) -> float:
    """Runs `mirrorline train`, or takes what it left; returns the accuracy on the test split, in [0, 1]."""
    arguments = ["train", *flags, f"--dataset=folder:{place / images}", f"--model={model}", "--image_size=32", AUGMENT,
                 f"--seed={seed}", "--evaluate_every=1000000", "--checkpoint_every=60s", "--verbosity=quiet",
                 f"--workdir={place / name}"]
    print("mirrorline", shlex.join(arguments), flush=True)
    subprocess.run([sys.executable, "-m", "launch", *arguments], cwd=place, check=True,
                   env={**os.environ, "PYTHONPATH": str(REPOSITORY)})
    return json.loads((place / name / "result.json").read_text())["test_accuracy"]


def main() -> None:
    """Runs the comparison; prints a table in Markdown at the end."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data_dir", required=True, help="folder of prepared TensorFlow Datasets")
    parser.add_argument("--place", required=True, type=pathlib.Path, help="folder for images and runs")
    parser.add_argument("--model", default="cnn")
    parser.add_argument("--epochs", type=int, default=5, help="of the first training")
    parser.add_argument("--seeds", type=int, default=3)
    settings = parser.parse_args()
    place, model = settings.place.resolve(), settings.model
    place.mkdir(parents=True, exist_ok=True)
    make_images(place, settings.data_dir, settings.seeds)
    first = f"{model}-known-{settings.epochs}"
    known = train(place, first, "known", model, 0, [
        "--batch_size=64", f"--epochs={settings.epochs}", "--optimizer=adamw", "--learning_rate=1e-3",
        "--weight_decay=0.01", "--schedule=cosine", "--warmup=0.2epoch"])
    found = {beginning: [
        train(place, f"{model}-{number}-{seed}", f"new-{seed}", model, seed,
              [flag.format(first=place / first) for flag in flags])
        for seed in range(settings.seeds)] for number, (beginning, flags) in enumerate(BEGINNINGS.items())}
    print(f"\n`{model}`, accuracy on the five known classes {known:.1%}\n\n"
          "| | accuracy by seed | mean | fine-tuned over it, points |\n| --- | --- | ---: | ---: |")
    tuned, *_ = found.values()
    for beginning, values in found.items():
        mean, low, high = (100 * value for value in difference(tuned, values))
        gain = "" if values is tuned else f"{mean:.1f} ({low:.1f} to {high:.1f})"
        print(f"| {beginning} | {', '.join(f'{value:.1%}' for value in values)} | {np.mean(values):.1%} | {gain} |")


if __name__ == "__main__":
    main()
