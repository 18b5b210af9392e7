"""Whether an exported form says what the live model says, on the examples of a split.

Two runtimes add up in other orders, so that float32 rounds otherwise. Where a model's logits are large, that alone
moves a probability by more than 1e-5: TensorFlow's own kernels for one image and for several then differ as much, in
one process and with the same weights. A form may differ by ROUNDINGS times that, where it is more than its bound.
"""
import dataclasses

import numpy as np

from pipeline.files import plain
from pipeline.quantities import counted

ROUNDINGS = 3.0
MOST_ROUNDING = 1e-3  # No rounding excuses more.


@dataclasses.dataclass(frozen=True)
class Proof:
    """How far a form is from the live model.

    Attributes:
      examples: how many were compared.
      difference: largest absolute difference of a probability; infinity where one of the form's is not a number.
      example: number of the example that it is of.
      equal: share of examples whose predicted class is the same.
      accuracy, live_accuracy: shares of examples whose predicted class is the label.
      rounding: largest difference between the live model's probabilities of an image alone and among others.
      allowed: how large `difference` may be; None: not bounded.
      violations: what is beyond the bounds of the form, a sentence each with what was found and what was allowed.
    """

    examples: int
    difference: float
    example: int
    equal: float
    accuracy: float
    live_accuracy: float
    rounding: float = 0.0
    allowed: float | None = None
    violations: tuple = ()

    @property
    def holds(self):
        """Whether the form may be published."""
        return not self.violations

    def record(self, bounds):
        """Returns a dict of JSON types with everything, and with the Bounds it was held to."""
        return plain({**dataclasses.asdict(self), "bounds": dataclasses.asdict(bounds), "holds": self.holds})


def allowed(bounds, rounding):
    """Returns how much a probability may differ under Bounds, for a model of some rounding; None: not bounded."""
    if bounds.probability is None:
        return None
    return max(bounds.probability, min(ROUNDINGS * rounding, MOST_ROUNDING))


def prove(bounds, live, found, labels, rounding=0.0):
    """Compares the probabilities of a form with those of the live model.

    Args:
      bounds: Bounds of the form.
      live: float [N, classes] in [0, 1], of the live model, all finite.
      found: the same of the form.
      labels: int [N], in 0..classes-1.
      rounding: largest difference between the live model's probabilities of an image alone and among others.

    Returns:
      A Proof; one whose shape is another violates the bounds whatever they are.
    """
    live, labels = np.asarray(live, np.float64), np.asarray(labels)
    live_hits, rounded = live.argmax(axis=1) == labels, (float(rounding), allowed(bounds, rounding))
    if np.shape(found) != live.shape:
        said = f"probabilities of shape {np.shape(found)} where the live model gives {live.shape}"
        return Proof(len(live), np.inf, 0, 0.0, 0.0, float(live_hits.mean()), *rounded, (said,))
    found = np.asarray(found, np.float64)
    finite = np.isfinite(found).all(axis=1)
    distance = np.where(finite, np.abs(found - live).max(axis=1), np.inf)
    predicted = np.where(finite, found.argmax(axis=1), -1)
    proof = Proof(len(live), float(distance.max()), int(distance.argmax()),
                  float((predicted == live.argmax(axis=1)).mean()), float((predicted == labels).mean()),
                  float(live_hits.mean()), *rounded)
    lost = int(live_hits.sum()) - int((predicted == labels).sum())
    return dataclasses.replace(proof, violations=tuple(_violations(proof, bounds, lost / len(live), finite)))


def _violations(proof, bounds, lost, finite):
    """Yields what is beyond the bounds; `lost` is the share of hits lost, `finite` bool [N]."""
    if not finite.all():
        yield f"{(~finite).sum():,} of {counted(proof.examples, 'example')} have probabilities that are not finite"
    elif proof.allowed is not None and proof.difference > proof.allowed:
        yield (f"the largest difference of a probability is {proof.difference:.2g} (example {proof.example}), allowed "
               f"{proof.allowed:.2g}")
    if bounds.equal is not None and proof.equal < bounds.equal:
        yield f"{proof.equal:.2%} of the predictions are equal, at least {bounds.equal:.2%} must be"
    if bounds.accuracy_lost is not None and lost > bounds.accuracy_lost:
        yield (f"its accuracy is {proof.accuracy:.2%} where the live model has {proof.live_accuracy:.2%}, allowed "
               f"{100 * bounds.accuracy_lost:g} points less")
