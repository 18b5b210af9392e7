"""95% confidence intervals of metrics over a test set, which is a sample."""
import math
from typing import Any

import numpy as np
import scipy.sparse
from scipy.special import expit, logit
from scipy.stats import binomtest, norm

from pipeline.metrics.evaluation import CALIBRATION_BINS

LEVEL = 0.95
RESAMPLES = 1000
_SEED = 20_240_517  # Fixed: the same predictions have the same intervals.
_BLOCK = 4_000_000  # Elements of a block of resamples.


def wilson(successes: int, count: int) -> tuple[float, float]:
    """Returns (low, high), the score interval of a proportion (Wilson, JASA 22, 1927), by SciPy."""
    interval = binomtest(int(successes), int(count)).proportion_ci(LEVEL, method="wilson")
    return float(interval.low), float(interval.high)


def resampled_sums(features: scipy.sparse.sparray, resamples: int = RESAMPLES) -> np.ndarray:
    """Sums the features of examples drawn with replacement (Efron's bootstrap).

    Args:
      features: [N, F].
      resamples: number of draws of N examples.

    Returns:
      float64 [resamples, F], a function of the arguments alone.
    """
    count, transposed = features.shape[0], features.T.tocsr()
    # The one generator whose streams NumPy promises never to change.
    generator, block, found = np.random.RandomState(_SEED), max(1, _BLOCK // count), []
    for first in range(0, resamples, block):
        drawn = [np.bincount(generator.randint(count, size=count, dtype=np.int32), minlength=count)
                 for _ in range(min(block, resamples - first))]
        found.append((transposed @ np.array(drawn, np.float64).T).T)
    return np.concatenate(found)


def percentiles(samples: np.ndarray, value: float) -> tuple[float, float]:
    """Returns (low, high), the percentile interval of resampled values, widened to contain the value."""
    low, high = np.quantile(samples, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return min(float(low), value), max(float(high), value)


def centred_percentiles(samples: np.ndarray, value: float) -> tuple[float, float]:
    """Returns (low, high) in [0, 1] of resampled values, shifted so that their mean is the value.

    For a metric such as the macro F1 that resampling biases downwards: each resample misses some examples of a small
    class.
    """
    low, high = percentiles(samples - samples.mean() + value, value)
    return max(0.0, low), min(1.0, high)


def reversed_percentiles(samples: np.ndarray, value: float, least: float = 0.0) -> tuple[float, float]:
    """Returns (low, high) of the basic bootstrap (Davison and Hinkley, 1997, 5.2), with `least` as a lower bound.

    For a metric such as the calibration error that a sample biases upwards: resamples of the sample bias it once more,
    so their percentiles may lie above both the metric and the truth.
    """
    low, high = np.quantile(samples, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return max(least, min(2 * value - float(high), value)), max(2 * value - float(low), value)


def calibrated_errors(confidence: np.ndarray, which: np.ndarray, resamples: int = RESAMPLES) -> np.ndarray:
    """Draws the calibration errors of perfectly calibrated models.

    Args:
      confidence: float64 [N] in [0, 1].
      which: int [N], the bin of each.
      resamples: number of draws.

    Returns:
      float64 [resamples]; every example of a bin is correct with the mean confidence of the bin as probability.
    """
    count = np.bincount(which, minlength=CALIBRATION_BINS)
    expected = np.bincount(which, confidence, CALIBRATION_BINS)
    share = np.clip(np.divide(expected, count, out=np.zeros_like(expected), where=count > 0), 0, 1)
    correct = np.random.RandomState(_SEED).binomial(count, share, (resamples, CALIBRATION_BINS))
    return np.abs(correct - expected).sum(axis=1) / len(confidence)


def bootstrap(predictions: Any, losses: np.ndarray | None = None
              ) -> dict[str, tuple[float | None, float | None]]:
    """Bootstraps loss, macro F1 and calibration error, all from the same resamples.

    Args:
      predictions: pipeline.evaluation.probabilities.Predictions.
      losses: float [N], of the same examples, whose mean is the loss; None: cross-entropy.

    Returns:
      {"loss", "macro_f1", "calibration_error": (low, high)}. The F1 is the mean over classes that have examples, in
      each resample over the classes it has. Its interval is (None, None) if all or no predictions are correct (then so
      they are in every resample), or if most classes have a single example. The interval of the calibration error is
      approximate: the error is a sum of absolute values, which has no good bootstrap near zero. It starts at 0 if the
      error is within the 95% of smallest errors of perfectly calibrated models.
    """
    count, places = predictions.examples, np.arange(predictions.examples)

    def one_hot(columns, width, values):
        return scipy.sparse.csr_array((values, (places, columns)), shape=(count, width))

    ones, correct, width = np.ones(count), predictions.correct, predictions.num_classes
    bins = np.clip(np.ceil(predictions.confidence * CALIBRATION_BINS).astype(np.int64) - 1, 0, CALIBRATION_BINS - 1)
    features = scipy.sparse.hstack([
        one_hot(np.zeros(count, np.int64), 1, predictions.losses if losses is None else losses.astype(np.float64)),
        one_hot(bins, CALIBRATION_BINS, predictions.confidence - correct),
        one_hot(predictions.labels, width, ones), one_hot(predictions.labels, width, correct.astype(np.float64)),
        # F1 of a class: twice its correct predictions over its labels plus its predictions.
        one_hot(predictions.labels, width, ones) + one_hot(predictions.predicted, width, ones)])

    def figures(sums):
        loss, distance, support, right, named = np.split(sums, np.cumsum([1, CALIBRATION_BINS, width, width]), axis=1)
        f1 = np.divide(2 * right, named, out=np.zeros_like(right), where=support > 0).sum(axis=1)
        return loss[:, 0] / count, f1 / (support > 0).sum(axis=1), np.abs(distance).sum(axis=1) / count

    loss, f1, error = figures(resampled_sums(features))
    own_loss, own_f1, own_error = (float(v[0]) for v in figures(np.asarray(features.sum(axis=0))[None]))
    support = np.bincount(predictions.labels)
    known = 0 < correct.sum() < count and np.median(support[support > 0]) > 1
    low, high = reversed_percentiles(error, own_error)
    if own_error <= np.quantile(calibrated_errors(predictions.confidence, bins), LEVEL):
        low = 0.0
    return {"loss": percentiles(loss, own_loss), "macro_f1": centred_percentiles(f1, own_f1) if known else (None, None),
            "calibration_error": (low, high)}


def delong(area: float, influence: np.ndarray) -> tuple[float | None, float | None]:
    """Returns (low, high), the interval of an area under the ROC curve or of a mean of such areas.

    The variance is that of DeLong et al. (Biometrics 44, 1988). The interval is symmetric in log(area / (1 - area)), so
    that it stays in [0, 1].

    Args:
      area: in [0, 1].
      influence: float64 [N], N times the influence of each example on the area, as in ClassCurves; sums to 0.

    Returns:
      (low, high), or (None, None) if the variance is unknown: the area is 0 or 1, or a class has a single example.
    """
    if not 0 < area < 1 or not np.isfinite(influence).all():
        return None, None
    error = math.sqrt(np.square(influence).sum()) / len(influence)
    reach = norm.ppf((1 + LEVEL) / 2) * error / (area * (1 - area))
    return float(expit(logit(area) - reach)), float(expit(logit(area) + reach))
