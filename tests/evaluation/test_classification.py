"""Figures of classes against scikit-learn and by hand."""
import numpy as np
import pytest
from sklearn import metrics

from pipeline.evaluation.probabilities import Predictions, averaged
from pipeline.metrics import classification
from pipeline.metrics.evaluation import EXAMPLE_COLUMNS
from tests.evaluation.made_predictions import predictions, softmax


def test_probabilities_are_the_softmax_and_what_follows_from_it():
    found = predictions(classes=7, scale=3.0)
    expected, places = softmax(found), np.arange(found.examples)
    np.testing.assert_allclose([found.probability(c) for c in range(7)], expected.T, rtol=1e-12)
    np.testing.assert_array_equal(found.predicted, expected.argmax(axis=1))
    np.testing.assert_allclose(found.confidence, expected.max(axis=1), rtol=1e-12)
    np.testing.assert_allclose(found.losses.mean(), metrics.log_loss(found.labels, expected), rtol=1e-12)
    np.testing.assert_allclose(found.true_probability, expected[places, found.labels], rtol=1e-12)
    np.testing.assert_allclose(found.brier.mean(), metrics.brier_score_loss(
        found.labels, expected, labels=np.arange(7), scale_by_half=False), rtol=1e-12)
    np.testing.assert_allclose(softmax(found.scaled(2.0)), softmax(Predictions(found.logits / 2, found.labels)))


def test_an_evaluation_of_probabilities_has_the_columns_of_training():
    found = Predictions(np.array([[0.0, 2, 1], [1, 1, 0], [5, 5, 5]], np.float32), np.array([2, 1, 0]))
    evaluation = found.evaluation()
    rows = dict(zip(EXAMPLE_COLUMNS, evaluation.rows.T, strict=True))
    assert rows["label"].tolist() == [2, 1, 0] and rows["predicted"].tolist() == [1, 0, 0]
    assert rows["rank"].tolist() == [1, 1, 0]  # Of equal logits the first one is the prediction.
    assert (evaluation.accuracy, evaluation.examples) == (1 / 3, 3)
    assert evaluation.loss == pytest.approx(metrics.log_loss(found.labels, softmax(found)))


def test_views_are_averaged_as_probabilities():
    parts = [predictions(seed=0, labels=[0, 1, 2] * 5), predictions(seed=1, labels=[0, 1, 2] * 5, scale=9.0)]
    np.testing.assert_allclose(softmax(averaged(parts)), (softmax(parts[0]) + softmax(parts[1])) / 2, rtol=1e-9)


def test_precision_recall_and_f1_are_scikit_learns():
    found = predictions(strength=0.7)
    report = metrics.classification_report(found.labels, found.predicted, output_dict=True)
    figures = classification.per_class(found.labels, found.predicted, 4)
    for i in range(4):
        expected = {k.removesuffix("-score"): v for k, v in report[str(i)].items()}
        assert {k: figures[k][i] for k in figures} == expected
    for kind, values in classification.averages(found.labels, found.predicted).items():
        assert list(values.values()) == list(report[f"{kind} avg"].values())


def test_classes_without_examples_have_no_metrics_and_enter_no_mean():
    labels, predicted = [0, 0, 1, 1], [0, 1, 1, 2]  # The third is predicted and not there.
    figures = classification.per_class(labels, predicted, 4)
    for name, known in (("precision", [1, 0.5]), ("recall", [0.5, 0.5]), ("f1", [2 / 3, 0.5])):
        np.testing.assert_allclose(figures[name], [*known, np.nan, np.nan])
    assert figures["support"].tolist() == [2, 2, 0, 0]
    averages = classification.averages(labels, predicted)
    assert averages["macro"]["recall"] == averages["weighted"]["recall"] == 0.5
    assert averages["macro"]["precision"] == 0.75 and averages["macro"]["f1"] == pytest.approx((2 / 3 + 0.5) / 2)


def test_the_most_confused_pairs_come_first():
    confusion = [[5, 3, 0], [3, 1, 0], [1, 7, 2]]
    pairs = classification.confused_pairs(confusion, ("a", "b", "c"), most=3)
    assert [(p["true"], p["predicted"], p["count"], p["share"]) for p in pairs] == [
        ("c", "b", 7, 0.7), ("a", "b", 3, 0.375), ("b", "a", 3, 0.75)]
    assert classification.confused_pairs(np.eye(3, dtype=int), ("a", "b", "c")) == []
