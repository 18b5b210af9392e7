"""From what two computations gave to rows: how far apart they are, and how far they may be."""
import math

import numpy as np

from pipeline.verification.report import Row, shown

SMALLEST_NORM = 1e-3  # Below it a difference counts absolutely: relative to almost nothing everything is large.
FLOAT64_BOUND, GRADIENT_BOUND = 1e-8, 1e-4
KINKED_GRADIENT_BOUND = 5e-2  # The models here were measured at up to 1.3e-2 in float32, a lost replica at 0.5.


def relative_difference(first, second):
    """Returns norm(first - second) / max(norm(first), 1e-3), infinite where that is no number.

    Args:
      first, second: float arrays of one shape; equal values that are not finite count as equal.
    """
    if np.shape(first) != np.shape(second):
        return math.inf
    first, second = np.asarray(first, np.float64), np.asarray(second, np.float64)
    if np.array_equal(first, second, equal_nan=True):
        return 0.0
    with np.errstate(invalid="ignore", over="ignore"):
        value = float(np.linalg.norm(first - second) / max(np.linalg.norm(first), SMALLEST_NORM))
    return value if math.isfinite(value) else math.inf


def largest(names, first, second):
    """Returns (largest relative difference, its name) over two lists of arrays with a name each."""
    found = [(relative_difference(a, b), name) for name, a, b in zip(names, first, second, strict=True)]
    difference, name = max(found, key=lambda pair: pair[0])
    return difference, str(name)


def compare_replicas(one, several, replicas, facts):
    """Compares what one replica computed with what several did.

    Args:
      one, several: {"loss": float64 [steps], "names": str [n], "gradient_names": str [k], "variable_0", ...,
        "gradient_0", ...: arrays}, see measure.training and measure.first_gradient; one also has "exact_0", ..., the
        gradient at the same weights in float64.
      replicas: how many the several are.
      facts: {"steps": int, "precision": of the gradient, "normalized": whether normalization was switched on for this,
        "unclaimed": why equality is not claimed for this model, "rounding": why it is not for this gradient}.

    Returns:
      list of Row.
    """
    steps, against = facts["steps"], f"1 against {replicas} replicas"
    normalized = ", --normalize=per_channel" if facts["normalized"] else ""
    losses = [relative_difference(a, b) for a, b in zip(one["loss"], several["loss"], strict=True)]
    worst = int(np.argmax(losses))
    variable, name = largest(one["names"], arrays(one, "variable"), arrays(several, "variable"))
    return [
        Row("replicas", f"loss of {steps} steps, {against}, float64{normalized}", losses[worst], FLOAT64_BOUND,
            facts["unclaimed"], f"step {worst + 1}"),
        Row("replicas", f"every variable after {steps} steps, {against}, float64{normalized}", variable,
            FLOAT64_BOUND, facts["unclaimed"], name),
        compare_gradients(one, several, against + normalized, facts)]


def compare_gradients(one, several, where, facts):
    """Compares the first gradients in the user's precision; arguments as for `compare_replicas`.

    A rounding error can put a value on the other side of a ReLU's kink or make another one the largest of a pool, and
    what flows back there is then all or nothing. Where that happens float32 is farther than its rounding from float64,
    on one replica alone as well, and two sums of the same batch cannot agree better than that.
    """
    names = one["gradient_names"]
    gradients = arrays(one, "gradient"), arrays(several, "gradient")
    difference, tensor = largest(names, *gradients)
    precision = facts["precision"]
    if precision == "float64":
        bound = FLOAT64_BOUND
    else:
        rounding = max(largest(names, arrays(one, "exact"), found)[0] for found in gradients)
        bound = GRADIENT_BOUND if rounding <= GRADIENT_BOUND else KINKED_GRADIENT_BOUND
        precision += f" ({shown(rounding)} from float64)"
    return Row("replicas", f"gradient of the first step, {where}, {precision}", difference, bound,
               facts["unclaimed"] or facts["rounding"], tensor)


def arrays(values, kind):
    """Returns the arrays kind_0, kind_1, ... of a dict, in order."""
    count = sum(key.startswith(f"{kind}_") and key[len(kind) + 1:].isdigit() for key in values)
    return [values[f"{kind}_{i}"] for i in range(count)]
