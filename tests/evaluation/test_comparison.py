"""Two models on the same examples: counts by hand, McNemar's test by the binomial distribution."""
import math

import numpy as np
import pytest

from pipeline.evaluation import comparison
from pipeline.evaluation.probabilities import Predictions


def answers(predicted, labels, sure=3.0):
    """Returns Predictions of these classes, by logits that are `sure` apart."""
    return Predictions(np.eye(3, dtype=np.float32)[predicted] * np.float32(sure), np.asarray(labels))


def test_counts_of_correct_examples_by_hand():
    labels = [0, 0, 1, 1, 2, 2, 0, 1]
    first, other = answers([0, 0, 1, 2, 2, 0, 1, 1], labels), answers([0, 1, 0, 1, 2, 1, 1, 0], labels, sure=4.0)
    found = comparison.compare(first, other, ("a", "b", "c"))
    assert [found[k] for k in ("only_this_right", "only_the_first_right", "both_right", "both_wrong")] == [1, 3, 2, 2]
    assert found["mcnemar_p"] == pytest.approx(2 * (1 + 4) / 2**4)
    assert found["accuracy_difference"]["value"] == -0.25
    assert [d["index"] for d in found["differing"]] == [1, 2, 3, 5, 7]
    assert found["differing"][3] == {"index": 5, "true": "c", "first": "a", "this": "b",
                                     "confidence_first": pytest.approx(math.exp(3) / (math.exp(3) + 2)),
                                     "confidence_this": pytest.approx(math.exp(4) / (math.exp(4) + 2))}


def test_mcnemar_is_exact():
    assert comparison.mcnemar(0, 0) == 1
    assert comparison.mcnemar(2, 12) == pytest.approx(2 * sum(math.comb(14, k) for k in range(3)) / 2**14)
    assert comparison.mcnemar(12, 2) == comparison.mcnemar(2, 12)


def test_the_difference_has_the_width_that_theory_gives():
    found = comparison.difference(60, 40, 1000)
    deviation = math.sqrt(0.1 - 0.02**2) / math.sqrt(1000)
    assert found["value"] == 0.02
    assert (found["low"], found["high"]) == pytest.approx((0.02 - 1.96 * deviation, 0.02 + 1.96 * deviation), abs=2e-3)
    none = comparison.difference(0, 0, 100)
    # Of no example of n the score interval of a share reaches z^2 / (n + z^2), here on both sides.
    assert none["value"] == 0 and (none["low"], none["high"]) == pytest.approx((-0.03699, 0.03699), abs=1e-5)
    assert comparison.difference(10, 0, 10)["high"] == 1 and comparison.difference(0, 10, 10)["low"] == -1


@pytest.mark.parametrize("count, first_alone, other_alone", [
    (360, 42 / 360, 7 / 360), (2000, 0.0972, 0.0194), (360, 42 / 360, 0.0), (2000, 0.09, 0.001), (2000, 0.09, 0.08)])
def test_95_of_100_intervals_hold_the_true_difference(count, first_alone, other_alone):
    rest = 1 - first_alone - other_alone
    draws = np.random.default_rng(0).multinomial(count, [other_alone, first_alone, rest], 1000)
    found = [comparison.difference(int(one), int(another), count) for one, another, _ in draws]
    held = np.mean([entry["low"] <= other_alone - first_alone <= entry["high"] for entry in found])
    assert 0.93 <= held <= 0.97


def test_the_interval_and_mcnemar_agree():
    """Zero is outside of the interval where the exact test rejects, but not where chance alone is far from rejected."""
    for one in range(26):
        for another in range(26 - one):
            found, p_value = comparison.difference(one, another, 1000), comparison.mcnemar(one, another)
            apart = found["low"] > 0 or found["high"] < 0
            assert apart or p_value >= comparison.SIGNIFICANCE, (one, another)
            assert not apart or p_value < 0.13, (one, another)
            assert found["low"] <= found["value"] <= found["high"]


def test_holm_adjusts_several_p_values():
    assert comparison.holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert comparison.holm([0.9, 0.8]) == [1, 1] and comparison.holm([]) == []


def test_the_verdict():
    assert comparison.verdict(0.2, 9, 1) == "no difference beyond chance"
    assert comparison.verdict(0.01, 9, 1).startswith("better") and comparison.verdict(0.01, 1, 9).startswith("worse")
