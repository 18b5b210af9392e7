"""Progress displays: correct numbers, in lines that fit, on a terminal that is restored."""
import os
import pty
import re
import subprocess
import sys
import types

import pytest

from pipeline.callbacks import Restored
from pipeline.config import ExperimentConfig
from pipeline.monitoring import progress as room
from pipeline.monitoring.time_left import TimeLeft, evaluations_between
from pipeline.terminal import is_live
from pipeline.training.cadence import plan
from tests.commands import environment
from tests.consoles import RecordingConsole
from tests.monitoring.windows import evaluated, window

PLAN = plan(ExperimentConfig.from_flat({"epochs": 12.0, "batch_size": 32}), 1437)
STEADY = {"examples_per_second": 2560.0, "ceiling_share": 0.613}
CONTROL = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


def evaluate(progress, step, loss, accuracy, split="test"):
    figures = {"loss": loss, "accuracy": accuracy, "examples": 360}
    progress.on_evaluation(evaluated(step, types.SimpleNamespace(figures=figures), split))


def train_window(progress, step, loss, accuracy, system):
    progress.on_window(window(step, loss=loss, accuracy=accuracy, system=system))


def test_plain_lines(monkeypatch):
    now, lines = [100.0], []
    monkeypatch.setattr(room.time, "monotonic", lambda: now[0])
    plain = room.PlainProgress(PLAN, RecordingConsole(lines))
    plain.on_start(Restored(0))
    train_window(plain, 1, 2.4298, 0.09375, {"goodput": 0.0})
    now[0] = 101.0
    plain.on_window(window(81, 2, loss=[2.0, 1.0], accuracy=[0.25, 0.75], system=STEADY))  # Their means.
    now[0] = 125.0
    evaluate(plain, 539, 0.0319, 0.99444)
    plain.warning("too hot: open a window")
    assert lines == ["epoch  0.02/12  step   1/539  loss 2.4298  accuracy   9.38%",
                     "epoch  1.80/12  step  81/539  loss 1.5000  accuracy  50.00%  2,560 examples/s  00:05 left",
                     "epoch 12.00/12  step 539/539  test loss 0.0319  test accuracy 99.44%  of 360 examples, 00:25 "
                     "since the start", "warning: too hot: open a window"]


def test_the_best_evaluations_are_kept_and_restored():
    quiet = room.NullProgress(PLAN)
    for step, loss, accuracy in ((45, 0.5, 0.8), (90, 0.3, 0.7), (135, float("nan"), 0.8), (180, 0.4, 0.8)):
        evaluate(quiet, step, loss, accuracy)
    assert quiet.best == {"loss": (0.3, 90), "accuracy": (0.8, 45)}
    restored = Restored(9, ({"step": 7, "split": "test", "loss": None, "accuracy": 0.1},))
    for event in (quiet.on_rollback, quiet.on_start):
        quiet.best = {"loss": (0.3, 90)}
        event(restored)
        assert quiet.best == {"accuracy": (0.1, 7)}


@pytest.mark.parametrize("every, first, last, expected", [
    ("1epoch", 0, 539, 12), ("1epoch", 45, 539, 11), ("1epoch", 538, 539, 1), ("1epoch", 539, 539, 0),
    ("100", 0, 539, 6), ("100", 500, 539, 1), ("0.5epoch", 0, 539, 24)])
def test_evaluations_that_will_come_are_counted(every, first, last, expected):
    config = ExperimentConfig.from_flat({"epochs": 12.0, "batch_size": 32, "evaluate_every": every})
    made = plan(config, 1437)
    due = [s for s in range(first + 1, last + 1) if made.is_boundary(made.evaluate_every, s) or s == made.total_steps]
    assert evaluations_between(made, first, last) == len(due) == expected


def test_the_time_left_has_the_time_that_evaluations_take():
    now = [0.0]
    left = TimeLeft(plan(ExperimentConfig.from_flat({"steps": 100, "batch_size": 10, "evaluate_every": "25"}), 1000),
                    lambda: now[0])
    assert left.seconds() is None

    def window(step, seconds, rate=100.0):  # 10 steps a second.
        now[0] += seconds
        left.window(step, rate)

    window(5, 9.0, None)
    assert left.seconds() is None  # The window was compiled.
    window(25, 2.0)
    assert left.seconds() == pytest.approx(7.5)
    now[0] += 4.0  # Of an evaluation, of which is known as yet only that it goes on.
    assert left.seconds() == pytest.approx(3.5)
    left.evaluated()
    window(45, 2.0)
    assert left.seconds() == pytest.approx(5.5 + 3 * 4.0)
    window(50, 0.5)
    now[0] += 6.0
    left.evaluated()
    window(70, 2.0)
    assert left.seconds() == pytest.approx(3.0 + 2 * 5.0)
    now[0] += 1.0
    assert left.seconds() == pytest.approx(3.0 + 2 * 5.0 - 1.0)


def test_the_length_of_a_short_run_is_never_0_epochs():
    lines, config = [], ExperimentConfig.from_flat(dict(steps=2, batch_size=16))
    plain = room.PlainProgress(plan(config, 60_000), RecordingConsole(lines))
    train_window(plain, 1, 2.0, 0.1, {})
    assert "/0.000533  step" in lines[0]


@pytest.mark.parametrize("term, live", [("xterm-256color", True), ("dumb", False), ("unknown", False), ("", False)])
def test_dumb_terminals_files_and_closed_streams_get_plain_lines(term, live, tmp_path):
    master, slave = pty.openpty()
    with os.fdopen(slave, "w") as terminal:
        assert is_live(terminal, {"TERM": term}) is live and not is_live(terminal, {})
    os.close(master)
    assert not is_live(terminal, {"TERM": term}) and not is_live(None, {"TERM": term})
    with open(tmp_path / "log", "w") as file:
        assert not is_live(file, {"TERM": term})


SPEAKS = """
import os, sys
from pipeline.console import Console
if sys.argv[1] == "closed":
    sys.stdout.close()
if sys.argv[1] == "pipe":
    reader, writer = os.pipe()
    os.dup2(writer, 1)
    os.close(reader)
for _ in range(3):
    Console(lasting=True).info("a line")
print("went on", file=sys.stderr)
"""


@pytest.mark.parametrize("how", ["open", "closed", "pipe"])
def test_a_closed_output_does_not_end_the_training(how):
    done = subprocess.run([sys.executable, "-c", SPEAKS, how], env=environment(), capture_output=True, text=True,
                          timeout=600)
    assert (done.returncode, done.stderr) == (0, "went on\n")
    assert done.stdout == ("a line\n" * 3 if how == "open" else "")
