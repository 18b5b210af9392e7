"""The recipes of ImageNet beside their sources: rates, decay and loss over the whole length, and a few real steps."""
import json
import math
import os

import numpy as np
import pytest
import tensorflow as tf
from absl import flags as absl_flags

import flags
import recipes
from benchmarks.photographs import photograph
from pipeline.config import GROUPS
from pipeline.training import cadence
from pipeline.training.schedule import learning_rate_schedule
from tests.commands import mirrorline

EXAMPLES = 1_281_167


def model_garden(step):
    """imagenet_resnet50_gpu.yaml: a linear warm-up of 3,125 steps; a drop after each of the boundaries."""
    rate = (0.8, 0.08, 0.008, 0.0008)[sum(step > boundary for boundary in (18750, 37500, 50000))]
    return step / 3125 * 0.8 if step < 3125 else rate


def big_vision(step):
    """vit_s16_i1k.py: 90 epochs of 99% of the images; 10,000 steps of warm-up, then half a cosine to 0."""
    total = math.ceil(90 * (EXAMPLES - round(EXAMPLES * 0.01)) / 1024)
    return 1e-3 * min(step / 10_000, 1) * (1 + math.cos(math.pi * max(0, step - 10_000) / (total - 10_000))) / 2


def automl(step):
    """hparams.py and utils.py: 0.016 a 256 images, times 0.97 every 2.4 epochs from the start, a warm-up of 5 epochs.

    There an epoch has whole steps, 312 instead of 312.8.
    """
    epoch = EXAMPLES / 4096
    warmup = math.ceil(5 * epoch)
    return 0.256 * (step / warmup if step < warmup else 0.97 ** math.floor(step / (2.4 * epoch)))


def strikes_back(step):
    """Table 2 of arXiv:2110.00476: 5 epochs of warm-up, then half a cosine from 8e-3 to 1e-6."""
    epoch = EXAMPLES / 2048
    total, warmup = math.ceil(100 * epoch), math.ceil(5 * epoch)
    share = (1 + math.cos(math.pi * (step - warmup) / (total - warmup))) / 2
    return 8e-3 * step / warmup if step < warmup else 1e-6 + (8e-3 - 1e-6) * share


# {recipe: (rate of a step, images, steps, what more its source gives)}.
SOURCES = {
    "imagenet-resnet50-90": (model_garden, EXAMPLES, 56_160, {
        "model": "resnet50", "image_size": 224, "augment": ("resized_crop", "flip"), "optimizer": "sgd",
        "momentum": 0.9, "nesterov": False, "batch_size": 2048, "l2": 1e-4 / 2, "weight_decay": 0.0,
        "label_smoothing": 0.1, "loss": "cross_entropy", "batch_norm_momentum": 0.9}),
    "imagenet-resnet50-a3": (strikes_back, EXAMPLES, None, {
        "model": "resnet50", "image_size": 160, "eval_image_size": 224, "resize": "crop:0.95", "optimizer": "lamb",
        "augment": ("resized_crop", "flip", "randaugment:6", "mixup:0.1", "cutmix:1"), "clip_norm": 1.0,
        "loss": "binary_cross_entropy:0.2", "label_smoothing": 0.0, "weight_decay": 0.02, "decay_all": False,
        "batch_size": 2048, "epochs": 100.0, "epsilon": 1e-6, "beta1": 0.9, "beta2": 0.999, "ema_decay": 0.0}),
    "imagenet-vit_s16-90": (big_vision, EXAMPLES - round(EXAMPLES * 0.01), None, {
        "model": "vit_s16", "image_size": 224, "augment": ("resized_crop:0.05", "flip", "randaugment:10", "mixup:0.2"),
        "optimizer": "adamw", "batch_size": 1024, "epochs": 90.0, "weight_decay": 1e-4 / 1e-3, "decay_all": False,
        "clip_norm": 1.0, "label_smoothing": 0.0, "loss": "cross_entropy", "ema_decay": 0.0}),
    "imagenet-efficientnet_v2_b0": (automl, EXAMPLES, math.ceil(350 * EXAMPLES / 4096), {
        "model": "efficientnet_v2_b0", "model_options": ("dropout=0.2", "drop_path=0.2"), "optimizer": "rmsprop",
        "image_sizes": tuple(f"{128 + 16 * (stage + 1)}@{stage / 4:g}" for stage in range(4)), "eval_image_size": 224,
        "beta2": 0.9, "momentum": 0.9, "epsilon": 1e-3, "batch_size": 4096, "l2": 1e-5 / 2, "weight_decay": 0.0,
        "label_smoothing": 0.1, "ema_decay": 0.9999, "batch_norm_momentum": 0.9}),
}


def configured(name):
    values = absl_flags.FlagValues()
    flags.define_options(values, tuple(GROUPS))
    flags.parse([f"--recipe={name}"], values, "train")
    return flags.config_from_flags(values)


def test_every_recipe_of_imagenet_has_a_source_here():
    found = {name.removesuffix(recipes.SUFFIX) for name in recipes.names()}
    assert {name for name in found if name.startswith("imagenet")} == set(SOURCES)


@pytest.mark.parametrize("name", SOURCES)
def test_rates_are_those_of_the_source_over_the_whole_length(name):
    """A warm-up counts its steps from 1 here and from 0 there; its last step here has the peak."""
    rate, examples, steps, _ = SOURCES[name]
    config = configured(name)
    plan = cadence.plan(config, examples)
    assert steps in (None, plan.total_steps)
    schedule = tf.function(learning_rate_schedule(config.optimizer, plan.total_steps, plan.warmup_steps,
                                                  drop_every=plan.drop_every))
    done = np.unique(np.r_[np.arange(0, plan.total_steps, 97), 0, plan.warmup_steps - 1, plan.warmup_steps,
                           [boundary + i for boundary in (18750, 37500, 50000) for i in (-1, 0, 1, 2)]])
    for step in done:
        last = step == plan.warmup_steps - 1
        wanted = config.optimizer.learning_rate if last else rate(step + (step < plan.warmup_steps))
        assert float(schedule(tf.constant(step, tf.int64))) == pytest.approx(wanted, rel=1e-4, abs=1e-9), step


@pytest.mark.parametrize("name", SOURCES)
def test_settings_are_those_of_the_source(name):
    given = SOURCES[name][3]
    values = configured(name).flat()
    assert {option: values[option] for option in given} == given


@pytest.fixture(scope="module")
def photographs(tmp_path_factory):
    """A folder of 1,000 classes with two made-up photographs of 500x375 each, and of the same for the test split."""
    folder, draw = tmp_path_factory.mktemp("made up"), np.random.default_rng(0)
    originals = [folder / f"{i}.jpg" for i in range(8)]
    for path in originals:
        path.write_bytes(photograph(draw, 375, 500, noise=20, quality=75))
    for split, count in (("train", 2), ("test", 1)):
        for label in range(1000):
            inside = folder / "images" / split / f"n{label:08}"
            inside.mkdir(parents=True)
            for number in range(count):
                os.link(originals[(label + number) % 8], inside / f"{number}.jpg")
    return folder / "images"


@pytest.mark.acceptance
@pytest.mark.parametrize("name", SOURCES)
def test_twenty_steps_at_true_sizes(name, photographs, tmp_path):
    run = mirrorline("train", f"--recipe={name}", f"--dataset=folder:{photographs}", "--batch_size=8", "--steps=20",
                     "--subset=20", "--workdir=run", cwd=tmp_path)
    assert run.returncode == 0, run.stderr
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    assert result["step"] == 20 and result["skipped_steps"] <= 1 and math.isfinite(result["test_loss"])
