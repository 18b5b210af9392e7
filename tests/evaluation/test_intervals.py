"""Intervals against textbooks, against each other, and against what they promise."""
import numpy as np
import pytest
import scipy.sparse
from scipy import stats

from pipeline.evaluation import classification, intervals
from pipeline.evaluation.curves import CurveSet
from pipeline.evaluation.metrics import calibration_error
from tests.evaluation.judgements import predictions, softmax


def test_wilson_by_its_formula():
    z, n, p = 1.959964, 10, 0.8
    centre, reach = (p + z**2 / 2 / n) / (1 + z**2 / n), z / (1 + z**2 / n) * np.sqrt(p * (1 - p) / n + z**2 / 4 / n**2)
    assert intervals.wilson(8, 10) == pytest.approx((centre - reach, centre + reach), rel=1e-6)
    low, high = intervals.wilson(360, 360)
    assert 0.98 < low < 1 and high == 1


def test_the_bootstrap_draws_each_example_as_often_as_any_other_and_always_the_same():
    features = scipy.sparse.csr_array(np.eye(50))
    sums = intervals.resampled_sums(features, 2000)
    assert sums.shape == (2000, 50) and (sums.sum(axis=1) == 50).all()
    np.testing.assert_allclose(sums.mean(axis=0), 1, atol=0.1)
    np.testing.assert_allclose(sums.var(axis=0), 1 - 1 / 50, atol=0.15)
    np.testing.assert_array_equal(sums, intervals.resampled_sums(features, 2000))


def test_the_bootstrap_agrees_with_one_that_is_written_out():
    found = predictions(500, 4, strength=1.5)
    generator, drawn = np.random.default_rng(0), []
    for _ in range(500):
        part = found.select(generator.integers(500, size=500))
        drawn.append((part.losses.mean(), classification.averages(part.labels, part.predicted)["macro"]["f1"],
                      calibration_error(part.confidence, part.hit)))
    loss, f1, error = np.quantile(drawn, [0.025, 0.975], axis=0).T
    own = calibration_error(found.confidence, found.hit)
    ours = intervals.bootstrap(found, np.arange(4))
    assert ours["loss"] == pytest.approx(tuple(loss), abs=0.01)
    assert ours["macro_f1"] == pytest.approx(tuple(f1), abs=0.01)
    reversed_error = max(0, 2 * own - error[1]), max(own, 2 * own - error[0])
    assert ours["calibration_error"] == pytest.approx(reversed_error, abs=0.01)
    assert ours["calibration_error"][0] <= own <= ours["calibration_error"][1]
    normal = stats.norm.interval(0.95, found.losses.mean(), stats.sem(found.losses))
    assert ours["loss"] == pytest.approx(normal, abs=0.02)


def test_delong_agrees_with_the_bootstrap_of_the_macro_area():
    from sklearn.metrics import roc_auc_score
    found = predictions(500, 3, strength=1.0)
    curves = CurveSet(found, ())
    low, high = intervals.delong(curves.macro_roc_auc, curves.influence)
    generator, probabilities, drawn = np.random.default_rng(0), softmax(found), []
    for _ in range(400):
        index = generator.integers(500, size=500)
        drawn.append(roc_auc_score(found.labels[index], probabilities[index], multi_class="ovr"))
    assert (low, high) == pytest.approx(tuple(np.quantile(drawn, [0.025, 0.975])), abs=0.006)
    assert low < curves.macro_roc_auc < high and curves.influence.sum() == pytest.approx(0, abs=1e-6)
    assert intervals.delong(1.0, np.zeros(5)) == (None, None) == intervals.delong(float("nan"), np.zeros(5))
