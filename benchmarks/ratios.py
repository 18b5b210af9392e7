"""Ratios of interleaved measurements, with their intervals and verdicts."""
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import scipy.stats

PAIRS = 15  # Fewer do not resolve a few percent on a shared machine.
RESAMPLES = 10_000


def median_ratio(first: Sequence[float], second: Sequence[float]) -> dict[str, Any]:
    """Compares two interleaved measurements.

    Args:
      first, second: [pairs] values > 0, entry i of both measured right after each other.

    Returns:
      {"median": median of first / second, "low", "high": its 95% bootstrap interval, "pairs": int}.
    """
    ratios = np.asarray(first, float) / np.asarray(second, float)
    low, high = scipy.stats.bootstrap(
        (ratios,), np.median, n_resamples=RESAMPLES, method="percentile", rng=np.random.default_rng(0),
    ).confidence_interval if len(ratios) > 1 else (ratios[0], ratios[0])
    return {"median": float(np.median(ratios)), "low": float(low), "high": float(high), "pairs": len(ratios)}


def verdict(ratio: Mapping[str, Any], bound: float, at_least: bool) -> str:
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
