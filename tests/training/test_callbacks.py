"""Callbacks get every event in order, over kills and resumes; a failing one is named."""
import json
import os
import signal

import pytest

from pipeline.callbacks import Callback
from pipeline.console import Console
from pipeline.errors import RunFailure
from pipeline.monitoring.alerts import Alerts
from pipeline.monitoring.profile import Profile
from pipeline.monitoring.progress import NullProgress
from pipeline.monitoring.recorder import Recorder
from pipeline.monitoring.system_metrics import SystemMetrics
from pipeline.monitoring.tensorboard.writer import TensorBoardWriter
from pipeline.run_directory import RunDirectory
from pipeline.stored_checkpoint import stored_checkpoints
from pipeline.training.trainer import Trainer
from tests.commands import metrics, mirrorline, result
from tests.training import small

DIARY = """
import json, os, signal
from pipeline import register
from pipeline.callbacks import Callback


@register.callback("diary")
class Diary(Callback):
    def __init__(self, experiment, workdir):
        self.plan, self.workdir = experiment.plan, workdir
        self.write("made")

    def write(self, event, step=None, **more):
        with open(os.path.join(self.workdir, "diary.jsonl"), "a") as file:
            file.write(json.dumps({"event": event, "step": step, **more}) + "\\n")

    def on_start(self, restored):
        self.write("start", restored.step, evaluations=[record["step"] for record in restored.evaluations])

    def on_window(self, window):
        self.write("window", window.step, loss=float(window.column("loss")[-1]), goodput="goodput" in window.system)
        if window.step == 5 and not os.path.exists("killed"):
            open("killed", "w").close()
            os.kill(os.getpid(), signal.SIGKILL)

    def on_evaluation(self, evaluated):
        self.write("evaluation", evaluated.step, split=evaluated.split.name, loss=evaluated.evaluation.loss)

    def on_checkpoint(self, step):
        self.write("checkpoint", step)

    def on_end(self, ending):
        self.write("end", ending.step, accuracy=ending.result["test_accuracy"])

    def close(self):
        self.write("close")


@register.callback("broken")
class Broken(Callback):
    def __init__(self, experiment, workdir):
        self.windows = 0

    def on_window(self, window):
        if window.step == 5:
            raise ValueError("no more\\nwindows")
"""
RUN = ("train", "--dataset=digits", "--model=mlp", "--batch_size=50", "--subset=4", "--steps=8", "--steps_per_loop=1",
       "--schedule=constant", "--evaluate_every=3", "--checkpoint_every=2", "--augment=", "--tensorboard=scalars",
       "--extension=diary.py", "--workdir=run")


def steps(events, name):
    """Returns the steps of one kind of event, in order."""
    return [event["step"] for event in events if event["event"] == name]


