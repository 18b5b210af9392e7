"""How far a figure may be off because a test set is a sample: 95% intervals."""
import math

import numpy as np
import scipy.sparse
from scipy.special import expit, logit
from scipy.stats import binomtest, norm

from pipeline.evaluation.metrics import CALIBRATION_BINS

LEVEL = 0.95
RESAMPLES = 1000
_KEY = 20_240_517  # Fixed: the same predictions have the same intervals.
_AT_ONCE = 4_000_000  # Numbers of a block of resamples.


def wilson(successes, count):
    """Returns (low, high), the score interval of a share (Wilson, JASA 22, 1927), by SciPy."""
    interval = binomtest(int(successes), int(count)).proportion_ci(LEVEL, method="wilson")
    return float(interval.low), float(interval.high)


def resampled_sums(features, resamples=RESAMPLES):
    """Draws the examples with replacement, again and again, and adds up their features (Efron's bootstrap).

    Args:
      features: scipy.sparse array [N, F].
      resamples: how often.

    Returns:
      float64 [resamples, F], a function of the arguments alone.
    """
    count, transposed = features.shape[0], features.T.tocsr()
    # The one generator whose streams NumPy promises never to change.
    generator, block, found = np.random.RandomState(_KEY), max(1, _AT_ONCE // count), []
    for first in range(0, resamples, block):
        drawn = [np.bincount(generator.randint(count, size=count, dtype=np.int32), minlength=count)
                 for _ in range(min(block, resamples - first))]
        found.append((transposed @ np.array(drawn, np.float64).T).T)
    return np.concatenate(found)


def percentiles(samples, value):
    """Returns (low, high) of resampled values, reaching at least to the value itself."""
    low, high = np.quantile(samples, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return min(float(low), value), max(float(high), value)


def reversed_percentiles(samples, value, least=0.0):
    """Returns (low, high) of the basic bootstrap (Davison and Hinkley, 1997, 5.2), from `least` on.

    It is for a figure such as the calibration error that a sample makes too large: resamples of the sample make it too
    large once more, so their percentiles may lie above the figure and the truth.
    """
    low, high = np.quantile(samples, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return max(least, min(2 * value - float(high), value)), max(2 * value - float(low), value)


def bootstrap(predictions, classes):
    """Bootstraps loss, macro F1 and calibration error, all from the same resamples.

    Args:
      predictions: Predictions.
      classes: int [k], the classes that the macro average goes over.

    Returns:
      {"loss", "macro_f1", "calibration_error": (low, high)}.
    """
    count, places = predictions.examples, np.arange(predictions.examples)

    def one_hot(columns, width, values):
        return scipy.sparse.csr_array((values, (places, columns)), shape=(count, width))

    ones, hit, width = np.ones(count), predictions.hit, predictions.num_classes
    bins = np.clip(np.ceil(predictions.confidence * CALIBRATION_BINS).astype(np.int64) - 1, 0, CALIBRATION_BINS - 1)
    features = scipy.sparse.hstack([
        one_hot(np.zeros(count, np.int64), 1, predictions.losses),
        one_hot(bins, CALIBRATION_BINS, predictions.confidence - hit),
        one_hot(predictions.labels, width, hit.astype(np.float64)),
        # Twice the hits over labels and predictions together is the F1 of a class.
        one_hot(predictions.labels, width, ones) + one_hot(predictions.predicted, width, ones)])

    def figures(sums):
        loss, distance, hits, named = np.split(sums, np.cumsum([1, CALIBRATION_BINS, width]), axis=1)
        f1 = np.divide(2 * hits, named, out=np.zeros_like(hits), where=named > 0)[:, classes].mean(axis=1)
        return loss[:, 0] / count, f1, np.abs(distance).sum(axis=1) / count

    loss, f1, error = figures(resampled_sums(features))
    own_loss, own_f1, own_error = (float(v[0]) for v in figures(np.asarray(features.sum(axis=0))[None]))
    return {"loss": percentiles(loss, own_loss), "macro_f1": percentiles(f1, own_f1),
            "calibration_error": reversed_percentiles(error, own_error)}


def delong(area, influence):
    """Interval of an area under the ROC curve, or of a mean of such areas.

    The variance is that of DeLong et al. (Biometrics 44, 1988), the interval symmetric in log(area / (1 - area)), so
    that it does not leave [0, 1].

    Args:
      area: in [0, 1].
      influence: float64 [N], by how much each example moves the area, times N; sums to 0.

    Returns:
      (low, high), or (None, None) where the area is 0 or 1 and its variance says nothing.
    """
    if not 0 < area < 1:
        return None, None
    error = math.sqrt(np.square(influence).sum()) / len(influence)
    reach = norm.ppf((1 + LEVEL) / 2) * error / (area * (1 - area))
    return float(expit(logit(area) - reach)), float(expit(logit(area) + reach))
