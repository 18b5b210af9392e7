"""--image_sizes: the size of training images is a function of the step, wherever they are kept and augmented."""
import itertools

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from pipeline.augmentation import Augmentation, augmentations
from pipeline.config import ExperimentConfig
from pipeline.console import Console
from pipeline.data import augment
from pipeline.data.augment.resized_crop import boxes
from pipeline.data.load import load
from pipeline.data.stateless_random import example_seeds, fold_in
from pipeline.data.stream import BatchLayout, eval_batches, train_stream
from pipeline.errors import UsageError
from pipeline.training.cadence import plan
from tests.commands import kill_at_step, result, start, succeed
from tests.parity_cells import EVERYTHING
from tests.selection import quick
from tests.training.own_models import offer
from tests.training.small import build, distance, run, weights

SIZES = dict(model="pooled", image_sizes=("10@0", "12@0.25", "16@0.7"), steps=8, batch_size=12,
             augment=("flip", "crop"))


@pytest.fixture(autouse=True)
def pooled(monkeypatch):
    """Offers the model."""
    offer(monkeypatch)


def test_the_plan_has_the_size_of_each_step_which_is_traced_once_for_each(strategy):
    experiment = build(strategy(1), **{**SIZES, "augment": ()})
    assert [experiment.plan.image_size(step) for step in range(9)] == [10, 10, 12, 12, 12, 12, 16, 16, 16]
    assert [experiment.plan.steps_to_boundary(step) for step in range(8)] == [2, 1, 4, 3, 2, 1, 2, 1]
    assert [experiment.train_batch(step)["image"].shape[1] for step in (1, 2, 6)] == [10, 12, 16]
    assert experiment.source.image_shape == (16, 16, 1) == experiment.source.preprocessing.image_shape
    # Where a run has fewer steps than sizes, its last has the last.
    assert plan(experiment.config.replace(steps=1), 1437).image_sizes == ((0, 16),)
    traced, trace = [], experiment.steps.trace
    experiment.steps.trace = lambda: (traced.append(experiment.steps.image_size), trace())
    run(experiment, 8)
    assert traced == [12, 16] and experiment.steps.train_steps.experimental_get_tracing_count() == 1
    assert experiment.evaluate(experiment.source.test).figures["examples"] == 360


# Batches made outside of the step, inside of it, and of data on the devices: the same bits, through any checkpoint.
@pytest.mark.parametrize("replicas, options", quick([
    (2, {}), (1, dict(augment=("resized_crop", "flip"))), (1, {}),
    (2, dict(augment=(), model="resnet_like", image_sizes=("20@0", "28@0.5")))], 1))
def test_a_run_is_the_same_from_any_checkpoint_and_from_any_place_of_the_data(strategy, tmp_path, replicas, options):
    options = {**SIZES, "precision": "float32", **options}
    whole = build(strategy(replicas), **options)
    saved, parts = {}, []
    for step, end in ((0, 2), (2, 5), (5, 8)):
        saved[step] = whole.state.checkpoint().write(str(tmp_path / str(step)))
        parts.append(run(whole, end - step, start=step)[:, 0])
    rows = np.concatenate(parts)
    assert len(set(rows)) == 8
    for place, cut in (({"augment_on": "device"}, 5), ({"cache": "device"}, 2)):
        resumed = build(strategy(replicas), **options, **place)
        resumed.state.checkpoint().read(saved[cut]).assert_consumed()
        np.testing.assert_array_equal(run(resumed, 8 - cut, start=cut)[:, 0], rows[cut:], err_msg=f"{place} from {cut}")
        assert all(np.array_equal(a, b) for a, b in zip(weights(whole), weights(resumed), strict=True))


@pytest.mark.parametrize("options", quick([{}, {"augment": ("resized_crop", "flip")}, {"skip_unreadable": True}], 1))
def test_files_are_decoded_to_the_size(tmp_path, options):
    """The images of a size are those of a run of that size alone; evaluation has the last."""
    for split, label in itertools.product(("train", "test"), "ab"):
        (tmp_path / "files" / split / label).mkdir(parents=True)
        for i in range(4):
            pixels = np.random.default_rng(i + ord(label)).integers(0, 256, (5, 6, 3), np.uint8)
            Image.fromarray(pixels).resize((60 + i, 50)).save(tmp_path / "files" / split / label / f"{i}.jpg")
    common = {"dataset": f"folder:{tmp_path / 'files'}", "memory_budget": 0, "cache_dir": str(tmp_path), **options}

    def source(**sizes):
        config = ExperimentConfig.from_flat({**common, **sizes}).data
        return load(config, 8, Console(quiet=True)), augmentations(config)

    whole, chain = source(image_sizes=("24@0", "32@0.5"))
    streams = [train_stream(s.train, BatchLayout(8), 3, 5, chain, image_size=wanted)
               for s, wanted in ((whole, 24), (source(image_size=24)[0], None))]
    batches = [next(stream.as_numpy_iterator())["image"] for stream in streams]
    assert batches[0].shape == (8, 24, 24, 3)
    np.testing.assert_array_equal(*batches)
    tested = [next(eval_batches(s.test, BatchLayout(8)).as_numpy_iterator())["image"]
              for s in (whole, source(image_size=32)[0])]
    np.testing.assert_array_equal(*tested)


