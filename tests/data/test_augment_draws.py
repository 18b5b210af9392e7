"""What augmentations draw for 100,000 positions, against the definitions of their papers.

Draws are functions of the positions, so every figure is the same in every run.
"""
import math

import numpy as np
import pytest
import scipy.stats
import tensorflow as tf

from pipeline.data.augment import blur, erasing, randaugment, trivialaugment
from pipeline.data.augment.apply import draw_mixing
from pipeline.data.augment.geometry import box
from pipeline.data.augment.mixing import beta, of_pairs
from pipeline.data.stateless_random import example_seeds, fold_in, random_bytes, uniform

COUNT = 100_000
SURE = 1e-3  # Probability with which true draws would miss a bound.


@pytest.fixture(scope="module")
def seeds():
    return fold_in(example_seeds(0, tf.range(COUNT, dtype=tf.int64)), 0)


def assert_uniform(*values, sizes):
    """Checks that whole numbers in [0, size) are uniform, and several of them independent."""
    cells = np.ravel_multi_index([np.asarray(value).astype(int) for value in values], sizes)
    counts = np.bincount(cells, minlength=math.prod(sizes))
    assert len(counts) == math.prod(sizes)
    assert scipy.stats.chisquare(counts).pvalue > SURE


def assert_distributed(values, cdf):
    assert scipy.stats.kstest(np.asarray(values), cdf).pvalue > SURE


def test_a_probability_is_the_share_of_the_images(seeds):
    draws = uniform(seeds, 0).numpy()
    for probability in (0.001, 0.1, 0.5):
        assert scipy.stats.binomtest(int((draws < probability).sum()), COUNT, probability).pvalue > SURE


def test_randaugment_draws_two_operations_independently(seeds):
    (first, sign), (second, other) = randaugment.draw_operations(seeds)
    assert_uniform(first, second, sizes=(14, 14))
    assert_uniform(first, sign > 0, other > 0, sizes=(14, 2, 2))


def test_trivialaugment_draws_operation_and_magnitude_uniformly(seeds):
    operation, level, sign = trivialaugment.draw_operation(seeds)
    assert_uniform(operation, level, sizes=(14, 31))
    assert_uniform(level, sign > 0, sizes=(31, 2))


