"""Compares the results of one replica with those of several: their differences, and the allowed ones."""
import dataclasses
import math
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from pipeline.verification.report import Comparison, shown

SMALLEST_NORM = 1e-3  # Below it a difference is absolute: relative to almost zero everything is large.
FLOAT64_BOUND, GRADIENT_BOUND = 1e-8, 1e-4
# The control has one rounding error in each weight; sums in another order have one in every operation of every step.
MARGIN = 100.0
RESOLVED = 1e-6  # Growth of which MARGIN times as much is still less than any fault that was tried, 1e-3 and more.
KINKED_GRADIENT_BOUND = 5e-2  # Measured: built-in models up to 1.3e-2 in float32, a lost replica 0.5.


def relative_difference(first: np.ndarray, second: np.ndarray) -> float:
    """Returns norm(first - second) / max(norm(first), 1e-3), infinite where that is not finite.

    Args:
      first, second: float arrays of one shape; equal non-finite values count as equal.
    """
    if np.shape(first) != np.shape(second):
        return math.inf
    first, second = np.asarray(first, np.float64), np.asarray(second, np.float64)
    if np.array_equal(first, second, equal_nan=True):
        return 0.0
    with np.errstate(invalid="ignore", over="ignore"):
        value = float(np.linalg.norm(first - second)) / max(float(np.linalg.norm(first)), SMALLEST_NORM)
    return value if math.isfinite(value) else math.inf


def largest(names: Iterable[str], first: Iterable[np.ndarray], second: Iterable[np.ndarray]) -> tuple[float, str]:
    """Returns (largest relative difference, its name) of two lists of named arrays."""
    found = list(zip(differences(first, second), names, strict=True))
    difference, name = max(found, key=lambda pair: pair[0])
    return difference, str(name)


def differences(first: Iterable[np.ndarray], second: Iterable[np.ndarray]) -> np.ndarray:
    """Returns the relative difference of each pair of two lists of arrays, float64 [n]."""
    return np.array([relative_difference(a, b) for a, b in zip(first, second, strict=True)])


@dataclasses.dataclass(frozen=True)
class Growth:
    """The differences that one rounding error in every weight makes in a training on one replica.

    Attributes:
      losses: [steps], the largest up to each step.
      first, last: [n], of each variable after the first and after the last step.
      gradient: the largest of the first gradient.
    """

    losses: np.ndarray
    first: np.ndarray
    last: np.ndarray
    gradient: float

    @classmethod
    def of(cls, one: Mapping[str, np.ndarray]) -> "Growth":
        """Returns the growth in the results of one replica, see `compare_replicas`."""
        first, last, gradient = (differences(arrays(one, kind), arrays(one, f"perturbed_{kind}"))
                                 for kind in ("first", "variable", "exact"))
        return cls(np.maximum.accumulate(differences(one["loss"], one["perturbed_loss"])), first, last, gradient.max())

    @property
    def resolved(self) -> bool:
        """Whether a fault differs from rounding in the first steps, before rounding has grown."""
        return self.losses[:2].max() <= RESOLVED and float(np.median(self.first)) <= RESOLVED

    def explains(self, losses: np.ndarray, first: np.ndarray, last: np.ndarray) -> bool:
        """Tells whether differences come from rounding alone; arguments as the attributes, not accumulated.

        Each must be within the growth of rounding up to the same step, and the early ones be resolved: a fault shows
        from the beginning, while rounding begins at the last digit.
        """
        pairs = ((losses, self.losses), (first, self.first), (last, self.last))
        return self.resolved and all((found <= np.maximum(FLOAT64_BOUND, MARGIN * grown)).all()
                                     for found, grown in pairs)


