"""Ratios of interleaved measurements, with the interval that says whether a target is met."""
import numpy as np

PAIRS = 15  # Fewer do not resolve a few percent on a shared machine.
RESAMPLES = 10_000


def median_ratio(first, second):
    """Compares two measurements that were taken in turns.

    Args:
      first, second: [pairs] values > 0, entry i of both measured right after each other.

    Returns:
      {"median": median of first / second, "low", "high": its 95% bootstrap interval, "pairs": int}.
    """
    ratios = np.asarray(first, float) / np.asarray(second, float)
    draws = np.random.default_rng(0).integers(len(ratios), size=(RESAMPLES, len(ratios)))
    low, high = np.percentile(np.median(ratios[draws], axis=1), [2.5, 97.5])
    return {"median": float(np.median(ratios)), "low": float(low), "high": float(high), "pairs": len(ratios)}


def verdict(ratio, bound, at_least):
    """Returns "met", "missed" or "not resolved" for a bound on a `median_ratio`.

    Args:
      ratio: what median_ratio returned.
      bound: the target.
      at_least: whether the ratio may not be below it; else not above.
    """
    if ratio["pairs"] < PAIRS:
        return "not resolved"
    low, high = ratio["low"], ratio["high"]
    if low >= bound if at_least else high <= bound:
        return "met"
    return "missed" if (high < bound if at_least else low > bound) else "not resolved"
