"""Lengths and intervals in steps, with boundaries at the end of epochs; learning-rate schedules."""
import math

import numpy as np
import pytest
import tensorflow as tf

from pipeline.config import ExperimentConfig, OptimizerConfig
from pipeline.errors import UsageError
from pipeline.training.cadence import StepsPerLoopController, plan
from pipeline.training.schedule import learning_rate_schedule


def _plan(num_examples=1437, **options):
    return plan(ExperimentConfig.from_flat(options), num_examples)


@pytest.mark.parametrize("options,steps", [
    (dict(epochs=6.0, batch_size=32), 270),  # ceil(6 * 1437 / 32): no remainder is dropped.
    (dict(epochs=0.5, batch_size=32), 23),
    (dict(steps=7), 7),
    (dict(batch_size=64), math.ceil(10 * 1437 / 64)),  # Ten epochs by default.
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


def _rates(total, warmup=0, drop_every=0.0, **options):
    schedule = learning_rate_schedule(OptimizerConfig(**options), total, warmup, drop_every=drop_every)
    return np.array([float(schedule(tf.constant(s, tf.int64))) for s in range(total)])


def test_constant_with_warmup():
    np.testing.assert_allclose(_rates(6, 4, learning_rate=0.4), [0.1, 0.2, 0.3, 0.4, 0.4, 0.4], rtol=1e-6)


def test_cosine_falls_to_zero():
    rates = _rates(100, schedule="cosine", learning_rate=1.0)
    assert rates[0] == 1 and rates[50] == pytest.approx(0.5) and rates[99] < 1e-3 and (np.diff(rates) < 0).all()


def test_step_drops_at_the_given_shares():
    rates = _rates(100, schedule="step", learning_rate=1.0, step_decay_at=("0.5", "0.9"), step_decay_factor=0.1)
    assert rates[[0, 49, 50, 89, 90]].tolist() == pytest.approx([1, 1, 0.1, 0.1, 0.01])


def test_step_drops_as_often_as_asked_from_the_start_of_the_run():
    plan = _plan(num_examples=1000, batch_size=64, schedule="step", step_decay_every="2.4epochs")
    assert plan.drop_every == 37.5
    rates = _rates(100, 10, 37.5, schedule="step", learning_rate=1.0, step_decay_factor=0.5)
    assert rates[[9, 10, 37, 38, 74, 75]].tolist() == pytest.approx([1, 1, 1, 0.5, 0.5, 0.25])


def test_a_decay_ends_at_the_lowest_rate():
    for schedule, power in (("cosine", None), ("linear", 1), ("polynomial", 3)):
        more = {"polynomial_power": 3.0} if schedule == "polynomial" else {}
        rates = _rates(110, 10, schedule=schedule, learning_rate=1.0, min_learning_rate=0.2, **more)
        share = np.arange(100) / 100
        shape = (1 - share) ** power if power else 0.5 * (1 + np.cos(np.pi * share))
        np.testing.assert_allclose(rates[10:], 0.2 + 0.8 * shape, rtol=1e-5)
        np.testing.assert_allclose(rates[:10], np.arange(1, 11) / 10, rtol=1e-6)


def test_a_cosine_restarts_from_the_peak():
    """Two restarts, each cycle twice as long as the one before: the rates are those of cosines of 10, 20, 40 steps."""
    rates = _rates(70, schedule="cosine", learning_rate=1.0, restarts=2, restart_growth=2.0, min_learning_rate=0.1)
    cycles = [0.1 + 0.45 * (1 + np.cos(np.pi * np.arange(n) / n)) for n in (10, 20, 40)]
    np.testing.assert_allclose(rates, np.concatenate(cycles), rtol=1e-4)


@pytest.mark.parametrize("options, says", [
    (dict(min_learning_rate=0.1), "belongs to --schedule=cosine or linear or polynomial; found --schedule=constant"),
    (dict(schedule="linear", restarts=2), "--restarts=2 belongs to --schedule=cosine"),
    (dict(schedule="cosine", step_decay_every="2epochs"), "--step_decay_every=2epochs belongs to --schedule=step"),
    (dict(schedule="cosine", polynomial_power=1.0), "belongs to --schedule=polynomial"),
    (dict(schedule="cosine", min_learning_rate=0.1), "--min_learning_rate=0.1 is above the learning rate of 0.001"),
    (dict(learning_rate=0.3, base_learning_rate=0.1, batch_size=512), "(which is 0.2 for a batch of 512) both set")])
def test_options_of_the_learning_rate_that_contradict_are_refused(options, says):
    with pytest.raises(UsageError) as raised:
        ExperimentConfig.from_flat(options)
    assert says in str(raised.value)


def test_the_learning_rate_scales_with_the_batch():
    """And is the same where the configuration is read again, as for a resume, or changed, as in a sweep."""
    config = ExperimentConfig.from_flat(dict(base_learning_rate=0.1, batch_size=1024))
    assert config.optimizer.learning_rate == 0.4
    assert ExperimentConfig.from_flat(config.flat()) == config
    assert config.replace(base_learning_rate=0.2).optimizer.learning_rate == 0.8
    assert config.replace(batch_size=512, base_batch_size=128).optimizer.learning_rate == 0.4


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
