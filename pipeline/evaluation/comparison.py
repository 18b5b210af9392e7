"""Two models on the same examples: where they differ, and whether that is more than chance."""
import math

import numpy as np
from scipy.optimize import brentq
from scipy.stats import binomtest, norm

from pipeline.metrics.intervals import LEVEL

SIGNIFICANCE = 0.05
MOST_DIFFERING = 24


def compare(first, other, names):
    """Compares what two models say of the same examples.

    McNemar's test (Psychometrika 12, 1947), exact: of the examples that one of the two alone gets right, each would be
    the one's or the other's with the same chance. It is about these two models, not about how they were trained:
    another seed gives another model.

    Args:
      first, other: Predictions of the same labels.
      names: class names.

    Returns:
      {"only_this_right", "only_the_first_right", "both_right", "both_wrong": counts, "mcnemar_p": in [0, 1],
      "accuracy_difference": of `other` minus `first`, see `difference`, "differing": [{"index", "true", "first",
      "this", "confidence_first", "confidence_this"}]}: examples with different predictions, those first of which one
      of the two is surest, at most MOST_DIFFERING.
    """
    this, that = other.hit & ~first.hit, first.hit & ~other.hit
    found = {"only_this_right": int(this.sum()), "only_the_first_right": int(that.sum()),
             "both_right": int((first.hit & other.hit).sum()), "both_wrong": int((~first.hit & ~other.hit).sum())}
    return {**found, "mcnemar_p": mcnemar(found["only_this_right"], found["only_the_first_right"]),
            "accuracy_difference": difference(found["only_this_right"], found["only_the_first_right"], first.examples),
            "differing": _differing(first, other, names)}


def mcnemar(one, another):
    """Returns the p-value of two counts of examples that one model alone gets right, by SciPy's binomial test."""
    return float(binomtest(one, one + another).pvalue) if one + another else 1.0


def difference(one, another, count):
    """Returns {"value", "low", "high"}: (one - another) / count with its 95% score interval for paired shares.

    It holds the differences that a score test would not reject (Tango, Statistics in Medicine 17, 1998), so that the
    number of examples that one model alone gets right varies too, and that of no such example is not empty. It excludes
    0 where McNemar's test without the binomial distribution, (one - another)^2 / (one + another), has p below 0.05; the
    exact one asks for a little more.
    """
    value, reach = (one - another) / count, norm.ppf((1 + LEVEL) / 2)

    def score(supposed):
        """How many standard errors the value is above a supposed difference in (-1, 1)."""
        first, second = 2 * count, -one - another + (2 * count - one + another) * supposed
        third = -another * supposed * (1 - supposed)
        share = (math.sqrt(max(0.0, second**2 - 4 * first * third)) - second) / (2 * first)
        variance = count * (2 * share + supposed * (1 - supposed))
        return (one - another - count * supposed) / math.sqrt(max(variance, np.finfo(float).tiny))

    edge = 1 - 1e-12
    low = brentq(lambda supposed: score(supposed) - reach, -edge, value) if value > -1 else -1.0
    high = brentq(lambda supposed: score(supposed) + reach, value, edge) if value < 1 else 1.0
    return {"value": value, "low": low, "high": high}


def holm(p_values):
    """Returns p-values adjusted for being several (Holm, Scandinavian Journal of Statistics 6, 1979), in that order."""
    adjusted, largest = [0.0] * len(p_values), 0.0
    for place, i in enumerate(sorted(range(len(p_values)), key=lambda i: p_values[i])):
        largest = max(largest, min(1.0, (len(p_values) - place) * p_values[i]))
        adjusted[i] = largest
    return adjusted


def verdict(p_value, one, another):
    """Says in words what a p-value means for the model that gets `one` examples right alone."""
    if p_value >= SIGNIFICANCE or one == another:
        return "no difference beyond chance"
    return f"{'better' if one > another else 'worse'} than the first, beyond chance"


def _differing(first, other, names):
    index = np.flatnonzero(first.predicted != other.predicted)
    surest = np.maximum(first.confidence, other.confidence)[index]
    return [{"index": int(i), "true": names[first.labels[i]], "first": names[first.predicted[i]],
             "this": names[other.predicted[i]], "confidence_first": float(first.confidence[i]),
             "confidence_this": float(other.confidence[i])}
            for i in index[np.argsort(-surest, kind="stable")[:MOST_DIFFERING]]]
