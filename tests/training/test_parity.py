"""N replicas compute what one computes, in float64 and in float32.

Most sizes are small so that this is quick; `make acceptance` does the same at full size, in both precisions and with
four replicas for all models.
"""
import functools

import pytest

from tests.parity_cells import check_double, check_single, compare_double, compare_single, double, single
from tests.selection import quick
from tests.training.small import build, run

# The time goes into tracing, which grows with the layers and the replicas.
CELLS = [("cnn", 2, 8), ("three_apis", 2, 20), ("three_apis", 4, 20), ("resnet_like", 2, 8), ("mlp", 2, 8)]


@pytest.fixture(scope="module")
def measured(strategy):
    """Returns measured(function, ...), which computes the same thing once."""
    @functools.cache
    def measure(function, model, replicas, size, **options):
        return function(strategy, model, replicas, image_size=size, batch_size=8, **options)
    return measure


@pytest.mark.parametrize("model,replicas,size", quick(CELLS, 4))
def test_fifty_steps_in_float64(measured, model, replicas, size):
    check_double(compare_double(measured(double, model, 1, size), measured(double, model, replicas, size)))


# At 28x28 nearly every batch has a value so near the kink of a ReLU that its last bit decides on a gradient.
@pytest.mark.parametrize("model,replicas,size", quick([("cnn", 2, 28), ("three_apis", 4, 20), ("mlp", 2, 28),
                                                         ("mlp", 2, 8)]))
def test_gradients_and_first_losses_in_float32(measured, model, replicas, size):
    one, several = (measured(single, model, n, size) for n in (1, replicas))
    check_single(compare_single(one, several))


@pytest.mark.acceptance  # The losses of the test of float64 are equal only with them.
def test_statistics_over_replicas_are_computed_in_the_step(strategy):
    one, two = (run(build(strategy(replicas), model="three_apis", image_size=20, batch_size=8), 1)[0, 0]
                for replicas in (1, 2))
    assert two == pytest.approx(one, rel=1e-12)