def test_a_user_s_callback_gets_every_event_in_order_over_a_kill_and_a_resume(tmp_path):
    (tmp_path / "diary.py").write_text(DIARY)
    command = (*RUN, "--callbacks=diary", "--verbosity=quiet")
    killed = mirrorline(*command, cwd=tmp_path)
    assert killed.returncode == -signal.SIGKILL
    done = mirrorline(*command, cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    events = [json.loads(line) for line in (tmp_path / "run" / "diary.jsonl").read_text().splitlines()]
    begins = [number for number, event in enumerate(events) if event["event"] == "made"]
    first, second = events[:begins[1]], events[begins[1]:]
    assert begins[0] == 0 and len(begins) == 2
    # Of a checkpoint it is known with the next one that it is on the disk.
    order = [(event["event"], event["step"]) for event in first if event["event"] != "checkpoint"]
    assert order == [("made", None), ("start", 0), ("window", 1), ("window", 2), ("window", 3), ("evaluation", 3),
                    ("window", 4), ("window", 5)]
    start = second[1]["step"]
    assert start in (2, 3, 4) and second[1]["evaluations"] == [3] * (start >= 3)
    windows = list(range(start + 1, 9))
    order = [(event["event"], event["step"]) for event in second if event["event"] != "checkpoint"]
    expected = [("made", None), ("start", start)]
    for step in windows:
        expected += [("window", step), *[("evaluation", step)] * (step in (3, 6, 8))]
    assert order == [*expected, ("end", 8), ("close", None)]
    for part in (first, second):
        saved = steps(part, "checkpoint")
        assert saved == sorted(set(saved))
        for step in saved:  # That of step 0 is for a rollback.
            before = part[:part.index({"event": "checkpoint", "step": step})]
            assert step in steps(before, "window") or (step, part) == (0, first)
    assert {4, 6, 8} - {start} <= set(steps(second, "checkpoint"))
    assert steps(second, "checkpoint")[-1] == 8 and second[-3]["event"] == "checkpoint"
    losses = {r["step"]: r["loss"] for r in metrics(tmp_path / "run", "train")}
    assert {e["step"]: e["loss"] for e in events if e["event"] == "window"} == losses
    assert [e["loss"] for e in second if e["event"] == "evaluation"] == [
        r["loss"] for r in metrics(tmp_path / "run", "evaluation") if r["step"] > start]
    assert all(event["goodput"] for event in events if event["event"] == "window")  # Built-in ones come before.
    assert second[-2]["accuracy"] == result(tmp_path / "run")["test_accuracy"]


@pytest.mark.acceptance
def test_an_exception_in_a_callback_is_one_line_with_its_source_location(tmp_path):
    (tmp_path / "diary.py").write_text(DIARY)
    done = mirrorline(*RUN, "--callbacks=broken,diary", "--verbosity=quiet", cwd=tmp_path)
    line = DIARY.splitlines().index('            raise ValueError("no more\\nwindows")') + 1
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == (f"mirrorline train: callback broken: {tmp_path / 'diary.py'}, line {line}: ValueError: no "
                           "more windows\n")
    assert [r["step"] for r in metrics(tmp_path / "run", "train")] == [1, 2, 3, 4, 5]
    assert [c.step for c in stored_checkpoints(str(tmp_path / "run" / "checkpoints")) if not c.problem][0] >= 2
    assert '{"event": "close"' in (tmp_path / "run" / "diary.jsonl").read_text().splitlines()[-1]


class Noting(Callback):
    """Records its events in a shared list."""

    def __init__(self, name, events):
        self.name, self.events = name, events

    def on_start(self, restored):
        self.events.append((self.name, "start", restored.step))

    def on_window(self, window):
        self.events.append((self.name, "window", window.step))

    def on_rollback(self, restored):
        self.events.append((self.name, "rollback", restored.step))

    def on_end(self, ending):
        self.events.append((self.name, "end", ending.step))

    def close(self):
        self.events.append((self.name, "close", None))


def trained(strategy, folder, events, **options):
    """Runs a Trainer with two callbacks that share `events`; returns the types of its other callbacks."""
    experiment = small.build(strategy, **{"precision": "float32", "steps": 4, "steps_per_loop": 2, "verbosity": "quiet",
                                          "tensorboard": "scalars", "evaluate_every": "4", **options})
    directory, seen = RunDirectory(str(folder)), []

    class Looking(Noting):
        def on_start(self, restored):
            seen.extend(trainer.callbacks)
            super().on_start(restored)

    with directory.claimed():
        trainer = Trainer(experiment, directory, console=Console(quiet=True),
                          callbacks=(Looking("one", events), Noting("other", events)))
        trainer.run()
    return [type(callback) for callback in seen[:-2]]


def both(event, step):
    return [("one", event, step), ("other", event, step)]


def test_built_in_callbacks_come_first_and_writers_of_a_window_before_its_readers(tmp_path, strategy):
    events = []
    order = [SystemMetrics, Recorder, NullProgress, Alerts]
    assert trained(strategy(1), tmp_path / "a", events) == order
    assert events == [*both("start", 0), *both("window", 1), *both("window", 3), *both("window", 4), *both("end", 4),
                      ("other", "close", None), ("one", "close", None)]  # The last one first.


@pytest.mark.acceptance
def test_optional_callbacks_come_after_those_of_every_run(tmp_path, strategy):
    found = trained(strategy(1), tmp_path, [], tensorboard="full", profile="1:2", steps_per_loop=1)
    assert found == [SystemMetrics, Recorder, NullProgress, Alerts, Profile, TensorBoardWriter]


def test_on_rollback_gets_the_restored_step(tmp_path, strategy):
    events = []
    with pytest.raises(RunFailure, match="diverged"):
        trained(strategy(1), tmp_path, events, loss_limit=1e-6, divergence_steps=2, max_rollbacks=1, steps_per_loop=1)
    part = [*both("window", 1), *both("window", 2)]
    assert events == [*both("start", 0), *part, *both("rollback", 0), *part, ("other", "close", None),
                      ("one", "close", None)]


def test_callbacks_are_closed_if_nothing_can_be_restored(tmp_path, strategy):
    trained(strategy(1), tmp_path, [])
    for name in os.listdir(tmp_path / "checkpoints"):
        if name.endswith("manifest.json"):
            (tmp_path / "checkpoints" / name).write_text("{}")
    events = []
    with pytest.raises(RunFailure):
        trained(strategy(1), tmp_path, events, steps=6)
    assert events == [("other", "close", None), ("one", "close", None)]
