"""Verifies an exported model against the trained model on the examples of a split.

Two runtimes sum in different orders, so float32 rounds differently. Where a model is deep or its logits are large, that
alone moves a probability by more than 1e-5, see rounding.py. An export may differ by ROUNDINGS times that, where it is
more than its bound.
"""
import dataclasses
from collections.abc import Iterator

import numpy as np

from pipeline.export.export_format import Tolerance
from pipeline.files import plain
from pipeline.quantities import counted

ROUNDINGS = 3.0
MOST_ROUNDING = 1e-3  # No rounding excuses more.


@dataclasses.dataclass(frozen=True)
class Proof:
    """How far an exported model is from the trained model ("live").

    Attributes:
      examples: how many were compared.
      difference: largest absolute difference of a probability; infinity where one of the export's is not finite.
      example: number of that example.
      equal: share of examples whose predicted class is the same.
      accuracy, live_accuracy: shares of examples whose predicted class is the label.
      rounding: largest change of a probability of the trained model by rounding alone, see rounding.py.
      allowed: how large `difference` may be; None: not bounded.
      violations: a sentence for each limit that is exceeded, with what was found and what is allowed.
    """

    examples: int
    difference: float
    example: int
    equal: float
    accuracy: float
    live_accuracy: float
    rounding: float = 0.0
    allowed: float | None = None
    violations: tuple[str, ...] = ()

    @property
    def holds(self) -> bool:
        """Whether the export may be published."""
        return not self.violations

    def record(self, tolerance: Tolerance) -> dict:
        """Returns a dict of JSON types of all attributes and of the Tolerance."""
        return plain({**dataclasses.asdict(self), "bounds": dataclasses.asdict(tolerance), "holds": self.holds})


def allowed(tolerance: Tolerance, rounding: float) -> float | None:
    """Returns the largest difference of a probability that Tolerance and rounding allow; None: not bounded."""
    if tolerance.probability is None:
        return None
    return max(tolerance.probability, min(ROUNDINGS * rounding, MOST_ROUNDING))


def prove(tolerance: Tolerance, live: np.ndarray, found: np.ndarray, labels: np.ndarray, rounding: float = 0.0
          ) -> Proof:
    """Compares the probabilities of an exported model with those of the trained model.

    Args:
      tolerance: Tolerance of the format.
      live: float [N, classes] in [0, 1], of the trained model, all finite.
      found: the same of the exported model; another shape violates any tolerance.
      labels: int [N], in 0..classes-1.
      rounding: see Proof.
    """
    live, labels = np.asarray(live, np.float64), np.asarray(labels)
    live_correct, rounded = live.argmax(axis=1) == labels, (float(rounding), allowed(tolerance, rounding))
    if np.shape(found) != live.shape:
        problem = f"probabilities of shape {np.shape(found)} where the trained model gives {live.shape}"
        return Proof(len(live), np.inf, 0, 0.0, 0.0, float(live_correct.mean()), *rounded, (problem,))
    found = np.asarray(found, np.float64)
    finite = np.isfinite(found).all(axis=1)
    distance = np.where(finite, np.abs(found - live).max(axis=1), np.inf)
    predicted = np.where(finite, found.argmax(axis=1), -1)
    proof = Proof(len(live), float(distance.max()), int(distance.argmax()),
                  float((predicted == live.argmax(axis=1)).mean()), float((predicted == labels).mean()),
                  float(live_correct.mean()), *rounded)
    lost = int(live_correct.sum()) - int((predicted == labels).sum())
    return dataclasses.replace(proof, violations=tuple(_violations(proof, tolerance, lost / len(live), finite)))


def _violations(proof: Proof, tolerance: Tolerance, lost: float, finite: np.ndarray) -> Iterator[str]:
    """Yields a sentence for each limit that is exceeded; `lost`: of the accuracy, `finite`: bool [N]."""
    if not finite.all():
        yield f"{(~finite).sum():,} of {counted(proof.examples, 'example')} have probabilities that are not finite"
    elif proof.allowed is not None and proof.difference > proof.allowed:
        yield (f"the largest difference of a probability is {proof.difference:.2g} (example {proof.example}), allowed "
               f"{proof.allowed:.2g}")
    if tolerance.equal is not None and proof.equal < tolerance.equal:
        yield f"{proof.equal:.2%} of the predictions are equal, at least {tolerance.equal:.2%} must be"
    if tolerance.accuracy_lost is not None and lost > tolerance.accuracy_lost:
        yield (f"its accuracy is {proof.accuracy:.2%} where the trained model has {proof.live_accuracy:.2%}, allowed "
               f"{100 * tolerance.accuracy_lost:g} points less")
