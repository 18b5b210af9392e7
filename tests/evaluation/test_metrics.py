"""Per-example outputs and the metrics computed from them, against scikit-learn and cases worked out by hand."""
import numpy as np
import pytest
from sklearn.metrics import confusion_matrix as sklearn_confusion
from sklearn.metrics import top_k_accuracy_score

from pipeline.metrics import evaluation as metrics
from tests.training.small import build, run


@pytest.fixture(scope="module")
def evaluated(strategy):
    """(experiment, outputs and evaluation of the test split) with two replicas and a batch that does not divide."""
    experiment = build(strategy(2), model="mlp", precision="float32", batch_size=50)
    run(experiment, 3)
    test = experiment.source.test
    return experiment, experiment.outputs(test), experiment.evaluate(test)


def test_rows_follow_from_the_logits_of_each_example(evaluated):
    _, outputs, evaluation = evaluated
    logits, labels = outputs.logits, outputs.labels
    shifted = np.exp(logits - logits.max(1, keepdims=True))
    probabilities = shifted / shifted.sum(1, keepdims=True)
    rows = evaluation.rows
    assert rows.shape == (360, 5) and evaluation.examples == 360
    np.testing.assert_array_equal(rows[:, metrics.LABEL], labels)
    np.testing.assert_array_equal(rows[:, metrics.PREDICTED], logits.argmax(1))
    np.testing.assert_allclose(rows[:, metrics.CONFIDENCE], probabilities.max(1), rtol=1e-5)
    np.testing.assert_allclose(rows[:, metrics.LOSS], -np.log(probabilities[np.arange(360), labels]), rtol=1e-4,
                               atol=1e-6)
    np.testing.assert_array_equal(rows[:, metrics.RANK], (logits > logits[np.arange(360), labels][:, None]).sum(1))
    assert evaluation.accuracy == (logits.argmax(1) == labels).mean() == metrics.correct_rows(rows).mean()
    assert evaluation.loss == pytest.approx(rows[:, metrics.LOSS].mean(), rel=1e-5)


def test_metrics_are_scikit_learns(evaluated):
    _, outputs, evaluation = evaluated
    labels, predicted = outputs.labels, outputs.logits.argmax(1)
    matrix = metrics.confusion_matrix(evaluation.rows, 10)
    np.testing.assert_array_equal(matrix, sklearn_confusion(labels, predicted, labels=range(10)))
    np.testing.assert_allclose(metrics.per_class_accuracy(evaluation.rows, 10), matrix.diagonal() / matrix.sum(1))
    assert metrics.top_k_accuracy(evaluation.rows, 3) == top_k_accuracy_score(labels, outputs.logits, k=3)
    assert evaluation.figures["top5_accuracy"] == top_k_accuracy_score(labels, outputs.logits, k=5)


def test_the_calibration_error_by_hand():
    # Two bins of ten: 0.95 with 1 hit of 2, 0.55 with 2 of 2.
    assert metrics.calibration_error([0.95, 0.95, 0.55, 0.55], [1, 0, 1, 1], bins=10) == pytest.approx(0.45)
    assert metrics.calibration_error([1.0, 0.0], [1, 0]) == 0.0
    assert np.isnan(metrics.calibration_error([np.nan], [0]))


def test_a_class_without_examples_has_no_accuracy():
    rows = np.array([[0, 0, 0.9, 0.1, 0], [2, 0, 0.8, 2.0, 1]], np.float32)
    assert metrics.per_class_accuracy(rows, 3).tolist()[::2] == [1.0, 0.0]
    assert np.isnan(metrics.per_class_accuracy(rows, 3)[1])


def test_features_are_the_input_of_the_last_layer(evaluated):
    experiment, outputs, _ = evaluated
    seen = {}
    found = experiment.outputs(experiment.source.test, limit=70, look=seen.__setitem__)
    assert list(seen) == [0, 50] and len(found.logits) == len(found.labels) == 70
    features = np.concatenate(list(seen.values()))
    assert features.shape == (70, 64) and features.dtype == np.float32
    np.testing.assert_array_equal(found.logits, outputs.logits[:70])
    kernel, bias = [v.numpy() for v in experiment.state.model.trainable_variables[-2:]]
    np.testing.assert_allclose(features @ kernel + bias, outputs.logits[:70], rtol=1e-4, atol=1e-5)
