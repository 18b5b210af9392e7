"""The range test trains the production step on the production stream, on any number of replicas."""
import numpy as np
import pytest

from pipeline.finding.range_test import range_test
from pipeline.finding.suggestions import rounded, suggest
from pipeline.training.step import TRAIN_COLUMNS
from tests.training import small

SGD = {"optimizer": "sgd", "batch_size": 32, "augment": ("crop:2",), "schedule": "cosine", "warmup": "5"}


def found(curve):
    """Returns the suggested rates as they are printed."""
    return {name: rounded(curve.rates[step]) for name, step in suggest(curve).items()}


def test_the_same_suggestion_on_one_and_on_two_replicas(strategy):
    one, two = (range_test(small.build(strategy(replicas), **SGD), 1e-6, 1e3, 60)
                for replicas in (1, 2))
    assert len(one.losses) == len(two.losses) < 60 and one.diverged == two.diverged == "4 times its lowest"
    np.testing.assert_allclose(one.losses[:30], two.losses[:30], rtol=1e-5)
    np.testing.assert_array_equal(one.rates, np.geomspace(1e-6, 1e3, 60)[:len(one.losses)])
    assert found(one) == found(two) and set(found(one)) == {"valley", "steepest", "lowest"}
    assert 1e-4 < found(one)["valley"] < 1
    # At so low a rate the test is the first steps of a training at that rate.
    plain = {**SGD, "augment": (), "learning_rate": 1e-30}
    flat = range_test(small.build(strategy(1), **plain), 1e-30, 1e-29, 20)
    rows = small.run(small.build(strategy(1), **plain), 20)
    np.testing.assert_allclose(flat.losses, rows[:, TRAIN_COLUMNS.index("loss")], rtol=1e-12)
    assert not flat.diverged and suggest(flat) == {}


def test_a_loss_that_is_not_finite_ends_the_test(strategy):
    curve = range_test(small.build(strategy(1), precision="float32", **SGD), 1e30, 1e38, 20)
    assert len(curve.losses) <= 3 and np.isfinite(curve.losses).all()
    assert curve.diverged and suggest(curve) == {}


@pytest.mark.acceptance
@pytest.mark.parametrize("options", [
    {"optimizer": "adam", "model": "three_apis"}, {"optimizer": "lamb"}, {"optimizer": "muon"},
    {"optimizer": "sgd", "accumulate_steps": 2, "ema_decay": 0.9}, {"optimizer": "sgd", "xla": "on"},
    {"optimizer": "sgd", "freeze": ("backbone",), "unfreeze_at": ("5",)}, {"optimizer": "sgd", "cache": "device"},
    {"optimizer": "sgd", "average_last": 1, "steps": None, "epochs": 2.0}])
def test_every_kind_of_training_gets_a_suggestion(strategy, options):
    rates = [found(range_test(small.build(strategy(replicas), **{**SGD, **options}), 1e-7, 1e3, 80))
             for replicas in ((1,) if "xla" in options else (1, 2))]
    # Up to the lowest loss rounding grows.
    assert all(rates[0][name] == rates[-1][name] for name in ("valley", "steepest")), rates
    assert 0.5 < rates[0]["lowest"] / rates[-1]["lowest"] < 2
