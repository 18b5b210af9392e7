"""Precision and recall of each class over all thresholds, for TensorBoard's tab PR Curves."""
import numpy as np
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.plugins.pr_curve import summary

MOST_CURVES = 20  # Classes, the first ones: the tab has a diagram for each.


def softmax(logits):
    """Returns float64 [N, classes], the probabilities of logits [N, classes]."""
    shifted = np.asarray(logits, np.float64)
    exponents = np.exp(shifted - shifted.max(axis=1, keepdims=True))
    return exponents / exponents.sum(axis=1, keepdims=True)


def precision_recall_values(logits, labels, class_names, description=""):
    """Returns the Summary.Values of the curves, one class against the rest; none where a logit is not a number.

    Args:
      logits: float [N, classes].
      labels: int [N].
      class_names: in the order of the labels.
      description: shown beside each.
    """
    if not np.isfinite(logits).all():
        return []
    probabilities, labels = softmax(logits), np.asarray(labels)
    found = []
    for label, name in list(enumerate(class_names))[:MOST_CURVES]:
        made = summary.pb(f"precision_recall/{name}", labels == label, probabilities[:, label], display_name=str(name),
                          description=description)
        found += Summary.FromString(made.SerializeToString()).value
    return found
