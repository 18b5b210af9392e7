"""Learning rates that the curve of a range test suggests. NumPy only.

The test is Smith's (arXiv:1506.01186): the learning rate rises exponentially, and the loss of each step is recorded.
"""
import dataclasses
import math
from collections.abc import Sequence

import numpy as np

WIDTH = 0.04  # Standard deviation of the smoothing, as a share of the steps.
DIVERGED = 4.0  # The test ends where the smoothed loss is this many times its lowest.
CUT = 1.5  # Losses count up to this many times the first ones: one that explodes would hide the fall before it.
CLEAR = 4.0  # A fall counts from this many standard deviations of its noise on,
LEAST = 1e-3  # and from this share of the loss on.
EDGE = 0.1  # Share of the fall at its beginning and at its end that the valley leaves out.
FEWEST = 8  # Steps of a curve that has a slope.
MEANINGS = {"valley": "the middle of the fall, on the logarithmic scale: safe, also without warm-up",
            "steepest": "where the loss falls fastest: the usual peak rate of a schedule with warm-up",
            "lowest": "where the smoothed loss is lowest: a peak rate far beyond it diverges"}


@dataclasses.dataclass(frozen=True)
class RangeCurve:
    """Losses of a range test, up to its end or to where it diverged.

    Attributes:
      rates: learning rate of each step, ascending: float64 [steps].
      losses: loss of each step on its own batch before its update, finite: float64 [steps].
      planned: number of steps of the whole range.
      lowest: learning rate at which it begins.
      diverged: "" if the range was tested to its end, else why not.
    """

    rates: np.ndarray
    losses: np.ndarray
    planned: int
    lowest: float
    diverged: str = ""

    @property
    def first(self) -> float:
        """The median of the losses of the first tenth of the range."""
        return float(np.median(self.losses[:max(1, self.planned // 10)]))

    @property
    def smoothed(self) -> np.ndarray:
        """The means of neighbouring losses, with the weights of a normal distribution around each: float64 [steps].

        They do not lag behind the losses, as a running mean would by many steps and so by a factor of the rate.
        """
        reach = math.ceil(4 * width(self.planned))
        weights = np.exp(-0.5 * (np.arange(-reach, reach + 1) / width(self.planned)) ** 2)
        cut = np.minimum(self.losses, self.first + (CUT - 1) * abs(self.first))
        padded = [np.pad(values, reach) for values in (cut, np.ones(len(cut)))]
        total, weight = (np.convolve(values, weights, "valid") for values in padded)
        return total / weight


def width(planned: int) -> float:
    """Returns the standard deviation of the smoothing in steps, for a range of so many steps."""
    return max(1.0, WIDTH * planned)


def last_mean(losses: Sequence[float], planned: int) -> float:
    """Returns the mean of the last losses, with falling weights: what is known of the smoothed loss in the test."""
    last = np.asarray(losses[-math.ceil(4 * width(planned)):], np.float64)
    return float(np.average(last, weights=np.exp(-0.5 * (np.arange(len(last))[::-1] / width(planned)) ** 2)))


def suggest(curve: RangeCurve) -> dict[str, int]:
    """Returns {name of MEANINGS: index of the step with that rate}; {} where the loss does not fall."""
    if falls_not(curve):
        return {}
    smoothed = curve.smoothed
    lowest = int(smoothed.argmin())
    share = (curve.first - smoothed[:lowest + 1]) / (curve.first - smoothed[lowest])
    start = int(np.flatnonzero(share < EDGE).max(initial=0))  # The last step before the fall.
    end = start + int((share[start:] > 1 - EDGE).argmax())
    return {"valley": (start + end) // 2, "steepest": int(np.gradient(smoothed)[:lowest + 1].argmin()),
            "lowest": lowest}


def falls_not(curve: RangeCurve) -> str:
    """Returns why no rate can be suggested and what would work, as the end of a sentence; "" where one can."""
    losses, lower = curve.losses, f"--lowest={curve.lowest / 1000:.0e}"
    if len(losses) < FEWEST:
        return (f"the loss is {curve.diverged} after {len(losses)} of {curve.planned} steps: begin lower, with {lower}"
                "; if that does not help, look at the data and the model")
    smoothed, first = curve.smoothed, curve.first
    # The standard deviation of a loss by the median deviation, then that of the difference of two of their means.
    noise = 1.4826 * float(np.median(np.abs(losses - smoothed)))
    noise *= math.sqrt(1 / (2 * math.sqrt(math.pi) * width(curve.planned)) + math.pi / 2 / max(1, curve.planned // 10))
    if first - smoothed.min() > max(CLEAR * noise, LEAST * abs(first)):
        return ""
    average = "or average more, with a larger --batch_size or more --find_steps"
    if curve.diverged:
        return (f"the loss begins at {first:.3g}, never falls and is {curve.diverged} at a rate of "
                f"{curve.rates[-1]:.2g}: begin lower, with {lower}, {average}")
    return (f"the loss begins at {first:.3g} and never falls clearly up to a rate of {curve.rates[-1]:.2g}: end "
            f"higher, with --highest={10 * curve.rates[-1]:.0e}, {average}")


def rounded(rate: float) -> float:
    """Returns a rate with two significant digits."""
    return float(f"{rate:.1e}")
