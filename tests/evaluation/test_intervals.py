"""Intervals against textbooks, against each other, and against what they promise."""
import numpy as np
import pytest
import scipy.sparse
from scipy import stats

from pipeline.evaluation.curves import CurveSet, class_curves
from pipeline.evaluation.probabilities import Predictions
from pipeline.metrics import classification, intervals
from pipeline.metrics.evaluation import calibration_error
from tests.evaluation.made_predictions import predictions, softmax


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


def test_the_bootstrap_agrees_with_a_plain_one():
    found = predictions(500, 4, strength=1.5)
    generator, drawn = np.random.default_rng(0), []
    for _ in range(200):
        part = found.select(generator.integers(500, size=500))
        drawn.append((part.losses.mean(), classification.averages(part.labels, part.predicted)["macro"]["f1"],
                      calibration_error(part.confidence, part.correct)))
    loss, f1, error = np.quantile(drawn, [0.025, 0.975], axis=0).T
    own = calibration_error(found.confidence, found.correct)
    ours = intervals.bootstrap(found)
    assert ours["loss"] == pytest.approx(tuple(loss), abs=0.01)
    assert ours["macro_f1"] == pytest.approx(tuple(f1), abs=0.01)
    reversed_error = max(0, 2 * own - error[1]), max(own, 2 * own - error[0])
    assert ours["calibration_error"] == pytest.approx(reversed_error, abs=0.01)
    assert ours["calibration_error"][0] <= own <= ours["calibration_error"][1]
    normal = stats.norm.interval(0.95, found.losses.mean(), stats.sem(found.losses))
    assert ours["loss"] == pytest.approx(normal, abs=0.02)


def test_the_bootstrap_has_no_interval_of_f1_without_errors():
    found = predictions(60, 4, strength=1.5)
    for labels in (found.predicted, (found.predicted + 1) % 4):  # Every example a hit, and none.
        drawn = intervals.bootstrap(Predictions(found.logits, labels))
        assert drawn["macro_f1"] == (None, None) and drawn["loss"][0] < drawn["loss"][1]


def few_a_class(generator, each, classes=100, right=0.9):
    """Returns Predictions of `each` examples a class; nine in ten are hits, and the others fall anywhere."""
    labels = np.repeat(np.arange(classes), each)
    any_class = generator.randint(classes, size=len(labels))
    predicted = np.where(generator.random_sample(len(labels)) < right, labels, any_class)
    return Predictions(3 * np.eye(classes, dtype=np.float32)[predicted], labels)


def test_the_macro_f1_of_few_examples_a_class_is_in_its_interval():
    """A class that a resample has nothing of is no class that is never found."""
    generator, inside, widths, off = np.random.RandomState(3), 0, [], []
    for _ in range(20):
        found = few_a_class(generator, each=2)
        low, high = intervals.bootstrap(found)["macro_f1"]
        inside += low <= 0.901 <= high  # Of very many examples a class.
        widths.append(high - low)
        value = classification.averages(found.labels, found.predicted)["macro"]["f1"]
        off.append((low + high) / 2 - value)
    # 95 of 100 samples of this kind are within 0.083.
    assert inside >= 18 and 0.075 < np.mean(widths) < 0.105 and abs(np.mean(off)) < 0.005
    assert intervals.bootstrap(few_a_class(generator, each=1))["macro_f1"] == (None, None)


def sure(generator, count, too_sure):
    """Returns Predictions of two classes that are right `too_sure` less often than their confidence says."""
    confidence = np.clip(0.5 + 0.5 * generator.beta(6, 1.2, count), 0.5, 0.999)
    labels = (generator.random_sample(count) >= confidence - too_sure).astype(int)
    return Predictions(np.stack([np.log(confidence / (1 - confidence)), np.zeros(count)], axis=1), labels)


def test_the_interval_of_a_calibrated_model_includes_zero():
    generator = np.random.RandomState(0)
    lows = [intervals.bootstrap(sure(generator, 1000, 0.0))["calibration_error"][0] for _ in range(20)]
    assert sum(low == 0 for low in lows) >= 17
    for _ in range(3):
        low, high = intervals.bootstrap(sure(generator, 1000, 0.1))["calibration_error"]
        assert 0 < low < 0.1 < high


def test_errors_of_calibrated_models_are_those_of_simulated_ones():
    generator, confidence = np.random.RandomState(1), sure(np.random.RandomState(0), 400, 0.0).confidence
    which = np.clip(np.ceil(confidence * 15).astype(int) - 1, 0, 14)
    drawn = [calibration_error(confidence, generator.random_sample(400) < confidence) for _ in range(1000)]
    np.testing.assert_allclose(np.quantile(intervals.calibrated_errors(confidence, which), [0.05, 0.5, 0.95]),
                               np.quantile(drawn, [0.05, 0.5, 0.95]), rtol=0.08)


def test_delong_is_that_of_the_textbook_down_to_two_examples_of_a_class():
    generator = np.random.RandomState(0)
    for positives in (2, 7):
        scores, positive = generator.randint(12, size=40) / 12, np.arange(40) < positives
        ours = class_curves(positive, scores)
        wins = (scores[positive][:, None] > scores[~positive]) + 0.5 * (scores[positive][:, None] == scores[~positive])
        variance = wins.mean(axis=1).var(ddof=1) / positives + wins.mean(axis=0).var(ddof=1) / (40 - positives)
        assert np.square(ours.influence).sum() / 40**2 == pytest.approx(variance, rel=1e-9)
    assert intervals.delong(0.9, class_curves(np.arange(40) < 1, scores).influence) == (None, None)


def test_delong_agrees_with_the_bootstrap_of_the_macro_area():
    from sklearn.metrics import roc_auc_score
    found = predictions(500, 3, strength=1.0)
    curves = CurveSet(found, ())
    low, high = intervals.delong(curves.macro_roc_auc, curves.influence)
    generator, probabilities, drawn = np.random.default_rng(0), softmax(found), []
    for _ in range(150):
        index = generator.integers(500, size=500)
        drawn.append(roc_auc_score(found.labels[index], probabilities[index], multi_class="ovr"))
    assert (low, high) == pytest.approx(tuple(np.quantile(drawn, [0.025, 0.975])), abs=0.006)
    assert low < curves.macro_roc_auc < high and curves.influence.sum() == pytest.approx(0, abs=1e-6)
    assert intervals.delong(1.0, np.zeros(5)) == (None, None) == intervals.delong(float("nan"), np.zeros(5))
