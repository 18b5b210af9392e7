"""Which classes are found, and which are taken for which: scikit-learn's figures."""
import numpy as np
from sklearn.metrics import precision_recall_fscore_support

PER_CLASS = ("precision", "recall", "f1", "support")
MOST_PAIRS = 20


def per_class(labels, predicted, num_classes):
    """Precision, recall, F1 and support of each class.

    Args:
      labels, predicted: int [N].
      num_classes: number of classes.

    Returns:
      {"precision", "recall", "f1": float64 [classes], "support": int64 [classes]}; 0 for the precision of a class that
      is never predicted, NaN for every figure of a class without examples: nothing is known of how it is found.
    """
    found = precision_recall_fscore_support(labels, predicted, labels=np.arange(num_classes), zero_division=0)
    figures = dict(zip(PER_CLASS, found, strict=True))
    for name in PER_CLASS[:3]:
        figures[name][figures["support"] == 0] = np.nan
    return figures


def averages(labels, predicted):
    """Returns {"macro", "weighted": {"precision", "recall", "f1", "support"}}.

    Classes without examples do not count, whether they are predicted or not (scikit-learn's default counts those that
    are predicted as 0); support is the number of examples.
    """
    found, classes = {}, np.unique(labels)
    for kind in ("macro", "weighted"):
        values = precision_recall_fscore_support(labels, predicted, labels=classes, average=kind, zero_division=0)
        found[kind] = dict(zip(PER_CLASS, (*map(float, values[:3]), len(labels)), strict=True))
    return found


def confused_pairs(confusion, names, most=MOST_PAIRS):
    """Lists which classes are taken for which most often.

    Args:
      confusion: int [true, predicted].
      names: class names.
      most: how many pairs.

    Returns:
      [{"true", "predicted": names, "count", "share": of the true class's examples}], most first; equal ones in the
      order of the classes.
    """
    wrong = np.array(confusion)
    np.fill_diagonal(wrong, 0)
    support = np.sum(confusion, axis=1)
    true, predicted = np.nonzero(wrong)
    order = np.argsort(-wrong[true, predicted], kind="stable")[:most]
    return [{"true": names[t], "predicted": names[p], "count": int(wrong[t, p]),
             "share": float(wrong[t, p] / support[t])} for t, p in zip(true[order], predicted[order], strict=True)]
