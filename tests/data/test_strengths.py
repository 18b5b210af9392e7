"""The strengths of augmentations: their units, ranges and defaults, and what is refused before anything is written."""
import json
import math
import os

import numpy as np
import pytest
import tensorflow as tf

from pipeline.augmentation import Augmentation, check_strengths
from pipeline.choices import AUGMENTATIONS
from pipeline.config import ExperimentConfig
from pipeline.data import augment
from pipeline.errors import UsageError
from tests.commands import answers, mirrorline, succeed

NO_NUMBER = ("nan", "inf", "-inf", "1e400", "-1", "0", "-0.0", "much", "1e9", "3 4")


@pytest.mark.parametrize("name", AUGMENTATIONS)
def test_an_invalid_strength_is_refused_with_unit_range_and_default(name):
    of = AUGMENTATIONS[name].row
    for text in (*NO_NUMBER, f"{of.high * 1.01}", *(["2.5"] if of.whole else [])):
        with pytest.raises(UsageError) as error:
            check_strengths([f"{name}:{text}"])
        output = str(error.value)
        assert f"--augment={name}:{text}: the strength must be" in output and f"found '{text}'" in output
        assert of.unit in output and of.range in output and f"default {of.default_text}" in output
    check_strengths([name, f"{name}:{of.low}", f"{name}:{of.high}", f"{name}:{of.default_for(28)}"])


@pytest.mark.parametrize("text, shape, most", [
    ("crop:500", (28, 28, 1), 14), ("crop:15", (28, 40, 1), 14), ("cutout:100", (28, 28, 1), 28),
    ("cutout:29", (64, 28, 3), 28), ("crop:2", (3, 3, 1), 1),
])
def test_pixels_are_bounded_by_the_images(text, shape, most):
    with pytest.raises(UsageError, match=f"{most} for images of {shape[0]}x{shape[1]} pixels"):
        check_strengths([text], shape)
    check_strengths([text], begun_with=(text,))
    name = text.partition(":")[0]
    check_strengths([f"{name}:{most}", name], shape)


@pytest.mark.parametrize("name", AUGMENTATIONS)
@pytest.mark.parametrize("size", [1, 28])
def test_every_strength_within_the_range_leaves_images_to_train_on(name, size):
    of = AUGMENTATIONS[name].row
    images = tf.constant(np.full((64, size, size, 3), 200, np.uint8))
    bound = min(of.high, max(1, int(of.most_part * size))) if of.most_part else of.high
    for strength in (of.low, bound, None):
        found, _ = augment.apply(images, tf.range(64, dtype=tf.int64), 0, (Augmentation(name, strength),))
        black = (found.numpy() == 0).all(axis=(1, 2, 3)).mean()
        assert black < (0.1 if size > 1 else 1.01), (strength, black)


def test_help_has_unit_range_and_default_of_each(tmp_path):
    shown = " ".join(mirrorline("train", "--help", cwd=tmp_path).stdout.split())
    assert " | ".join(AUGMENTATIONS.shown()) in shown and "degrees each way, 0.01 to 180, default 15" in shown


def test_a_strength_too_large_for_the_images_is_refused_before_writing_and_old_runs_continue(tmp_path):
    train = ("train", "--dataset=synthetic:12x12x1x3", "--model=mlp", "--batch_size=4", "--subset=2",
             "--tensorboard=scalars", "--workdir=run")
    (code, _, errors), _ = answers([(*train, "--augment=crop:7", "--steps=2", "--workdir=refused"),
                                    (*train, "--augment=color:1", "--steps=2")], tmp_path)
    assert code == 2 and errors.count("\n") == 1 and "6 for images of 12x12" in errors
    assert os.listdir(tmp_path) == ["run"]
    path = tmp_path / "run" / "config.json"
    stored = json.loads(path.read_text())
    stored["config"]["augment"] = ["color:1.5"]  # As it was accepted before.
    path.write_text(json.dumps(stored))
    succeed(*train, "--augment=color:1.5", "--steps=4", cwd=tmp_path)


def test_a_configuration_with_a_strength_that_is_no_number_is_refused():
    with pytest.raises(UsageError, match="must be a number from 0.01 to 180"):
        ExperimentConfig.from_flat({"augment": (f"rotate:{math.nan}",)})
