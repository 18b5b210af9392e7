"""Figures from exact sums over examples, never means of batch means."""
import dataclasses

import numpy as np

# What is said of each example: its class, the predicted one, the probability of that, its loss in nats, and how many
# classes have a larger logit than its own.
EXAMPLE_COLUMNS = ("label", "predicted", "confidence", "loss", "rank")
LABEL, PREDICTED, CONFIDENCE, LOSS, RANK = range(len(EXAMPLE_COLUMNS))
CALIBRATION_BINS = 15


@dataclasses.dataclass(frozen=True, eq=False)
class Evaluation:
    """How a model judged every example of a split.

    Attributes:
      loss: mean loss in nats, from a float64 sum.
      accuracy: share of hits in [0, 1], from a sum of whole numbers.
      examples: how many.
      rows: float32 [examples, 5], columns EXAMPLE_COLUMNS, in the split's own order.
      num_classes: number of classes.
      metrics: {name: mean over the examples} of --metrics.
    """

    loss: float
    accuracy: float
    examples: int
    rows: np.ndarray
    num_classes: int
    metrics: dict = dataclasses.field(default_factory=dict)

    @property
    def figures(self):
        """{"loss", "accuracy", "examples", "calibration_error", and with more than 5 classes "top5_accuracy"}."""
        found = {"loss": self.loss, "accuracy": self.accuracy, "examples": self.examples,
                 "calibration_error": calibration_error(self.rows[:, CONFIDENCE], hit_rows(self.rows))}
        if self.num_classes > 5:
            found["top5_accuracy"] = top_k_accuracy(self.rows, 5)
        return {**found, **self.metrics}


def evaluation(sums, rows, num_classes, names=()):
    """Returns the Evaluation of sums and rows.

    Args:
      sums: [3 + metrics] float64: sum of losses in nats, number of hits, number of examples (> 0), and a sum a metric.
      rows: see Evaluation.
      num_classes: number of classes.
      names: of the metrics.
    """
    loss, correct, examples, *more = (float(v) for v in sums)
    return Evaluation(loss / examples, correct / examples, round(examples), rows, num_classes,
                      {name: total / examples for name, total in zip(names, more, strict=True)})


def hit_rows(rows):
    """Returns bool [N]: which rows (see Evaluation) are hits."""
    return rows[:, LABEL] == rows[:, PREDICTED]


def top_k_accuracy(rows, k):
    """Returns the share of rows (see Evaluation) whose class is among the k most probable ones."""
    return float(np.mean(rows[:, RANK] < k))


def confusion_matrix(rows, num_classes):
    """Returns int64 [num_classes, num_classes], true class by predicted class, of rows (see Evaluation)."""
    pairs = rows[:, LABEL].astype(np.int64) * num_classes + rows[:, PREDICTED].astype(np.int64)
    return np.bincount(pairs, minlength=num_classes**2).reshape(num_classes, num_classes)


def per_class_accuracy(rows, num_classes):
    """Returns float64 [num_classes], the share of each class's examples that are hits; NaN without examples."""
    labels = rows[:, LABEL].astype(np.int64)
    counts = np.bincount(labels, minlength=num_classes)
    found = np.bincount(labels, weights=hit_rows(rows), minlength=num_classes)
    return np.divide(found, counts, out=np.full(num_classes, np.nan), where=counts > 0)


def calibration_error(confidence, correct, bins=CALIBRATION_BINS):
    """Expected calibration error (Guo et al., arXiv:1706.04599): how far confidence is from the share of hits.

    Args:
      confidence: [N] probabilities of the predicted classes.
      correct: bool [N].
      bins: number of bins of equal width, each closed above.

    Returns:
      The mean over examples of the distance in their bin, in [0, 1]; NaN where a confidence is not a number.
    """
    confidence = np.asarray(confidence, np.float64)
    if not np.isfinite(confidence).all():
        return float("nan")
    which = np.clip(np.ceil(confidence * bins).astype(np.int64) - 1, 0, bins - 1)
    distance = np.bincount(which, confidence, bins) - np.bincount(which, np.asarray(correct, np.float64), bins)
    return float(np.abs(distance).sum() / len(confidence))


def is_better(metric, value, best):
    """Tells whether an evaluation beats the best so far.

    Args:
      metric: "accuracy" (more is better) or "loss" (less is better).
      value: the new value.
      best: the best so far, NaN for none.
    """
    if value != value:
        return False
    if best != best:
        return True
    return value > best if metric == "accuracy" else value < best
