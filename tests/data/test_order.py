"""The order of examples."""
import numpy as np
import pytest

from pipeline.data.order import example_index_array


@pytest.mark.parametrize("count", [1, 2, 7, 64, 1437])
def test_every_epoch_meets_every_example_once(count):
    index = example_index_array(np.arange(3 * count), count, seed=5).reshape(3, count)
    np.testing.assert_array_equal(np.sort(index, axis=1), np.tile(np.arange(count), (3, 1)))


def test_epochs_and_seeds_have_orders_of_their_own():
    def order(epoch, seed):
        return example_index_array(np.arange(50) + 50 * epoch, 50, seed).tolist()

    # 256 apart as well: the kernel itself looks at the low bits of its keys only.
    orders = [order(0, 0), order(1, 0), order(256, 0), order(2**31, 0), order(0, 1), order(0, 256), order(0, 2**31 - 1)]
    assert len({tuple(o) for o in orders}) == len(orders)
    assert order(256, 0) == order(256, 0)


def test_an_order_is_as_mixed_as_a_random_permutation():
    index = example_index_array(np.arange(1000 * 20), 20, seed=3).reshape(1000, 20)
    first = np.bincount(index[:, 0], minlength=20)
    assert ((first - 50)**2 / 50).sum() < 43.8  # Chi-square with 19 degrees of freedom, p = 0.001.
    assert abs((index == np.arange(20)).sum(axis=1).mean() - 1) < 0.15  # A random permutation has one fixed point.
    assert len(np.unique(index, axis=0)) == 1000


def test_position_alone_decides():
    whole = example_index_array(np.arange(10_000_000, 10_000_200), 137, seed=1)
    part = example_index_array(np.arange(10_000_090, 10_000_100), 137, seed=1)
    np.testing.assert_array_equal(whole[90:100], part)
