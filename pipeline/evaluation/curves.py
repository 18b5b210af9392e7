"""ROC and precision-recall curves, each class against the rest, with areas: from scikit-learn's counts."""
import dataclasses
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from sklearn.metrics import auc, confusion_matrix_at_thresholds

from pipeline.evaluation.probabilities import Predictions

MOST_CLASSES = 50
MOST_POINTS = 200
_FALSE_POSITIVE_RATE = np.concatenate([[0.0], np.linspace(0, 1, MOST_POINTS - 1)**2])  # Where good curves bend.
_RECALL = np.linspace(0, 1, MOST_POINTS)


@dataclasses.dataclass(frozen=True)
class ClassCurves:
    """Curves of one class against the rest, by falling threshold.

    Attributes:
      roc: (false positive rate, true positive rate), float64 [k] each, from (0, 0) to (1, 1).
      pr: (recall, precision), float64 [k] each.
      roc_auc: area under the first, in [0, 1].
      average_precision: sum of precision times the gain in recall, in [0, 1].
      influence: float64 [N], see intervals.delong; NaN at the only example of its kind.
    """

    roc: tuple[np.ndarray, np.ndarray]
    pr: tuple[np.ndarray, np.ndarray]
    roc_auc: float
    average_precision: float
    influence: np.ndarray


def class_curves(positive: np.ndarray, scores: np.ndarray) -> ClassCurves | None:
    """Returns the ClassCurves of a class, None where it has no positives or no negatives.

    Args:
      positive: bool [N], whether an example is of the class.
      scores: float64 [N], its probability for the class.
    """
    if positive.all() or not positive.any():
        return None
    _, false, _, true, thresholds = confusion_matrix_at_thresholds(positive, scores)
    recall, precision = true / true[-1], true / (true + false)
    fall_out, hit_rate = np.append(0.0, false / false[-1]), np.append(0.0, recall)
    # For each example the share of the other kind that is on its right side; a tie counts half.
    place = np.searchsorted(-thresholds, -scores)
    middle = (fall_out[1:] + fall_out[:-1]) / 2, (hit_rate[1:] + hit_rate[:-1]) / 2
    area = auc(fall_out, hit_rate)
    right = np.where(positive, 1 - middle[0][place], middle[1][place]) - area
    return ClassCurves((fall_out, hit_rate), (recall, precision), float(area),
                       float(np.sum(np.diff(recall, prepend=0.0) * precision)), right * _weights(positive))


def _weights(positive: np.ndarray) -> np.ndarray:
    """Returns float64 [N]: factors from distances from the area to influences, see intervals.delong.

    An example counts N times as much as its part of its own kind. Distances from a mean of m are too small by the root
    of (m - 1) / m; a single example has none, and tells nothing about the spread.
    """
    counts = np.where(positive, positive.sum(), (~positive).sum()).astype(np.float64)
    return np.divide(len(positive), np.sqrt(counts * (counts - 1)), out=np.full(len(counts), np.nan),
                     where=counts > 1)


def thinned(x: np.ndarray, y: np.ndarray, most: int = MOST_POINTS) -> tuple[np.ndarray, np.ndarray]:
    """Removes points of a curve that are not seen: at most `most` stay, evenly along its length."""
    x, y = np.asarray(x, np.float64), np.asarray(y, np.float64)
    if len(x) > most:
        # Only the corners of a staircase matter.
        bends = np.append(True, (np.diff(x, 2) != 0) | (np.diff(y, 2) != 0))
        x, y = x[np.append(bends, True)], y[np.append(bends, True)]
    if len(x) > most:
        way = np.append(0.0, np.cumsum(np.abs(np.diff(x)) + np.abs(np.diff(y))))
        kept = np.unique(np.searchsorted(way, np.linspace(0, way[-1], most)).clip(0, len(x) - 1))
        x, y = x[kept], y[kept]
    return x, y


def as_json(x: np.ndarray, y: np.ndarray, area: float, **more: str) -> dict[str, Any]:
    """Returns {"x", "y", "area"} of a curve, thinned, to 6 decimals."""
    x, y = thinned(x, y)
    return {**more, "x": x.round(6).tolist(), "y": y.round(6).tolist(), "area": area}


class CurveSet:
    """The curves of all classes of a split, and their means over the classes.

    Attributes:
      roc_auc, average_precision: float64 [classes], NaN for a class without positives or negatives.
      influence: float64 [N] of the macro ROC AUC, see intervals.delong.
      macro_roc_auc, macro_average_precision: means over the classes that have a curve; NaN without any.
    """

    def __init__(self, predictions: Predictions, shown: Iterable[int]):
        count = predictions.num_classes
        self.roc_auc, self.average_precision = np.full(count, np.nan), np.full(count, np.nan)
        self.shown: dict[int, ClassCurves | None] = {number: None for number in shown}
        self.influence = np.zeros(predictions.examples)
        self._hit_rate, self._precision = np.zeros(MOST_POINTS), np.zeros(MOST_POINTS)
        for number in range(count):
            found = class_curves(predictions.labels == number, predictions.probability(number))
            if found is not None:
                self._add(number, found)
        there = max(1, np.isfinite(self.roc_auc).sum())
        for total in (self.influence, self._hit_rate, self._precision):
            total /= there
        self._hit_rate[0] = 0.0
        self.macro_roc_auc = self.mean(self.roc_auc, np.ones(count))
        self.macro_average_precision = self.mean(self.average_precision, np.ones(count))

    def _add(self, number: int, found: ClassCurves) -> None:
        self.roc_auc[number], self.average_precision[number] = found.roc_auc, found.average_precision
        self.influence += found.influence
        self._hit_rate += np.interp(_FALSE_POSITIVE_RATE, *found.roc)
        # Between two recalls the precision is that of the larger one, as the average precision counts it.
        self._precision += found.pr[1][np.searchsorted(found.pr[0], _RECALL)]
        if number in self.shown:
            self.shown[number] = found

    def mean(self, areas: np.ndarray, weights: np.ndarray) -> float:
        """Returns the weighted mean of areas [classes] over the classes that have one, NaN without any."""
        there = np.isfinite(areas)
        return float(np.average(areas[there], weights=weights[there])) if weights[there].sum() else float("nan")

    def roc(self, names: Sequence[str]) -> dict[str, Any]:
        """Returns {"classes": [{"name", "x", "y", "area"} or None], "macro": {"x", "y", "area"} or None}.

        x is the false positive rate, y the true positive rate, area that under the curve.
        """
        return self._as_json(names, "roc", "roc_auc",
                             as_json(_FALSE_POSITIVE_RATE, self._hit_rate, self.macro_roc_auc))

    def pr(self, names: Sequence[str]) -> dict[str, Any]:
        """Returns the same with recall as x, precision as y, and the average precision as area."""
        return self._as_json(names, "pr", "average_precision",
                             as_json(_RECALL, self._precision, self.macro_average_precision))

    def _as_json(self, names, kind, area, macro):
        found = [curves and as_json(*getattr(curves, kind), getattr(curves, area), name=names[number])
                 for number, curves in self.shown.items()]
        return {"classes": found, "macro": macro if np.isfinite(macro["area"]) else None}


def classes_to_show(f1: np.ndarray, most: int = MOST_CLASSES) -> list[int]:
    """Returns the numbers of the classes whose curves are drawn, ascending: at most `most`, of the lowest F1.

    Args:
      f1: float64 [classes], NaN for a class without examples, of which there is no curve.
      most: how many.
    """
    order = np.argsort(f1, kind="stable")  # NaN comes last.
    return sorted(number for number in order[:most].tolist() if np.isfinite(f1[number]))
