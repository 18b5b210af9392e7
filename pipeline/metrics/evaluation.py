"""Metrics from exact sums over examples, never means of batch means."""
import dataclasses
from collections.abc import Sequence

import numpy as np

# One row an example: its class, the predicted class, the probability of that class, the loss in nats, and the number of
# classes with a larger logit than its own.
EXAMPLE_COLUMNS = ("label", "predicted", "confidence", "loss", "rank")
LABEL, PREDICTED, CONFIDENCE, LOSS, RANK = range(len(EXAMPLE_COLUMNS))
CALIBRATION_BINS = 15


@dataclasses.dataclass(frozen=True, eq=False)
class Evaluation:
    """Metrics and per-example results of a model on a split.

    Attributes:
      loss: mean loss in nats, from a float64 sum.
      accuracy: share of correct predictions in [0, 1], from a sum of whole numbers.
      examples: number of examples.
      rows: float32 [examples, 5], columns EXAMPLE_COLUMNS, in the order of the split.
      num_classes: number of classes.
      metrics: {name: mean over the examples} of --metrics.
    """

    loss: float
    accuracy: float
    examples: int
    rows: np.ndarray
    num_classes: int
    metrics: dict[str, float] = dataclasses.field(default_factory=dict)

    @property
    def figures(self) -> dict[str, float]:
        """{"loss", "accuracy", "examples", "calibration_error", and with more than 5 classes "top5_accuracy"}."""
        found = {"loss": self.loss, "accuracy": self.accuracy, "examples": self.examples,
                 "calibration_error": calibration_error(self.rows[:, CONFIDENCE], correct_rows(self.rows))}
        if self.num_classes > 5:
            found["top5_accuracy"] = top_k_accuracy(self.rows, 5)
        return {**found, **self.metrics}


def evaluation(sums: Sequence[float] | np.ndarray, rows: np.ndarray, num_classes: int,
               names: Sequence[str] = ()) -> Evaluation:
    """Returns the Evaluation of sums and rows.

    Args:
      sums: [3 + metrics] float64: sum of losses in nats, number of correct predictions, number of examples (> 0), and
        one sum for each metric.
      rows: see Evaluation.
      num_classes: number of classes.
      names: of the metrics.
    """
    loss, correct, examples, *more = (float(v) for v in sums)
    return Evaluation(loss / examples, correct / examples, round(examples), rows, num_classes,
                      {name: total / examples for name, total in zip(names, more, strict=True)})


def correct_rows(rows: np.ndarray) -> np.ndarray:
    """Returns bool [N]: which rows (see Evaluation) are predicted correctly."""
    return rows[:, LABEL] == rows[:, PREDICTED]


def top_k_accuracy(rows: np.ndarray, k: int) -> float:
    """Returns the share of rows (see Evaluation) whose class is among the k most probable."""
    return float(np.mean(rows[:, RANK] < k))


def confusion_matrix(rows: np.ndarray, num_classes: int) -> np.ndarray:
    """Returns int64 [num_classes, num_classes], true class by predicted class, of rows (see Evaluation)."""
    pairs = rows[:, LABEL].astype(np.int64) * num_classes + rows[:, PREDICTED].astype(np.int64)
    return np.bincount(pairs, minlength=num_classes**2).reshape(num_classes, num_classes)


def per_class_accuracy(rows: np.ndarray, num_classes: int) -> np.ndarray:
    """Returns float64 [num_classes], the accuracy of each class; NaN for a class without examples."""
    confusion = confusion_matrix(rows, num_classes)
    counts = confusion.sum(axis=1)
    return np.divide(np.diagonal(confusion), counts, out=np.full(num_classes, np.nan), where=counts > 0)


def calibration_error(confidence: np.ndarray, correct: np.ndarray, bins: int = CALIBRATION_BINS) -> float:
    """Expected calibration error (Guo et al., arXiv:1706.04599): the distance between confidence and accuracy.

    Args:
      confidence: [N] probabilities of the predicted classes.
      correct: bool [N].
      bins: number of bins of equal width, each closed above.

    Returns:
      The mean over examples of the distance in their bin, in [0, 1]; NaN if a confidence is not finite.
    """
    confidence = np.asarray(confidence, np.float64)
    if not np.isfinite(confidence).all():
        return float("nan")
    which = np.clip(np.ceil(confidence * bins).astype(np.int64) - 1, 0, bins - 1)
    distance = np.bincount(which, confidence, bins) - np.bincount(which, np.asarray(correct, np.float64), bins)
    return float(np.abs(distance).sum() / len(confidence))


def is_better(metric: str, value: float, best: float) -> bool:
    """Tells whether an evaluation improves on the best so far.

    Args:
      metric: "accuracy" (higher is better) or "loss" (lower is better).
      value: the new value.
      best: the best so far, NaN for none.
    """
    if value != value:
        return False
    if best != best:
        return True
    return value > best if metric == "accuracy" else value < best
