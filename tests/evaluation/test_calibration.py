"""Calibration: known bins, known temperatures, and no fit on the examples it is evaluated on."""
import numpy as np
import pytest
from sklearn import metrics
from sklearn.calibration import calibration_curve

from pipeline.evaluation import calibration
from pipeline.evaluation.probabilities import Predictions
from tests.evaluation.made_predictions import predictions, softmax


def test_bins_by_hand():
    bins = calibration.reliability(np.array([0.2, 0.5, 0.45, 0.9, 1.0]), np.array([0, 1, 0, 1, 1], bool), bins=2)
    assert bins == [{"low": 0.0, "high": 0.5, "count": 3, "confidence": pytest.approx(1.15 / 3), "accuracy": 1 / 3},
                    {"low": 0.5, "high": 1.0, "count": 2, "confidence": 0.95, "accuracy": 1.0}]
    assert calibration.reliability(np.array([0.9]), np.array([True]), bins=2)[0]["accuracy"] is None


def test_metrics_are_scikit_learns():
    found = predictions(2000, 5)
    figures, expected = calibration.figures(found), softmax(found)
    assert figures["nll"] == pytest.approx(metrics.log_loss(found.labels, expected))
    assert figures["brier"] == pytest.approx(metrics.brier_score_loss(
        found.labels, expected, labels=np.arange(5), scale_by_half=False))
    share, confidence = calibration_curve(found.correct, found.confidence, n_bins=15)
    there = [b for b in figures["reliability"] if b["count"]]
    np.testing.assert_allclose([(b["accuracy"], b["confidence"]) for b in there],
                               np.stack([share, confidence], axis=1), rtol=1e-12)
    gap = sum(b["count"] * abs(b["accuracy"] - b["confidence"]) for b in there) / 2000
    assert figures["ece"] == pytest.approx(gap) and sum(b["count"] for b in there) == 2000


def calibrated(count, seed, scale=1.0):
    """Returns Predictions whose labels are drawn from their own probabilities, and then their logits scaled."""
    generator = np.random.RandomState(seed)
    logits = generator.randn(count, 5) * 2
    labels = (logits + generator.gumbel(size=logits.shape)).argmax(axis=1)  # A draw from the softmax.
    return Predictions((logits * scale).astype(np.float32), labels)


def test_a_known_temperature_is_recovered():
    for scale in (0.4, 1.0, 3.0):
        assert calibration.fit_temperature(calibrated(20_000, 0, scale)) == pytest.approx(scale, rel=0.03)


def test_the_temperature_is_fitted_on_a_held_out_part():
    evaluated, held_out = calibrated(3000, 1, scale=3.0), calibrated(3000, 2, scale=2.0)
    found = calibration.calibrate(evaluated, "test", held_out)
    assert found["fitted_on"] == "the validation split, 3,000 examples"
    assert found["after"]["temperature"] == calibration.fit_temperature(held_out) == pytest.approx(2, rel=0.1)
    assert found["after"]["nll"] == pytest.approx(evaluated.scaled(found["after"]["temperature"]).losses.mean())
    assert found["after"]["ece"] < found["before"]["ece"] and found["before"]["ece"] > 0.1


def test_each_fold_is_evaluated_with_the_temperature_of_the_other():
    evaluated = calibrated(3001, 1, scale=3.0)
    found, (first, second) = calibration.calibrate(evaluated, "test"), calibration.folds(evaluated.labels)
    temperatures = [calibration.fit_temperature(evaluated.select(part)) for part in (first, second)]
    assert found["after"]["temperature"] == temperatures and temperatures[0] != temperatures[1]
    losses = [evaluated.select(part).scaled(t).losses
              for part, t in ((first, temperatures[1]), (second, temperatures[0]))]
    assert found["after"]["nll"] == pytest.approx(np.concatenate(losses).mean(), rel=1e-9)
    assert "two folds of the test split" in found["fitted_on"]
    counts = [np.bincount(evaluated.labels[part]) for part in (first, second)]
    assert first.sum() == 1500 and np.abs(counts[0] - counts[1]).max() <= 1


def test_no_temperature_is_fitted_without_errors():
    perfect = predictions(strength=50)
    assert calibration.fit_temperature(perfect) is None
    found = calibration.calibrate(calibrated(100, 0), "test", perfect)
    assert found["after"]["temperature"] == 1 and "1 is kept" in found["fitted_on"]
    assert calibration.calibrate(perfect, "test")["after"]["temperature"] == [1, 1]
    assert calibration.calibrate(predictions(1), "test")["after"] is None