@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_trivialaugment_has_the_wide_space(sign):
    """The ranges of the paper's Table 1, "wide", at the 31 magnitudes of torchvision's TrivialAugmentWide."""
    levels = np.arange(31)
    found = trivialaugment.magnitudes(tf.constant(levels, tf.float32), tf.fill([31], sign), 1.0, (31, 224, 200, 3))
    np.testing.assert_allclose(found.shear, sign * np.linspace(0, 0.99, 31), atol=1e-6)
    np.testing.assert_allclose(np.degrees(found.angle), sign * np.linspace(0, 135, 31), atol=1e-4)
    np.testing.assert_allclose(found.factor, 1 + sign * np.linspace(0, 0.99, 31), atol=1e-6)
    np.testing.assert_array_equal(found.down, sign * (levels * 32 // 30))
    np.testing.assert_array_equal(found.across, sign * (levels * 32 // 30))
    np.testing.assert_allclose(found.threshold, np.linspace(255, 0, 31), atol=1e-4)
    bits = 8 - np.round(levels / 5).astype(int)
    assert bits.min() == 2 and bits.max() == 8
    np.testing.assert_array_equal(found.step, 2.0 ** (8 - bits))
    assert found.reach == (32, 32)


def test_trivialaugment_moves_small_images_by_less_than_half():
    found = trivialaugment.magnitudes(tf.constant([30.0]), tf.constant([1.0]), 1.0, (1, 28, 20, 1))
    assert (found.down.numpy(), found.across.numpy(), found.reach) == (12, 9, (12, 9))
    weaker = trivialaugment.magnitudes(tf.constant([30.0]), tf.constant([1.0]), 0.5, (1, 224, 224, 3))
    assert (weaker.down.numpy(), weaker.step.numpy(), weaker.threshold.numpy()) == (16.0, 8.0, 127.5)


def erased_by_definition(count, height, width):
    """Returns [n, 4], top, left, height and width, as the loop of torchvision's RandomErasing draws them."""
    draws, found = np.random.RandomState(0), []
    for _ in range(count):
        for _ in range(10):
            area = height * width * draws.uniform(0.02, 1 / 3)
            ratio = math.exp(draws.uniform(math.log(0.3), math.log(3.3)))
            tall, wide = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
            if tall < height and wide < width:
                found.append((draws.randint(height - tall + 1), draws.randint(width - wide + 1), tall, wide))
                break
        else:
            found.append((0, 0, 0, 0))
    return np.array(found, float)


@pytest.mark.parametrize("height, width", [(224, 224), (32, 32), (60, 200)])
def test_erasing_draws_rectangles_as_defined(height, width, seeds):
    found = erasing.draw_rectangles(seeds, height, width).numpy().astype(float)
    expected = erased_by_definition(20_000, height, width)
    top, left, tall, wide = found.T
    assert (tall < height).all() and (wide < width).all() and (top + tall <= height).all() and (
        left + wide <= width).all() and (found >= 0).all()
    area, ratio = tall * wide / (height * width), tall / wide
    pixels, half = height * width, 0.5 + 1e-3  # Sides are rounded.
    assert ((tall - half) * (wide - half) <= pixels / 3).all()
    assert ((tall + half) * (wide + half) >= 0.02 * pixels).all()
    assert ((tall - half) / (wide + half) <= 3.3).all() and ((tall + half) / (wide - half) >= 0.3).all()
    assert area.min() < 0.021 and area.max() > 0.32 and ratio.min() < 0.31 and ratio.max() > 3.2
    for values, by_definition in ((area, expected[:, 2] * expected[:, 3] / (height * width)),
                                  (np.log(ratio), np.log(expected[:, 2] / expected[:, 3])),
                                  (top, expected[:, 0]), (left, expected[:, 1])):
        assert scipy.stats.ks_2samp(values, by_definition).pvalue > SURE
    places = (top + uniform(seeds, 90).numpy()) / (height - tall + 1), (left + uniform(seeds, 91).numpy()) / (
        width - wide + 1)
    for place in places:
        assert_distributed(place, "uniform")


def test_erasing_leaves_images_in_which_nothing_fits(seeds):
    assert not erasing.draw_rectangles(seeds[:100], 1, 1).numpy().any()


def test_noise_is_uniform_and_independent(seeds):
    noise = random_bytes(seeds[:20_000], 7, 7).numpy()
    for column in range(7):
        assert_uniform(noise[:, column], sizes=(256,))
    for first, second in ((0, 1), (3, 4), (0, 6)):  # In a word, in neighbouring words, far away.
        assert_uniform(noise[:, first] // 16, noise[:, second] // 16, sizes=(16, 16))
    assert_uniform(noise[1:, 0] // 16, noise[:-1, 0] // 16, sizes=(16, 16))


def test_blur_draws_sigma_uniformly_and_has_a_kernel_of_a_tenth(seeds):
    sigmas = blur.draw_sigmas(seeds).numpy()
    assert_distributed(sigmas, scipy.stats.uniform(0.1, 1.9).cdf)
    assert [blur.kernel_radius((side, 2 * side)) for side in (1, 2, 16, 32, 60, 160)] == [0, 1, 1, 1, 3, 8]
    weights = blur.weights(tf.constant([0.1, 1.0, 2.0]), 8).numpy()
    distance = np.arange(-8, 9)
    for row, sigma in zip(weights, (0.1, 1.0, 2.0), strict=True):
        expected = np.exp(-distance**2 / (2 * sigma**2))
        np.testing.assert_allclose(row / 2048, expected / expected.sum(), atol=4 / 2048)
    assert 2048 * scipy.stats.norm(0, 2).pdf(9) < 0.5  # What is left out would be rounded to 0.
    assert set(blur.weights(tf.constant(sigmas[:1000]), 8).numpy().sum(axis=1)) == {2048.0}


@pytest.mark.parametrize("count", [2, 3])
def test_pairs_switch_uniformly_between_those_that_mix(count, seeds):
    chosen = draw_mixing(seeds, count).numpy()
    np.testing.assert_array_equal(chosen[::2], chosen[1::2])
    assert_uniform(chosen[::2], sizes=(count,))
    assert_uniform(chosen[:-2:2], chosen[2::2], sizes=(count, count))
    # The share of what is mixed does not depend on the choice.
    assert_distributed(beta(of_pairs(fold_in(seeds, 1)), 0, 1.0).numpy()[::2][chosen[::2] == 0], "uniform")


@pytest.mark.parametrize("concentration", [0.2, 1.0, 8.0])
def test_shares_of_mixing_have_a_beta_distribution(concentration, seeds):
    edges = np.linspace(0, 1, 41)
    counts, expected = np.histogram(beta(seeds, 0, concentration), edges)[0], np.diff(
        scipy.stats.beta(concentration, concentration).cdf(edges))
    seen = expected > 1e-4  # Of Beta(8, 8) nothing comes from the ends.
    assert counts[~seen].sum() < 100
    assert scipy.stats.chisquare(counts[seen], expected[seen] * counts[seen].sum() / expected[seen].sum()).pvalue > SURE


def test_boxes_of_cutmix_and_cutout_have_their_centres_everywhere(seeds):
    sides = tf.fill([COUNT], 4.0)
    for inside, size in zip(box(seeds, 8, 6, sides, sides), (8, 6), strict=True):
        inside = inside.numpy()
        covered = inside.sum(axis=1)
        first = np.where(inside[:, 0], covered - 4, inside.argmax(axis=1))  # Clipped at the border.
        assert_uniform(first + 2, sizes=(size,))
        np.testing.assert_array_equal(covered, np.minimum(first + 4, size) - np.maximum(first, 0))
