"""Lengths and intervals in steps, with boundaries at the end of epochs; learning-rate schedules."""
import math

import numpy as np
import pytest
import tensorflow as tf

from pipeline.config import ExperimentConfig, OptimizerConfig
from pipeline.training.cadence import StepsPerLoopController, plan
from pipeline.training.schedule import learning_rate_schedule


def _plan(num_examples=1437, **options):
    return plan(ExperimentConfig.from_flat(options), num_examples)


@pytest.mark.parametrize("options,steps", [
    (dict(epochs=6.0, batch_size=32), 270),  # ceil(6 * 1437 / 32): no remainder is dropped.
    (dict(epochs=0.5, batch_size=32), 23),
    (dict(steps=7), 7),
    (dict(batch_size=64), math.ceil(10 * 1437 / 64)),  # Ten epochs where nothing is said.
    (dict(epochs=1.0, batch_size=4000), 1),
])
def test_length(options, steps):
    assert _plan(**options).total_steps == steps


def test_epochs_end_at_the_first_step_at_or_after_them():
    p = _plan(epochs=3.0, batch_size=100)  # An epoch is 14.37 steps.
    assert [s for s in range(1, 60) if p.is_boundary(p.evaluate_every, s)] == [15, 29, 44, 58]
    assert [p.next_boundary(p.evaluate_every, s) for s in (0, 14, 15, 28, 29)] == [15, 15, 29, 29, 44]


def test_intervals_in_steps_and_parts_of_epochs():
    p = _plan(evaluate_every="10", checkpoint_every="0.5epochs", batch_size=100)
    assert [s for s in range(1, 31) if p.is_boundary(p.evaluate_every, s)] == [10, 20, 30]
    assert [s for s in range(1, 31) if p.is_boundary(p.checkpoint_every, s)] == [8, 15, 22, 29]


def test_an_interval_shorter_than_a_step_is_every_step():
    p = _plan(evaluate_every="1epoch", batch_size=4000)
    assert [p.next_boundary(p.evaluate_every, s) for s in range(4)] == [1, 2, 3, 4]


def test_intervals_are_exact():
    p = _plan(num_examples=1000, evaluate_every="0.1epochs", batch_size=10)  # 10 steps, though 0.1 is no float.
    assert [s for s in range(1, 45) if p.is_boundary(p.evaluate_every, s)] == [10, 20, 30, 40]
    tiny = _plan(evaluate_every="0.0000001epoch")
    assert [tiny.next_boundary(tiny.evaluate_every, s) for s in (0, 1, 50)] == [1, 2, 51]


def _rates(total, warmup=0, **options):
    schedule = learning_rate_schedule(OptimizerConfig(**options), total, warmup)
    return np.array([float(schedule(tf.constant(s, tf.int64))) for s in range(total)])


def test_constant_with_warmup():
    np.testing.assert_allclose(_rates(6, 4, learning_rate=0.4), [0.1, 0.2, 0.3, 0.4, 0.4, 0.4], rtol=1e-6)


def test_cosine_falls_to_zero():
    rates = _rates(100, schedule="cosine", learning_rate=1.0)
    assert rates[0] == 1 and rates[50] == pytest.approx(0.5) and rates[99] < 1e-3 and (np.diff(rates) < 0).all()


def test_step_drops_at_the_given_shares():
    rates = _rates(100, schedule="step", learning_rate=1.0, step_decay_at=("0.5", "0.9"), step_decay_factor=0.1)
    assert rates[[0, 49, 50, 89, 90]].tolist() == pytest.approx([1, 1, 0.1, 0.1, 0.01])


def test_one_cycle_rises_and_falls():
    rates = _rates(100, schedule="one-cycle", learning_rate=1.0)
    assert rates[0] == pytest.approx(1 / 25) and rates.argmax() == 30 and rates.max() == pytest.approx(1)
    assert rates[99] == pytest.approx(1 / 25 * 1e-4)


def test_a_call_takes_about_a_second_and_crosses_no_boundary():
    pace, calls = StepsPerLoopController(), []
    for _ in range(4):
        calls.append(pace.next(100))
        pace.finished(calls[-1], calls[-1] * 0.05)  # Twenty steps a second.
    assert calls == [1, 4, 20, 20] and pace.next(7) == 7
    fixed, calls = StepsPerLoopController(fixed=50, longest=2.0), []
    for _ in range(2):
        calls.append(fixed.next(1000))
        fixed.finished(calls[-1], calls[-1] * 0.1)
    assert calls == [1, 20]  # Fifty would have taken longer than allowed.
    assert _plan(steps=30, evaluate_every="12", checkpoint_every="9").steps_to_boundary(9) == 3
    assert _plan(steps=30, evaluate_every="12", checkpoint_every="30s").steps_to_boundary(24) == 6
