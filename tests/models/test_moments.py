"""Batch statistics: the same bits on any number of replicas, and right far from zero."""
import numpy as np
import pytest
import tensorflow as tf

from pipeline.models.moments import CANCELLATION, batch_moments, centred_squares, quick_squares
from tests.selection import quick


def over_replicas(scope, sizes, x):
    """Returns [(mean, variance, count) of each replica] where the examples of x are on replicas, so many on each."""
    starts = np.cumsum((0, *sizes))
    parts = scope.experimental_distribute_values_from_function(
        lambda c: tf.constant(x[starts[c.replica_id_in_sync_group]:starts[c.replica_id_in_sync_group + 1]]))
    found = tf.function(lambda parts: scope.run(lambda part: batch_moments(part, len(sizes)), args=(parts,)))(parts)
    return list(zip(*[[v.numpy() for v in scope.experimental_local_results(value)] for value in found], strict=True))


SHAPES = [(4, 28, 28, 32), (4, 7, 7, 5), (4, 7, 7, 12), (4, 9, 9, 20), (4, 96, 96, 3), (4, 64), (4, 2, 3, 4, 8)]


@pytest.mark.parametrize("shape", quick([(shape,) for shape in SHAPES], 0, 1, 5), ids=str)
@pytest.mark.parametrize("offset", quick([0.3, 1e3], 0), ids=["near zero", "far from zero"])
def test_any_number_of_replicas_has_the_same_bits(strategy, shape, offset):
    x = np.random.default_rng(0).normal(offset, 1.0, shape).astype("float32")
    whole = [value.numpy() for value in batch_moments(tf.constant(x))]
    for sizes in ((3, 1), (1, 1, 1, 1)):
        for replica in over_replicas(strategy(len(sizes)), sizes, x):
            for found, wanted in zip(replica, whole, strict=True):
                np.testing.assert_array_equal(found, wanted, err_msg=str(sizes))


@pytest.mark.parametrize("channels", [3, 12, 32])
def test_a_batch_of_unknown_size_has_the_same_bits(channels):
    x = np.random.default_rng(3).normal(0.3, 1.0, (4, 28, 28, channels)).astype("float32")
    unknown = tf.function(batch_moments, input_signature=[tf.TensorSpec((None, None, None, channels))])
    for size in (1, 4):
        for found, wanted in zip(unknown(x[:size]), batch_moments(tf.constant(x[:size])), strict=True):
            np.testing.assert_array_equal(found, wanted)
    # One example has the bits of two that are equal.
    for found, wanted in zip(unknown(x[:1])[:2], batch_moments(tf.constant(x[[0, 0]]))[:2], strict=True):
        np.testing.assert_array_equal(found, wanted)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("mean, deviation", [(0.0, 1.0), (-5.0, 0.1), (1e4, 1.0), (3.0, 1e-3)], ids=str)
def test_moments_are_those_of_numpy(dtype, mean, deviation):
    x = np.random.default_rng(1).normal(mean, deviation, (6, 9, 9, 3)).astype(dtype)
    found_mean, variance, count = batch_moments(tf.constant(x))
    assert found_mean.dtype == variance.dtype == dtype and count.numpy() == 6 * 9 * 9
    exact = x.astype("float64")
    np.testing.assert_allclose(found_mean, exact.mean((0, 1, 2)), rtol=1e-6, atol=1e-7)
    np.testing.assert_allclose(variance, exact.var((0, 1, 2)), rtol=1e-3 if dtype == "float32" else 1e-7)


def test_examples_far_from_each_other_have_the_variance_between_them():
    x = np.full((4, 8, 8, 1), 7.0, "float32") + np.float32([-2000, -1000, 1000, 2000]).reshape(4, 1, 1, 1)
    assert batch_moments(tf.constant(x))[1].numpy() == pytest.approx([2.5e6], rel=1e-6)


@pytest.mark.parametrize("shape", [(2, 28, 28, 32), (2, 112, 112, 64), (1, 2, 200, 200, 3)], ids=str)
@pytest.mark.parametrize("mean", [5.0, 25.0])
def test_a_variance_is_as_exact_in_a_large_image_as_in_a_small_one(shape, mean):
    x = np.random.default_rng(4).normal(mean, 1.0, shape).astype("float32")
    exact = x.astype("float64").var(tuple(range(len(shape) - 1)))
    np.testing.assert_allclose(batch_moments(tf.constant(x))[1], exact, rtol=6e-4)


def test_squares_that_overflow_leave_a_variance_that_does_not():
    x = np.random.default_rng(5).normal(1e19, 1e18, (4, 8, 8, 2)).astype("float32")
    np.testing.assert_allclose(batch_moments(tf.constant(x))[1], x.astype("float64").var((0, 1, 2)), rtol=1e-5)


@pytest.mark.parametrize("value", [0.0, 0.1, -3.7, 1e4])
def test_constants_have_no_variance(value):
    assert batch_moments(tf.fill((5, 28, 28, 2), value))[1].numpy() == pytest.approx([0.0, 0.0], abs=1e-10 * value ** 2)


def test_differences_are_used_only_against_cancellation():
    rng = np.random.default_rng(2)
    x = np.stack([rng.normal(0.0, 1.0, (784, 2)), rng.normal(1e3, 1.0, (784, 2))]).astype("float32")
    means = tf.reduce_mean(x, axis=1)
    quick, slow = quick_squares(tf.constant(x), means).numpy(), centred_squares(tf.constant(x), means).numpy()
    np.testing.assert_array_equal(quick[1], slow[1])
    assert (quick[0] != slow[0]).any()
    np.testing.assert_allclose(quick, slow, rtol=1e-7 * CANCELLATION)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_non_finite_value_is_detected(bad):
    x = np.zeros((4, 3, 3, 2), "float32")
    x[2, 1, 1, 0] = bad
    mean, variance, _ = (value.numpy() for value in batch_moments(tf.constant(x)))
    assert not np.isfinite(mean[0]) and not np.isfinite(variance[0])
    assert mean[1] == variance[1] == 0.0
