"""The data sets that need nothing, and what is computed over a whole split."""
import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from pipeline.config import DataConfig
from pipeline.data.load import load
from pipeline.data.sources import synthetic
from pipeline.data.statistics import channel_statistics, class_counts
from pipeline.errors import UsageError


def arrays(split):
    return split.reader.images, split.labels


def test_digits_have_a_fixed_stratified_split():
    source = load(DataConfig(), 64)
    assert source.class_names == tuple("0123456789") and source.image_shape == (28, 28, 1)
    assert (source.train.num_examples, source.test.num_examples, source.validation) == (1437, 360, None)
    shares = class_counts(source.test, 10) / (class_counts(source.train, 10) + class_counts(source.test, 10))
    assert np.abs(shares - 0.2).max() < 0.006
    assert load(DataConfig(), 32).fingerprint == source.fingerprint
    images = np.concatenate([source.train.reader.images, source.test.reader.images])
    assert images.dtype == np.uint8 and images.min() == 0 and images.max() == 255
    assert len(np.unique(images.reshape(1797, -1), axis=0)) == 1797


def test_enlarged_digits_still_look_like_the_originals():
    import sklearn.datasets

    from pipeline.data.sources.digits import enlarge
    original = sklearn.datasets.load_digits().images
    large = enlarge(original, 32)[..., 0].astype(float)
    small = large.reshape(-1, 8, 4, 8, 4).mean((2, 4)) / 255 * 16
    correlation = [np.corrcoef(a.ravel(), b.ravel())[0, 1] for a, b in zip(original, small, strict=True)]
    assert min(correlation) > 0.97
    # Nothing is shifted: the centre of mass stays where it was.
    centres = [(image * np.arange(image.shape[-1])).sum((1, 2)) / image.sum((1, 2)) / image.shape[-1] + 0.5 /
               image.shape[-1] for image in (original, large)]
    assert abs((centres[0] - centres[1]).mean()) < 0.003


@pytest.mark.parametrize("size", [24, 28])  # At 24, pixels of the original lie half-way between two levels.
def test_digits_are_those_of_an_interpolation_of_each_image_by_itself(size):
    import scipy.ndimage
    import sklearn.datasets

    from pipeline.data.sources.digits import enlarge
    original = sklearn.datasets.load_digits().images[:200]
    at = np.meshgrid(*[(np.arange(size) + 0.5) * 8 / size + 0.5] * 2, indexing="ij")
    alone = [scipy.ndimage.map_coordinates(np.pad(image, 1), at, order=3, mode="constant") for image in original]
    expected = np.clip(np.rint(np.stack(alone) * (255 / 16)), 0, 255)
    np.testing.assert_array_equal(enlarge(original, size)[..., 0], expected)


def test_digits_in_another_size():
    assert load(DataConfig(image_size=32), 64).train.reader.images.shape == (1437, 32, 32, 1)


@pytest.mark.parametrize("share", [0.1, 0.25])
def test_a_validation_split_of_digits_is_stratified_and_disjoint(share):
    whole, parts = load(DataConfig(), 64), load(DataConfig(validation_split=share), 64)
    assert parts.validation.num_examples == round(1437 * share)
    counts = class_counts(parts.validation, 10)
    assert np.abs(counts - class_counts(whole.train, 10) * share).max() < 1
    images = [s.reader.images.reshape(s.num_examples, -1) for s in (parts.train, parts.validation)]
    both = np.unique(np.concatenate(images), axis=0)
    np.testing.assert_array_equal(both, np.unique(whole.train.reader.images.reshape(1437, -1), axis=0))
    np.testing.assert_array_equal(arrays(parts.test)[0], arrays(whole.test)[0])
    assert parts.fingerprint != whole.fingerprint


def test_an_empty_validation_split_is_refused():
    with pytest.raises(UsageError, match="--validation_split=0.0001 holds out 0 of 1,437 examples"):
        load(DataConfig(validation_split=0.0001), 64)


def test_a_subset_keeps_batches_of_every_class():
    source = load(DataConfig(subset=3), 20)
    assert (source.train.num_examples, source.test.num_examples) == (60, 60)
    assert class_counts(source.train, 10).tolist() == [6] * 10
    assert source.fingerprint != load(DataConfig(), 20).fingerprint
    assert load(DataConfig(subset=100), 20).test.num_examples == 360


def test_synthetic_images_have_their_shape_and_can_be_learned():
    source = load(DataConfig(dataset="synthetic:12x10x3x5"), 64)
    assert source.image_shape == (12, 10, 3) and source.num_classes == 5
    images, labels = arrays(source.train)
    assert images.shape == (4096, 12, 10, 3) and images.dtype == np.uint8
    model = LogisticRegression(max_iter=200).fit(images[:500].reshape(500, -1) / 255, labels[:500])
    assert model.score(source.test.reader.images.reshape(1024, -1) / 255, source.test.labels) > 0.9
    again = load(DataConfig(dataset="synthetic:12x10x3x5"), 64)
    np.testing.assert_array_equal(again.train.reader.images, images)
    assert again.fingerprint == source.fingerprint != load(DataConfig(dataset="synthetic:12x10x3"), 64).fingerprint


def test_large_synthetic_images_stay_within_bounds(monkeypatch):
    monkeypatch.setattr(synthetic, "_BYTES", 2**23)
    source = load(DataConfig(dataset="synthetic:128x128x3"), 64)
    assert 64 <= source.train.num_examples and source.train.reader.images.nbytes <= 2**23


@pytest.mark.parametrize("text", ["28x28", "0x28x1", "ax28x1", "28x28x1x1", ""])
def test_a_malformed_synthetic_shape_is_explained(text):
    with pytest.raises(UsageError, match="such as synthetic:32x32x3"):
        load(DataConfig(dataset=f"synthetic:{text}"), 64)


def test_channel_statistics_are_those_of_all_pixels():
    split = load(DataConfig(dataset="synthetic:7x5x3", subset=1), 301).train
    mean, deviation = channel_statistics(split)
    scaled = split.reader.images.astype(np.float64) / 255
    np.testing.assert_allclose(mean, scaled.mean((0, 1, 2)), rtol=1e-12)
    np.testing.assert_allclose(deviation, scaled.std((0, 1, 2)), rtol=1e-12)


def test_statistics_and_counts_of_a_streamed_split(load_numbered):
    kept, streamed = load_numbered(), load_numbered(memory_budget=0)
    assert channel_statistics(kept.train) == channel_statistics(streamed.train)
    assert class_counts(streamed.train, 3).tolist() == [900, 900, 900]
