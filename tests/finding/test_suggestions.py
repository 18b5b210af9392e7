"""What the curve of a range test suggests."""
import numpy as np
import pytest

from pipeline.finding.suggestions import RangeCurve, falls_not, last_mean, rounded, suggest

RATES = np.geomspace(1e-7, 10, 100)
POWERS = np.log10(RATES)


def made(losses, planned=100, diverged=""):
    """Returns the curve of these losses, the first of a range."""
    losses = np.asarray(losses, float)
    return RangeCurve(RATES[:len(losses)], losses, planned, RATES[0], diverged)


def fall(center, low=0.3, high=2.3):
    """Returns losses that fall around a power of ten, within about two decades."""
    return high - (high - low) / (1 + np.exp(-3 * (POWERS - center)))


@pytest.mark.parametrize("center", [-4, -2.5, -1])
@pytest.mark.parametrize("scale", [1, 0.01])
def test_suggestions_are_in_the_fall(center, scale):
    curve = made(scale * (fall(center) + np.where(center + 1.5 < POWERS, 50 * (POWERS - center - 1.5), 0)))
    steps = suggest(curve)
    assert abs(POWERS[steps["steepest"]] - center) < 0.25
    assert center - 0.5 < POWERS[steps["valley"]] < center + 1
    assert steps["valley"] < steps["lowest"] == curve.smoothed.argmin()


def test_a_loss_that_explodes_does_not_hide_the_fall_before():
    losses = fall(-2.5)[:72]
    quiet, loud = (suggest(made([*losses, *end], diverged="4 times its lowest")) for end in ([3, 4, 5], [1e9, 1e12]))
    assert quiet and {name: abs(step - quiet[name]) <= 2 for name, step in loud.items()} == dict.fromkeys(quiet, True)


def test_noise_alone_suggests_nothing_and_a_clear_fall_in_it_does():
    noise = [np.random.default_rng(seed).normal(0, 0.15, 100) for seed in range(50)]
    assert [seed for seed, values in enumerate(noise) if suggest(made(2.3 + values))] == []
    found = [suggest(made(fall(-2.5) + values)) for values in noise]
    assert all(found)
    for name in ("valley", "steepest"):
        assert np.median([POWERS[steps[name]] for steps in found]) == pytest.approx(-2.5, abs=0.5)
        assert all(-4 < POWERS[steps[name]] < -1.2 for steps in found)


@pytest.mark.parametrize("curve, words", [
    (made([], diverged="not finite"), ["not finite after 0 of 100", "--lowest=1e-10"]),
    (made([2.3, 2.4, 9], diverged="not finite"), ["not finite after 3 of 100", "--lowest=1e-10"]),
    (made(2.3 + np.arange(30) ** 2.0, diverged="4 times its lowest"), ["never falls", "4 times", "--lowest=1e-10"]),
    (made(np.full(100, 2.3)), ["never falls", "--highest=1e+02"]),
])
def test_nothing_to_suggest_has_a_reason_and_a_remedy(curve, words):
    assert suggest(curve) == {}
    assert [word for word in words if word not in falls_not(curve)] == []


def test_the_mean_of_the_last_losses_follows_them():
    assert last_mean([5.0], 100) == 5
    assert last_mean([1.0] * 50 + [2.0] * 20, 100) == pytest.approx(2, abs=1e-3)
    assert 1 < last_mean([1.0] * 50 + [2.0], 100) < 1.5


def test_rates_are_rounded_to_two_digits():
    assert (rounded(0.0123456), rounded(9.99)) == (0.012, 10)
