"""Embeddings for TensorBoard's projector: the reduction of wide ones, and a full disk."""
import itertools

import numpy as np
import pytest

from pipeline.monitoring.tensorboard.projector import FeatureSketch, principal_components, spread, write_projector
from tests.small_disk import small_disk


def test_wide_features_keep_their_distances_and_principal_components():
    rng = np.random.default_rng(1)
    wide = (rng.normal(size=(30, 5)) @ rng.normal(size=(5, 9_000))).astype(np.float32)
    every, third = FeatureSketch(spread(30)), FeatureSketch(spread(30, 10))
    for first in range(0, 30, 8):
        every(first, wide[first:first + 8])
        third(first, wide[first:first + 8])
    sketch = every.values
    assert sketch.shape == (30, 4096) and (third.values == sketch[::3]).all()
    pairs = np.array(list(itertools.combinations(range(30), 2)))
    near, far = (np.linalg.norm(v[pairs[:, 0]] - v[pairs[:, 1]], axis=1) for v in (sketch, wide))
    assert np.abs(near / far - 1).max() < 0.15
    found, (left, scale, _) = principal_components(wide[:, :300]), np.linalg.svd(wide[:, :300] - wide[:, :300].mean(0))
    expected = left[:, :30] * scale[:30]
    assert np.allclose(np.abs(found[:, :5]), np.abs(expected[:, :5]), rtol=1e-2, atol=1e-2 * np.abs(expected).max())
    assert principal_components(wide[:, :64]).shape == (30, 64)
    assert spread(5).tolist() == [0, 1, 2, 3, 4] and spread(10_000, 4).tolist() == [0, 2500, 5000, 7500]


def test_a_full_disk_leaves_no_half_of_the_embeddings(tmp_path):
    with small_disk(tmp_path / "disk", 1) as disk:
        folder = tmp_path / "disk/test"
        arguments = (np.zeros([9, 4]), np.zeros([9, 8, 8, 1], np.uint8), np.arange(9) % 3, np.arange(9) % 2, "abc")
        write_projector(str(folder), *arguments)
        before = {path.name: path.read_bytes() for path in folder.iterdir()}
        disk.fill()
        with pytest.raises(OSError):
            write_projector(str(folder), np.ones([9, 4000]), *arguments[1:])
        assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
