"""The comparison with Keras `fit` in what is learned: the same networks, images and statistics."""
import subprocess
import sys

import numpy as np
import pytest

from benchmarks import image_folders, learning
from benchmarks.processes import REPOSITORY
from tests.selection import quick


@pytest.mark.parametrize("name, options", quick([("vit_ti16", {"patch_size": 16}), ("wrn16_8", {})], 1))
def test_networks_of_keras_layers_compute_the_same(name, options):
    from benchmarks import keras_architectures
    from pipeline.models import registry
    own = registry.create(name, 10, (32, 32, 3), [f"{key}={value}" for key, value in options.items()])
    peer = getattr(keras_architectures, name)((32, 32, 3), 10, **options)
    peer.set_weights(own.get_weights())
    images = np.random.default_rng(0).uniform(-1, 1, (2, 32, 32, 3)).astype(np.float32)
    np.testing.assert_allclose(own(images), peer(images), rtol=1e-6, atol=1e-6)


def test_parts_of_a_data_set_are_read_as_they_were_written(tmp_path):
    draw = np.random.default_rng(0)
    images, labels = draw.integers(0, 256, (40, 8, 8, 3), np.uint8), np.arange(40, dtype=np.int32) % 4
    chosen = image_folders.first_of_each(labels, [1, 3], 5, seed=2)
    assert labels[chosen].tolist() == [1] * 5 + [3] * 5 and len(set(chosen)) == 10
    assert not set(chosen) == set(image_folders.first_of_each(labels, [1, 3], 5, seed=3))
    image_folders.write_split(tmp_path / "train", images[chosen], labels[chosen], 8)
    read, numbers = image_folders.read_split(tmp_path / "train")
    np.testing.assert_array_equal(read, images[chosen])
    np.testing.assert_array_equal(numbers, [0] * 5 + [1] * 5)
    image_folders.write_split(tmp_path / "large", images[chosen], labels[chosen], 16)
    assert image_folders.read_split(tmp_path / "large")[0].shape == (10, 16, 16, 3)


def test_a_difference_of_means_has_welch_s_interval():
    """By hand: variances 1 and 4 of 3 values, 2.94 degrees of freedom, whose quantile is 3.2197."""
    mean, low, high = learning.difference([1, 2, 3], [2, 4, 6])
    assert mean == -2
    np.testing.assert_allclose([low, high], [-2 - 3.2197 * np.sqrt(5 / 3), -2 + 3.2197 * np.sqrt(5 / 3)], rtol=1e-3)


@pytest.mark.acceptance
def test_a_comparison_ends_in_a_row_and_finished_runs_are_not_repeated(tmp_path):
    draw, images = np.random.default_rng(0), tmp_path / "cifar10-32-40"
    for split in ("train", "test"):
        image_folders.write_split(images / split, draw.integers(0, 256, (40, 32, 32, 3), np.uint8), np.arange(40) % 10)
    (images / "made").touch()
    line = [sys.executable, "-m", "benchmarks.learning", "--data_dir=nowhere", f"--place={tmp_path}", "--examples=40",
            "--epochs=1", "--seeds=2"]
    rows = [subprocess.run(line, cwd=REPOSITORY, capture_output=True, text=True, check=True).stdout.splitlines()[-1]
            for _ in range(2)]
    assert rows[0] == rows[1] and rows[0].startswith("| `vit_ti16`, 32x32 | 40 | 1 |")
    assert len(list(tmp_path.glob("*-keras.json"))) == len(list(tmp_path.glob("*/result.json"))) == 2
