"""Warnings: each where it applies, once, with a remedy; none in a healthy run."""
import dataclasses
import math

import numpy as np
import pytest

from pipeline.metrics.evaluation import evaluation
from pipeline.monitoring.alerts import AlertContext, Alerts
from tests.monitoring.windows import evaluated, window

USUAL = AlertContext(cache="host", in_memory=True, memory_budget=2048, warmup_steps=0, steps_per_epoch=50,
                      num_classes=4, random_loss=math.log(4))
WELL = {"input_wait": 0.02, "host_memory_mib": 900.0, "host_memory_share": 0.05, "host_memory_full": 0.5}


class Run:
    """A run of windows of 20 steps of a second each; `warnings` are its warnings."""

    def __init__(self, **circumstances):
        self.step, self.warnings = 0, []
        self.alerts = Alerts(dataclasses.replace(USUAL, **circumstances), self.warnings.append)

    def window(self, windows=1, system=(), seconds=1.0, **columns):
        """Goes on by some windows of columns of one value or of one a step."""
        for _ in range(windows):
            self.step += 20
            self.alerts.on_window(window(self.step, 20, seconds, system={**WELL, **dict(system)},
                                         **{**ratio(2e-3), **columns}))
        return self

    def evaluate(self, correct, of=400, loss=1.0):
        """Evaluates `of` examples of classes of the same size, with that mean loss."""
        labels = np.arange(of) % 4
        rows = np.zeros([of, 5], np.float32)
        rows[:, 0], rows[:, 1] = labels, np.where(np.arange(of) < correct, labels, (labels + 1) % 4)
        self.alerts.on_evaluation(evaluated(self.step, evaluation([loss * of, correct, of], rows, 4)))
        return self


def ratio(value):
    return {"update_ratio": [*[np.nan] * 19, value]}


def test_a_healthy_run_gets_no_warning():
    assert Run().window(50).evaluate(380).window(50).evaluate(390).warnings == []


@pytest.mark.parametrize("more, remedy", [
    ({}, "--cache=device makes the batches inside the step"),
    ({"in_memory": False}, "read from disk; with more than --memory_budget=2048 (MiB) it would stay in memory")])
def test_waiting_for_input_is_reported_after_several_windows(more, remedy):
    run = Run(**more).window(4, {"input_wait": 0.3})
    assert run.warnings == []
    run.window(30, {"input_wait": 0.4})
    assert len(run.warnings) == 1 and "the steps wait for their input 32% of the time" in run.warnings[0]
    assert remedy in run.warnings[0]


def test_a_single_long_wait_or_many_in_no_time_are_not_reported():
    assert Run().window(4).window(1, {"input_wait": 1.0}, seconds=9.0).window(9).warnings == []
    assert Run().window(9, {"input_wait": 0.5}, seconds=0.1).warnings == []
    assert len(Run().window(25, {"input_wait": 0.5}, seconds=0.1).warnings) == 1


def test_memory_that_is_nearly_full_is_reported():
    run = Run().window(1, {"host_memory_full": 0.92}).window(3, {"host_memory_full": 0.94})
    assert run.warnings == ["memory is 94% full (900 of 18,000 MiB by this process); when it runs out the system kills "
                            "the run: a smaller --memory_budget streams the data from disk, or stop other processes"]
    device = {"device_memory_full": 0.95, "device_memory_mib": 13_337.0}
    run = Run(cache="device").window(2, device)
    assert run.warnings == ["GPU memory is 95% full (13,337 MiB): if it runs out, use more --accumulate_steps or "
                            "--cache=host"]


def test_a_loss_scale_that_collapses_is_reported():
    scales = 2.0 ** np.arange(15, 5, -1).repeat(2)
    run = Run().window(1, loss_scale=scales)
    assert len(run.warnings) == 1 and run.warnings[0].startswith("the loss scale fell to 64, since") and (
        "--precision=mixed_bfloat16" in run.warnings[0])
    assert Run().window(3, loss_scale=128.0).warnings == []
    skipped = [1.0] * 17 + [0.0] * 3
    run = Run().window(1, loss_scale=2048.0, applied=skipped).window(1, loss_scale=2048.0, applied=[0.0] + [1.0] * 19)
    assert run.warnings == []  # Four in a row, over two windows.
    run.window(1, loss_scale=2048.0, applied=skipped).window(1, loss_scale=2048.0, applied=skipped[::-1])
    assert len(run.warnings) == 1 and "was halved 6 times in a row" in run.warnings[0]
    assert Run().window(3, applied=0.0).warnings == []  # In float32 there is no scale; the loss shows it.


@pytest.mark.parametrize("value, words", [(5e-2, "looks too high: a step changes the weights by 5.0% of their norm"),
                                          (5e-7, "looks too low: a step changes the weights by 5.0e-07 of their")])
def test_a_learning_rate_that_looks_off_is_reported_after_several_measurements(value, words):
    run = Run().window(5, **ratio(value)).window(4, **ratio(value))  # The first hundred steps do not count.
    assert run.warnings == []
    run.window(9, **ratio(value))
    assert len(run.warnings) == 1 and f"the learning rate of 0.001 {words}" in run.warnings[0] and (
        "--learning_rate" in run.warnings[0])
    assert Run(warmup_steps=1000).window(40, **ratio(value)).warnings == []
    assert Run().window(9, **ratio(value)).window(1, **ratio(1e-3)).window(4, **ratio(value)).warnings == []
    assert Run().window(40, applied=0.0, **ratio(value)).warnings == []


def test_the_end_of_a_schedule_is_no_low_learning_rate():
    run = Run().window(10)
    assert run.window(20, learning_rate=5e-5, **ratio(1e-8)).warnings == []


def test_accuracy_at_chance_after_an_epoch_is_reported():
    assert Run().window(4).evaluate(100).warnings == []  # 80 steps are too few.
    run = Run().window(5).evaluate(110).window(5).evaluate(100)
    assert len(run.warnings) == 1 and run.warnings[0].startswith(
        "after 100 steps the test accuracy of 27.50% is no better than always predicting the most frequent of 4 "
        "classes (25.00%): try a tenth")
    slow = Run().window(10, **ratio(2e-5)).evaluate(100).warnings
    assert len(slow) == 1 and "(25.00%): try ten times as much --learning_rate" in slow[0]
    assert Run().window(5).evaluate(130).warnings == []
    assert Run(steps_per_epoch=500).window(5).evaluate(100).warnings == []
    assert Run(warmup_steps=500).window(5).evaluate(100).warnings == []


def test_a_loss_that_has_diverged_is_reported_whatever_the_accuracy():
    assert Run().window(5).evaluate(380, loss=13.8).warnings == []  # 10 ln 4 is 13.86.
    assert Run().window(4).evaluate(380, loss=1e6).warnings == []
    assert Run(random_loss=math.inf).window(5).evaluate(380, loss=1.6e6).warnings == []  # Of another loss.
    run = Run().window(5).evaluate(380, loss=1.6e6).window(5).evaluate(380, loss=5e13)
    assert run.warnings == [
        "after 100 steps the test loss is 1.6e+06, where random predictions have 1.39: the learning rate looks too "
        "high; try a tenth of it (--learning_rate)"]
