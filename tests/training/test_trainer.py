"""How a run ends: figures first, then what TensorBoard shows of them, watched and stoppable; recording is booked."""
import contextlib

import pytest

from pipeline.files import read_json
from pipeline.monitoring.goodput import GoodputTracker
from pipeline.monitoring.progress import NullProgress
from pipeline.monitoring.recorder import Recorder
from pipeline.run_directory import RunDirectory
from pipeline.training import run as room
from pipeline.training.watchdog import NullWatchdog
from tests.commands import metrics
from tests.training import small

STEPS = 6
PASS = "batch {} of what the model says of test"


class Attending(NullWatchdog):
    """Stands in for the watchdog and for the user: asks to stop after the beat `until`.

    Attributes:
      beats: what the run has said of itself, in order.
      found: result.json as it was at the first forward pass of the end.
      phases: what the display was told.
    """

    def __init__(self, directory, until):
        self.directory, self.until = directory, until
        self.beats, self.phases, self.found = [], [], None

    def beat(self, text):
        """Takes note."""
        self.beats.append(text)
        if text == PASS.format(1):
            self.found = read_json(self.directory.file("result.json"))

    def __call__(self):
        return self.until in self.beats


def booked_windows(monkeypatch):
    """Returns a list that gets, of each window of steps that is recorded, what its time is booked as."""
    opened, booked, account, window = [], [], GoodputTracker.account, Recorder.window

    @contextlib.contextmanager
    def noted(tracker, kind):
        opened.append(kind)
        with account(tracker, kind):
            yield
        opened.pop()

    def recorded(*arguments, **more):
        booked.append(list(opened))
        window(*arguments, **more)

    monkeypatch.setattr(GoodputTracker, "account", noted)
    monkeypatch.setattr(Recorder, "window", recorded)
    return booked


def train(strategy, folder, monkeypatch, until=None):
    """Trains with the product's own `run`; returns (RunResult, what result.json holds, Attending)."""
    experiment = small.build(strategy, precision="float32", steps=STEPS, evaluate_every=4, steps_per_loop=1,
                             verbosity="quiet")
    directory = RunDirectory(str(folder))
    attending = Attending(directory, until)

    class Display(NullProgress):
        def phase(self, text):
            attending.phases.append(text)

    monkeypatch.setattr(room, "StopRequest", lambda: attending)
    monkeypatch.setattr(room, "guarded", lambda *arguments: attending)
    monkeypatch.setattr(room, "create_progress", lambda plan, verbosity: Display(plan))
    with directory.claimed():
        result, described = room.run(experiment, directory, echo=lambda text: None)
    assert described == read_json(directory.file("result.json"))
    return result, described, attending


def test_the_end_is_watched_and_stopped_and_made_up_for(tmp_path, strategy, monkeypatch):
    booked = booked_windows(monkeypatch)
    curves = tmp_path / "tensorboard" / "test" / "penultimate.tsv"
    result, first, attending = train(strategy(1), tmp_path, monkeypatch, until=PASS.format(2))
    assert (result.status, first["status"], result.step) == ("preempted", "preempted", STEPS)
    assert [text for text in attending.beats if "model says" in text] == [PASS.format(1), PASS.format(2)]
    assert not curves.exists() and attending.phases[-1] == "writing for TensorBoard"
    found = attending.found
    assert found["status"] == "preempted" and found["test_accuracy"] == first["test_accuracy"] > 0
    assert booked == [["reporting"]] * STEPS

    result, second, attending = train(strategy(1), tmp_path, monkeypatch)
    assert (result.status, second["status"]) == ("finished", "finished") and curves.exists()
    assert [text for text in attending.beats if "model says" in text] == [PASS.format(i) for i in range(1, 24)]
    for name in ("test_accuracy", "test_loss", "weights_sha256", "train_loss"):
        assert second[name] == first[name]
    assert second["goodput"]["launches"] == 2 and second["goodput"]["steps_repeated"] == 0
    assert second["goodput"]["share"] == pytest.approx(
        second["goodput"]["seconds"]["steps"] / sum(second["goodput"]["seconds"].values()), abs=1e-3)

    # Stopped in the middle of an evaluation, a run saves its step without it, and makes up for it.
    other = tmp_path / "other"
    result, _, attending = train(strategy(1), other, monkeypatch, until="batch 1 of the evaluation of test")
    assert (result.status, result.step, result.saved_step) == ("preempted", 4, 4)
    assert attending.beats[-1] == "the last checkpoint" and metrics(other, "evaluation") == []
    _, third, _ = train(strategy(1), other, monkeypatch)
    assert (third["weights_sha256"], third["best"]) == (second["weights_sha256"], second["best"])
    assert [(r["step"], r["loss"]) for r in metrics(other, "evaluation")] == [
        (r["step"], r["loss"]) for r in metrics(tmp_path, "evaluation")] and len(metrics(other, "evaluation")) == 2