@pytest.mark.acceptance
def test_a_killed_run_ends_with_the_same_bits_and_the_speed_of_each_size(tmp_path):
    train = ("train", "--dataset=digits", "--model=three_apis", "--batch_size=16", "--subset=4", "--steps=40",
             "--augment=crop", "--image_sizes=20@0,24@0.3,28@0.6", "--checkpoint_every=5", "--steps_per_loop=2",
             "--evaluate_every=20", "--schedule=constant", "--tensorboard=scalars")
    output = succeed(*train, "--workdir=whole", cwd=tmp_path).stdout
    assert "images  after step 12: 24x24" in output and "images  after step 24: 28x28" in output
    for step in (11, 14, 23, 26):
        kill_at_step(start(*train, "--workdir=killed", cwd=tmp_path), tmp_path / "killed", step)
    succeed(*train, "--workdir=killed", cwd=tmp_path)
    whole, killed = (result(tmp_path / name) for name in ("whole", "killed"))
    assert whole["weights_sha256"] == killed["weights_sha256"] and whole["test_loss"] == killed["test_loss"]
    assert list(whole["examples_per_second_by_image_size"]) == ["20", "24", "28"]
    assert whole["goodput"]["seconds"]["compiling"] > 0
    longer = start(*train, "--workdir=whole", "--steps=60", cwd=tmp_path)
    assert longer.wait() == 2  # The length decides when sizes change.


@pytest.mark.acceptance
def test_replicas_agree_across_sizes(strategy):
    found = []
    for replicas in (1, 3):
        experiment = build(strategy(replicas), **{**EVERYTHING, **SIZES})
        found.append((run(experiment, 8)[:, 0], weights(experiment)))
    np.testing.assert_allclose(found[0][0], found[1][0], rtol=1e-8)
    assert distance(found[0][1], found[1][1]) < 1e-8


def test_images_in_memory_are_resized_before_and_parts_are_drawn_of_the_whole():
    draws = np.random.default_rng(0)
    images = np.repeat(np.repeat(draws.integers(0, 256, [4, 8, 8, 3]), 2, 1), 2, 2).astype(np.uint8)
    positions = tf.range(100, 104, dtype=tf.int64)
    small, _ = augment.apply(tf.constant(images), positions, 3, (), image_size=8)
    np.testing.assert_array_equal(small, images[:, ::2, ::2])  # Every pixel of the small image is four of the large.
    crop = (Augmentation("resized_crop", 0.3),)
    whole, _ = augment.apply(tf.constant(images), positions, 3, crop)
    parts, _ = augment.apply(tf.constant(images), positions, 3, crop, image_size=8)
    seeds = fold_in(example_seeds(3, positions), [0])[:, 0]
    found = boxes(tf.fill([4], 16), tf.fill([4], 16), seeds, 0.3).numpy()
    for image, whole_part, part, (top, left, height, width) in zip(images, whole.numpy(), parts.numpy(), found,
                                                                   strict=True):
        cut = image[top:top + height, left:left + width].astype(float)
        assert abs(part.mean() - cut.mean()) < 0.1 * cut.std() + 2
        pooled = whole_part.reshape(8, 2, 8, 2, 3).mean(axis=(1, 3))
        assert np.corrcoef(pooled.ravel(), part.ravel())[0, 1] > 0.9


@pytest.mark.parametrize("texts, says", [
    (("160",), "found '160'; give sizes in pixels, each from a part of the run on, such as 160@0,192@0.6"),
    (("160@0.5",), "the first begins at 0"), (("160@0", "128@0.5"), "sizes and parts ascend, and 128@0.5 follows"),
    (("160@0", "192@0"), "sizes and parts ascend, and 192@0"), (("160@0", "192@1"), "found '192@1'"),
    (("32@0", "128@0.5"), "the last is at most 3 times the first")])
def test_sizes_that_cannot_be_are_refused(texts, says):
    with pytest.raises(UsageError) as error:
        ExperimentConfig.from_flat({"image_sizes": texts})
    assert f"--image_sizes={','.join(texts)}: " in str(error.value) and says in str(error.value)


def test_what_contradicts_sizes_is_refused(strategy):
    with pytest.raises(UsageError, match="--image_size=8 and --image_sizes=8@0,12@0.5 both set the size"):
        ExperimentConfig.from_flat({"image_sizes": ("8@0", "12@0.5"), "image_size": 8})
    config = ExperimentConfig.from_flat({"image_sizes": ("8@0", "12@0.5")})
    assert config.data.image_size == 12 and config.replace(image_sizes=()).data.image_size is None
    with pytest.raises(UsageError, match="--image_sizes=10: model mlp takes images of one size alone"):
        build(strategy(1), **{**SIZES, "model": "mlp"})
    with pytest.raises(UsageError, match="model three_apis needs images of at least 19x19; found 16x16x3"):
        build(strategy(1), **{**SIZES, "model": "three_apis", "image_sizes": ("16@0", "28@0.5")})
