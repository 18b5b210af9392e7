"""Metrics by class and confusions between classes, by scikit-learn."""
from collections.abc import Sequence

import numpy as np
from sklearn.metrics import precision_recall_fscore_support

PER_CLASS = ("precision", "recall", "f1", "support")
MOST_PAIRS = 20


def per_class(labels: np.ndarray, predicted: np.ndarray, num_classes: int) -> dict[str, np.ndarray]:
    """Returns {"precision", "recall", "f1": float64 [classes], "support": int64 [classes]}.

    The precision of a class that is never predicted is 0. Every metric of a class without examples is NaN.

    Args:
      labels, predicted: int [N].
      num_classes: number of classes.
    """
    values = precision_recall_fscore_support(labels, predicted, labels=np.arange(num_classes), zero_division=0)
    found = dict(zip(PER_CLASS, values, strict=True))
    for name in PER_CLASS[:3]:
        found[name][found["support"] == 0] = np.nan
    return found


def averages(labels: np.ndarray, predicted: np.ndarray) -> dict[str, dict[str, float]]:
    """Returns {"macro", "weighted": {"precision", "recall", "f1", "support": number of examples}}.

    Classes without examples are left out, whether predicted or not (scikit-learn counts those predicted as 0).
    """
    found, classes = {}, np.unique(labels)
    for kind in ("macro", "weighted"):
        values = precision_recall_fscore_support(labels, predicted, labels=classes, average=kind, zero_division=0)
        found[kind] = dict(zip(PER_CLASS, (*map(float, values[:3]), len(labels)), strict=True))
    return found


def confused_pairs(confusion: np.ndarray, names: Sequence[str], most: int = MOST_PAIRS) -> list[dict]:
    """Lists the most frequent confusions between two classes.

    Args:
      confusion: int [true, predicted].
      names: class names.
      most: largest number of pairs.

    Returns:
      [{"true", "predicted": names, "count", "share": of the true class's examples}], most frequent first; ties in the
      order of the classes.
    """
    wrong = np.array(confusion)
    np.fill_diagonal(wrong, 0)
    support = np.sum(confusion, axis=1)
    true, predicted = np.nonzero(wrong)
    order = np.argsort(-wrong[true, predicted], kind="stable")[:most]
    return [{"true": names[t], "predicted": names[p], "count": int(wrong[t, p]),
             "share": float(wrong[t, p] / support[t])} for t, p in zip(true[order], predicted[order], strict=True)]
