"""Compares two models on the same examples: where they differ, and whether that is more than chance."""
import math
from collections.abc import Sequence

import numpy as np
from scipy.optimize import brentq
from scipy.stats import binomtest, norm

from pipeline.evaluation.probabilities import Predictions
from pipeline.metrics.intervals import LEVEL

SIGNIFICANCE = 0.05
MOST_DIFFERING = 24


def compare(first: Predictions, other: Predictions, names: Sequence[str]) -> dict:
    """Compares the predictions of two models.

    McNemar's test (Psychometrika 12, 1947), exact: an example that only one of the two classifies correctly is
    equally likely to be either's. The test is about these two models, not about how they were trained: another seed
    gives another model.

    Args:
      first, other: Predictions of the same labels.
      names: class names.

    Returns:
      {"only_this_right", "only_the_first_right", "both_right", "both_wrong": counts, "mcnemar_p": in [0, 1],
      "accuracy_difference": of `other` minus `first`, see `difference`, "differing": [{"index", "true", "first",
      "this", "confidence_first", "confidence_this"}]}: examples with different predictions, by falling confidence
      of the surer of the two, at most MOST_DIFFERING.
    """
    this, that = other.correct & ~first.correct, first.correct & ~other.correct
    found = {"only_this_right": int(this.sum()), "only_the_first_right": int(that.sum()),
             "both_right": int((first.correct & other.correct).sum()),
             "both_wrong": int((~first.correct & ~other.correct).sum())}
    return {**found, "mcnemar_p": mcnemar(found["only_this_right"], found["only_the_first_right"]),
            "accuracy_difference": difference(found["only_this_right"], found["only_the_first_right"], first.examples),
            "differing": _differing(first, other, names)}


def mcnemar(one: int, another: int) -> float:
    """Returns the p-value of two counts of examples that only one model classifies correctly."""
    return float(binomtest(one, one + another).pvalue) if one + another else 1.0


def difference(one: int, another: int, count: int) -> dict[str, float]:
    """Returns {"value", "low", "high"}: (one - another) / count with its 95% score interval for paired shares.

    It holds the differences that a score test would not reject (Tango, Statistics in Medicine 17, 1998), so that it
    is not empty where no example is classified correctly by one model alone. It excludes
    0 where McNemar's test without the binomial distribution, (one - another)^2 / (one + another), has p below 0.05; the
    exact one asks for a little more.
    """
    value, reach = (one - another) / count, norm.ppf((1 + LEVEL) / 2)

    def score(supposed: float) -> float:
        """Returns by how many standard errors the value is above a supposed difference in (-1, 1)."""
        first, second = 2 * count, -one - another + (2 * count - one + another) * supposed
        third = -another * supposed * (1 - supposed)
        share = (math.sqrt(max(0.0, second**2 - 4 * first * third)) - second) / (2 * first)
        variance = count * (2 * share + supposed * (1 - supposed))
        return (one - another - count * supposed) / math.sqrt(max(variance, np.finfo(float).tiny))

    edge = 1 - 1e-12
    low = brentq(lambda supposed: score(supposed) - reach, -edge, value) if value > -1 else -1.0
    high = brentq(lambda supposed: score(supposed) + reach, value, edge) if value < 1 else 1.0
    return {"value": value, "low": low, "high": high}


def holm(p_values: Sequence[float]) -> list[float]:
    """Returns p-values adjusted for multiple tests, in order (Holm, Scandinavian Journal of Statistics 6, 1979)."""
    adjusted, largest = [0.0] * len(p_values), 0.0
    for place, i in enumerate(sorted(range(len(p_values)), key=lambda i: p_values[i])):
        largest = max(largest, min(1.0, (len(p_values) - place) * p_values[i]))
        adjusted[i] = largest
    return adjusted


def verdict(p_value: float, one: int, another: int) -> str:
    """Returns in words what a p-value means for the model that alone classifies `one` examples correctly."""
    if p_value >= SIGNIFICANCE or one == another:
        return "no difference beyond chance"
    return f"{'better' if one > another else 'worse'} than the first, beyond chance"


def _differing(first: Predictions, other: Predictions, names: Sequence[str]) -> list[dict]:
    index = np.flatnonzero(first.predicted != other.predicted)
    surest = np.maximum(first.confidence, other.confidence)[index]
    return [{"index": int(i), "true": names[first.labels[i]], "first": names[first.predicted[i]],
             "this": names[other.predicted[i]], "confidence_first": float(first.confidence[i]),
             "confidence_this": float(other.confidence[i])}
            for i in index[np.argsort(-surest, kind="stable")[:MOST_DIFFERING]]]