def compare_replicas(one: Mapping[str, np.ndarray], several: Mapping[str, np.ndarray], replicas: int,
                     facts: Mapping[str, Any]) -> list[Comparison]:
    """Compares the results of one replica with those of several.

    A model that makes rounding errors grow cannot give the same numbers from sums in another order. It agrees as far as
    it is stable if the difference is no larger than that of one rounding error on one replica.

    Args:
      one, several: {"loss": float64 [steps], "names": str [n], "gradient_names": str [k], "first_0", ...,
        "variable_0", ..., "gradient_0", ...: arrays}, see measure.training and measure.first_gradient; one also has
        "exact_0", ..., the gradient at the same weights in float64, and the control of measure.training_and_control.
      replicas: number of the several.
      facts: {"steps": int, "precision": of the gradient, "normalized": whether normalization was enabled for this,
        "unclaimed": why equality is not claimed for this model, "rounding": why it is not for this gradient,
        "coarsest": the narrowest float type to which the float64 model rounds in its call}.
    """
    steps, against = facts["steps"], f"1 against {replicas} replicas"
    normalized = ", --normalize=per_channel" if facts["normalized"] else ""
    losses = differences(one["loss"], several["loss"])
    first, last = (differences(arrays(one, kind), arrays(several, kind)) for kind in ("first", "variable"))
    growth, worst, least = Growth.of(one), int(np.argmax(losses)), int(np.argmax(last))
    casts = "" if facts["coarsest"] == "float64" else f" with casts to {facts['coarsest']}"
    where = f"{against}, float64{casts}{normalized}"

    def row(text: str, found: float, grown: float, note: str) -> Comparison:
        grows = f"a perturbation of one rounding error grows to {shown(float(grown))}"
        if found <= FLOAT64_BOUND or facts["unclaimed"]:
            return Comparison("replicas", f"{text}, {where}", found, FLOAT64_BOUND, facts["unclaimed"], note)
        if growth.explains(losses, first, last):
            return Comparison("replicas", f"{text}, {where}: agrees as far as the model is stable: {grows}", found,
                              max(FLOAT64_BOUND, MARGIN * float(grown)), note=note)
        return Comparison("replicas", f"{text}, {where}", found, FLOAT64_BOUND, note=f"{note}; {grows}")

    begins = int(np.argmax(losses > FLOAT64_BOUND)) + 1
    return [row(f"loss of {steps} steps", float(losses[worst]), growth.losses[-1],
                f"first at step {begins}, most at step {worst + 1}"),
            row(f"every variable after {steps} steps", float(last[least]), growth.last[least],
                str(one["names"][least])),
            compare_gradients(one, several, against + normalized, facts, growth)]


def compare_gradients(one: Mapping[str, np.ndarray], several: Mapping[str, np.ndarray], where: str,
                      facts: Mapping[str, Any], growth: Growth) -> Comparison:
    """Compares the first gradients in the user's precision; arguments as for `compare_replicas`, and the Growth.

    A rounding error can move a value across a ReLU's kink or make another one the largest of a pool, which changes a
    gradient by all or nothing. float32 is then farther from float64 than its rounding, on one replica as well, and two
    sums of the same batch cannot agree better than that.
    """
    names = one["gradient_names"]
    gradients = arrays(one, "gradient"), arrays(several, "gradient")
    difference, tensor = largest(names, *gradients)
    precision, unresolved = facts["precision"], ""
    if precision == "float64":
        bound = max(FLOAT64_BOUND, MARGIN * growth.gradient if growth.resolved else 0.0)
    else:
        alone = largest(names, arrays(one, "exact"), gradients[0])[0]
        if alone > KINKED_GRADIENT_BOUND:
            unresolved = f"on one replica it is {shown(alone)} from float64: {precision} does not resolve it"
        rounding = max(largest(names, arrays(one, "exact"), found)[0] for found in gradients)
        bound = GRADIENT_BOUND if rounding <= GRADIENT_BOUND else KINKED_GRADIENT_BOUND
        precision += f" ({shown(rounding)} from float64)"
    return Comparison("replicas", f"gradient of the first step, {where}, {precision}", difference, bound,
                      facts["unclaimed"] or facts["rounding"] or unresolved, tensor)


def arrays(values: Mapping[str, np.ndarray], kind: str) -> list[np.ndarray]:
    """Returns the arrays kind_0, kind_1, ... of a dict, in order."""
    count = sum(key.startswith(f"{kind}_") and key[len(kind) + 1:].isdigit() for key in values)
    return [values[f"{kind}_{i}"] for i in range(count)]
