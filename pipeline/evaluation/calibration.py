"""How well a model's confidence agrees with its accuracy, before and after temperature scaling."""
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from scipy.optimize import minimize_scalar
from scipy.special import logsumexp

from pipeline.data.holdout import stratified
from pipeline.evaluation.probabilities import ROWS, Predictions
from pipeline.metrics.evaluation import CALIBRATION_BINS, calibration_error
from pipeline.quantities import counted

TEMPERATURES = (0.01, 100.0)


def reliability(confidence: np.ndarray, correct: np.ndarray, bins: int = CALIBRATION_BINS) -> list[dict]:
    """Groups examples by confidence, for a reliability diagram (Guo et al., arXiv:1706.04599, section 2).

    Args:
      confidence: float64 [N] in [0, 1].
      correct: bool [N].
      bins: number of bins of equal width, each closed above.

    Returns:
      [{"low", "high", "count", "confidence": mean or None, "accuracy": or None}], a dict for each bin.
    """
    which = np.clip(np.ceil(confidence * bins).astype(np.int64) - 1, 0, bins - 1)
    count, total, right = (np.bincount(which, weights, bins) for weights in (None, confidence, correct))
    return [{"low": i / bins, "high": (i + 1) / bins, "count": int(n), "confidence": float(total[i] / n) if n else None,
             "accuracy": float(right[i] / n) if n else None} for i, n in enumerate(count)]


def figures(predictions: Predictions) -> dict:
    """Returns {"ece", "nll": nats, "brier": in [0, 2], "reliability"} of Predictions."""
    confidence, correct = predictions.confidence, predictions.correct
    return {"ece": calibration_error(confidence, correct), "nll": float(predictions.losses.mean()),
            "brier": float(predictions.brier.mean()), "reliability": reliability(confidence, correct)}


def fit_temperature(predictions: Predictions) -> float | None:
    """Fits the temperature by which logits have to be divided for the smallest loss (Guo et al., section 4.2).

    Returns:
      A number in TEMPERATURES, or None where every example is classified correctly: the loss then has no minimum.
    """
    if predictions.correct.all():
        return None
    logits, labels = predictions.logits, predictions.labels

    def loss(log_temperature):
        total, scale = 0.0, math.exp(-log_temperature)
        for first in range(0, len(labels), ROWS):
            part, own = logits[first:first + ROWS] * scale, labels[first:first + ROWS]
            total += float(np.sum(logsumexp(part, axis=1) - part[np.arange(len(own)), own], dtype=np.float64))
        return total / len(labels)

    found = minimize_scalar(loss, bounds=[math.log(t) for t in TEMPERATURES], method="bounded",
                            options={"xatol": 1e-4})
    return float(math.exp(found.x))


def folds(labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Divides examples, at least 2, into two halves with the same shares of classes, by a fixed seed.

    Returns:
      (bool [N], its negation).
    """
    first = np.zeros(len(labels), bool)
    first[stratified(labels, len(labels) // 2)] = True
    return first, ~first


def calibrate(predictions: Predictions, split: str, held_out: Predictions | None = None,
              held_out_name: str = "validation") -> dict:
    """Evaluates calibration before and after temperature scaling, which is fitted on other examples.

    Args:
      predictions: Predictions of the split that is evaluated.
      split: its name.
      held_out: Predictions of another part that was held out of training, or None: then each half of the split is
        evaluated with the temperature fitted on the other half.
      held_out_name: the name of that part.

    Returns:
      {"bins", "before": see `figures`, "after": the same and "temperature" (a number, or two), or None where there are
      too few examples, "fitted_on": a sentence}.
    """
    temperature: Any
    found = {"bins": CALIBRATION_BINS, "before": figures(predictions), "after": None}
    if held_out is not None:
        temperature = fit_temperature(held_out)
        where = f"the {held_out_name} split, {counted(held_out.examples, 'example')}" + _without_errors([temperature])
        temperature = scale = temperature or 1.0
    elif predictions.examples < 2:
        return {**found, "fitted_on": "nothing: one example cannot be split into two folds"}
    else:
        halves = folds(predictions.labels)
        fitted = [fit_temperature(predictions.select(half)) for half in halves]
        where = (f"two folds of the {split} split, each evaluated with the temperature fitted on the other"
                + _without_errors(fitted))
        temperature = [t or 1.0 for t in fitted]
        scale = np.where(halves[0], temperature[1], temperature[0])
    return {**found, "after": {**figures(predictions.scaled(scale)), "temperature": temperature}, "fitted_on": where}


def _without_errors(temperatures: Sequence[float | None]) -> str:
    """Returns a clause about temperatures that cannot be fitted, "" where all are."""
    if None not in temperatures:
        return ""
    which = "it" if len(temperatures) == 1 else "both" if temperatures == [None] * 2 else "one of them"
    return f"; every example of {which} is classified correctly, so no temperature can be fitted: 1 is kept"
