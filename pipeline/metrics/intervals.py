"""How far a figure may be off because a test set is a sample: 95% intervals."""
import math

import numpy as np
import scipy.sparse
from scipy.special import expit, logit
from scipy.stats import binomtest, norm

from pipeline.metrics.evaluation import CALIBRATION_BINS

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


def centred_percentiles(samples, value):
    """Returns (low, high) in [0, 1] of resampled values, moved to where their mean is the value itself.

    It is for a figure such as the macro F1 that resamples make too small, since some examples of a small class are
    missing in each.
    """
    low, high = percentiles(samples - samples.mean() + value, value)
    return max(0.0, low), min(1.0, high)


def reversed_percentiles(samples, value, least=0.0):
    """Returns (low, high) of the basic bootstrap (Davison and Hinkley, 1997, 5.2), from `least` on.

    It is for a figure such as the calibration error that a sample makes too large: resamples of the sample make it too
    large once more, so their percentiles may lie above the figure and the truth.
    """
    low, high = np.quantile(samples, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return max(least, min(2 * value - float(high), value)), max(2 * value - float(low), value)


def calibrated_errors(confidence, which, resamples=RESAMPLES):
    """Draws the calibration errors of models that are as sure as they are right.

    Args:
      confidence: float64 [N] in [0, 1].
      which: int [N], the bin of each.
      resamples: how often.

    Returns:
      float64 [resamples]; in a bin every example is a hit with its mean confidence.
    """
    count = np.bincount(which, minlength=CALIBRATION_BINS)
    expected = np.bincount(which, confidence, CALIBRATION_BINS)
    share = np.clip(np.divide(expected, count, out=np.zeros_like(expected), where=count > 0), 0, 1)
    hits = np.random.RandomState(_KEY).binomial(count, share, (resamples, CALIBRATION_BINS))
    return np.abs(hits - expected).sum(axis=1) / len(confidence)


def bootstrap(predictions):
    """Bootstraps loss, macro F1 and calibration error, all from the same resamples.

    Args:
      predictions: Predictions.

    Returns:
      {"loss", "macro_f1", "calibration_error": (low, high)}. The F1 is the mean over the classes that have examples, in
      each resample over those it has; (None, None) where every example is a hit or none is (so is every resample, which
      says nothing of examples that are not there), and where most classes have one example alone. The interval of the
      calibration error is approximate: the error is a sum of distances, which has no good bootstrap near zero. It
      begins at 0 where models that are as sure as they are right may have such an error, one in twenty a larger one.
    """
    count, places = predictions.examples, np.arange(predictions.examples)

    def one_hot(columns, width, values):
        return scipy.sparse.csr_array((values, (places, columns)), shape=(count, width))

    ones, hit, width = np.ones(count), predictions.hit, predictions.num_classes
    bins = np.clip(np.ceil(predictions.confidence * CALIBRATION_BINS).astype(np.int64) - 1, 0, CALIBRATION_BINS - 1)
    features = scipy.sparse.hstack([
        one_hot(np.zeros(count, np.int64), 1, predictions.losses),
        one_hot(bins, CALIBRATION_BINS, predictions.confidence - hit),
        one_hot(predictions.labels, width, ones), one_hot(predictions.labels, width, hit.astype(np.float64)),
        # Twice the hits over labels and predictions together is the F1 of a class.
        one_hot(predictions.labels, width, ones) + one_hot(predictions.predicted, width, ones)])

    def figures(sums):
        loss, distance, support, hits, named = np.split(sums, np.cumsum([1, CALIBRATION_BINS, width, width]), axis=1)
        f1 = np.divide(2 * hits, named, out=np.zeros_like(hits), where=support > 0).sum(axis=1)
        return loss[:, 0] / count, f1 / (support > 0).sum(axis=1), np.abs(distance).sum(axis=1) / count

    loss, f1, error = figures(resampled_sums(features))
    own_loss, own_f1, own_error = (float(v[0]) for v in figures(np.asarray(features.sum(axis=0))[None]))
    support = np.bincount(predictions.labels)
    said = 0 < hit.sum() < count and np.median(support[support > 0]) > 1
    low, high = reversed_percentiles(error, own_error)
    if own_error <= np.quantile(calibrated_errors(predictions.confidence, bins), LEVEL):
        low = 0.0
    return {"loss": percentiles(loss, own_loss), "macro_f1": centred_percentiles(f1, own_f1) if said else (None, None),
            "calibration_error": (low, high)}


def delong(area, influence):
    """Interval of an area under the ROC curve, or of a mean of such areas.

    The variance is that of DeLong et al. (Biometrics 44, 1988), the interval symmetric in log(area / (1 - area)), so
    that it does not leave [0, 1].

    Args:
      area: in [0, 1].
      influence: float64 [N], by how much each example moves the area, times N, as ClassCurves has it; sums to 0.

    Returns:
      (low, high), or (None, None) where the area is 0 or 1 and its variance says nothing, or where a class has one
      example alone, whose variance nobody knows.
    """
    if not 0 < area < 1 or not np.isfinite(influence).all():
        return None, None
    error = math.sqrt(np.square(influence).sum()) / len(influence)
    reach = norm.ppf((1 + LEVEL) / 2) * error / (area * (1 - area))
    return float(expit(logit(area) - reach)), float(expit(logit(area) + reach))
