"""Precision-recall curves of each class, for TensorBoard's tab PR Curves."""
from collections.abc import Sequence

import numpy as np
import tensorflow as tf
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.plugins.pr_curve import summary

MOST_CURVES = 20  # Classes: the tab draws a diagram for each.


def precision_recall_values(logits: np.ndarray, labels: np.ndarray, class_names: Sequence[str],
                            description: str = "") -> list[Summary.Value]:
    """Returns the curves of the first MOST_CURVES classes, one against the rest; none where a logit is not finite.

    Args:
      logits: float [N, classes].
      labels: int [N].
      class_names: in the order of the labels.
      description: displayed with each curve.
    """
    if not np.isfinite(logits).all():
        return []
    probabilities = tf.nn.softmax(np.asarray(logits, np.float64)).numpy()
    found = []
    for label, name in list(enumerate(class_names))[:MOST_CURVES]:
        made = summary.pb(f"precision_recall/{name}", np.equal(labels, label), probabilities[:, label],
                          display_name=str(name), description=description)
        found += Summary.FromString(made.SerializeToString()).value  # Made in TensorFlow's class, not TensorBoard's.
    return found
