"""Differences and their bounds."""
import math

import numpy as np
import pytest

from pipeline.verification.comparison import compare_replicas, relative_difference

FACTS = {"steps": 2, "precision": "float32", "normalized": True, "unclaimed": "", "rounding": "",
         "coarsest": "float64"}


@pytest.mark.parametrize("first, second, difference", [
    ([3.0, 4.0], [3.0, 4.0], 0.0),
    ([3.0, 4.0], [3.0, 4.5], 0.1),
    ([0.0, 0.0], [0.0, 1e-5], 1e-2),  # Over 1e-3, not over nothing.
    ([1.0, math.inf], [1.0, 2.0], math.inf),
    ([1.0, 2.0], [1.0, math.nan], math.inf),
    ([1.0, math.nan], [1.0, math.nan], 0.0),
    ([1.0, 2.0], [1.0], math.inf),
])
def test_a_difference_is_relative_to_the_norm(first, second, difference):
    assert relative_difference(np.array(first), np.array(second)) == pytest.approx(difference)


def computed(loss=1.0, variable=1.0, gradient=1.0, exact=1.0, first=1.0, grown=0.0, early=0.0):
    """What a process leaves; `grown` and `early` are how far a rounding error takes it, in the end and at first."""
    return {"loss": np.array([1.0, loss]), "names": np.array(["a", "b"]), "variable_0": np.ones(3),
            "variable_1": np.full(2, variable), "gradient_names": np.array(["a"]),
            "first_0": np.ones(3), "first_1": np.full(2, first),
            "gradient_0": np.full(4, gradient, np.float32), "exact_0": np.full(4, exact),
            "perturbed_loss": np.array([1.0 + early, 1.0 + early]), "perturbed_exact_0": np.full(4, 1.0),
            **{f"perturbed_{kind}_{i}": np.ones(3 - i) * (1 + growth)
               for kind, growth in (("first", early), ("variable", grown)) for i in (0, 1)}}


@pytest.mark.parametrize("several, violated", [
    (computed(), []), (computed(loss=1 + 2e-8), ["loss"]), (computed(variable=1 + 2e-8), ["every"]),
    (computed(gradient=1.06), ["gradient"]), (computed(loss=math.nan, variable=math.inf), ["loss", "every"]),
])
def test_each_difference_violates_its_own_row(several, violated):
    rows = compare_replicas(computed(), several, 2, FACTS)
    assert [row.compared.split()[0] for row in rows if row.verdict == "VIOLATED"] == violated


def test_the_row_names_where_the_difference_is():
    loss, variables, _ = compare_replicas(computed(), computed(loss=2.0, variable=2.0), 2, FACTS)
    assert loss.note.startswith("first at step 2, most at step 2; a perturbation of one rounding error grows to 0")
    assert variables.note.startswith("b; a perturbation ")
    assert loss.difference == 1.0 and "--normalize=per_channel" in variables.compared


def test_a_gradient_is_claimed_as_exactly_as_float32_resolves_it():
    smooth = compare_replicas(computed(), computed(gradient=1 + 5e-5), 2, FACTS)[2]
    assert (smooth.bound, smooth.verdict) == (1e-4, "ok")
    # One replica alone is 0.01 from float64 here: a kink was crossed.
    kinked = compare_replicas(computed(gradient=1.01), computed(gradient=1.02), 2, FACTS)[2]
    assert (kinked.bound, kinked.verdict) == (5e-2, "ok") and "(2.0e-02 from float64)" in kinked.compared
    wide = compare_replicas(computed(gradient=1 + 1e-4), computed(), 2, {**FACTS, "precision": "float64"})[2]
    assert (wide.bound, wide.verdict) == (1e-8, "VIOLATED")
    half = compare_replicas(computed(), computed(gradient=2.0), 2, {**FACTS, "rounding": "bfloat16"})[2]
    assert half.verdict == "not claimed"


@pytest.mark.parametrize("several, control, verdicts", [
    # Rounding alone goes as far: the weights of the end differ by what an error in the last digit grows to.
    (dict(variable=1 + 1e-3), dict(grown=1e-4), ["ok", "ok"]),
    # Farther than that, or as far while rounding has not grown yet: a fault.
    (dict(variable=1 + 1e-3), dict(grown=1e-6), ["ok", "VIOLATED"]),
    (dict(variable=1 + 1e-3, first=1 + 1e-5), dict(grown=1e-4), ["ok", "VIOLATED"]),
    (dict(variable=1 + 1e-3, loss=1 + 1e-3), dict(grown=1e-4), ["VIOLATED", "VIOLATED"]),
    # Rounding that grows at once hides any fault.
    (dict(variable=1.5, loss=1.5), dict(grown=1.0, early=1e-2), ["VIOLATED", "VIOLATED"]),
])
def test_a_difference_that_rounding_grows_to_is_none_of_replicas(several, control, verdicts):
    rows = compare_replicas(computed(**control), computed(**several), 2, FACTS)[:2]
    assert [row.verdict for row in rows] == verdicts
    output = [f"{row.compared} {row.note}" for row in rows if row.difference > 1e-8]
    assert all("a perturbation of one rounding error grows to" in text for text in output)
    assert all(("agrees as far as the model is stable" in row.compared) == (row.verdict == "ok")
               for row in rows if row.difference > 1e-8)


def test_a_gradient_that_one_replica_alone_does_not_resolve_is_not_claimed():
    row = compare_replicas(computed(gradient=1.2), computed(gradient=1.4), 2, FACTS)[2]
    assert row.verdict == "not claimed" and "on one replica it is 0.2 from float64: float32" in row.unclaimed
    assert compare_replicas(computed(), computed(gradient=1.4), 2, FACTS)[2].verdict == "VIOLATED"
