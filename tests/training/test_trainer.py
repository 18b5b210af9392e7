"""The end of a run: metrics, then TensorBoard, with watchdog and stop requests; the time of callbacks is recorded."""
import contextlib

import pytest

from pipeline.callbacks import Callback
from pipeline.console import Console
from pipeline.files import read_json
from pipeline.monitoring.goodput import GoodputTracker
from pipeline.run_directory import RunDirectory
from pipeline.training.trainer import Trainer
from tests.commands import metrics
from tests.training import small

STEPS = 6
PASS = "batch {} of the outputs for test"


class Attending(contextlib.nullcontext):
    """Stands in for the watchdog and for the user: asks to stop after the beat `until`.

    Attributes:
      beats: texts of the beats, in order.
      found: result.json at the first forward pass of the end.
      phases: phases of the display.
    """

    def __init__(self, directory, until):
        super().__init__()
        self.directory, self.until = directory, until
        self.beats, self.phases, self.found = [], [], None

    def beat(self, text):
        """Records the text."""
        self.beats.append(text)
        if text == PASS.format(1):
            self.found = read_json(self.directory.file("result.json"))

    def within(self, seconds):
        """Has no timeout."""
        return contextlib.nullcontext()

    def __call__(self):
        return self.until in self.beats


class Booked(Callback):
    """A callback that keeps the categories in which the time of windows and evaluations is measured."""

    def __init__(self):
        self.opened, self.seen = [], []

    def on_window(self, window):
        self.seen.append(("window", *self.opened))

    def on_evaluation(self, evaluated):
        self.seen.append(("evaluation", *self.opened))

    def follow(self, monkeypatch):
        """Follows the measurements of every tracker from here on; returns this."""
        measure = GoodputTracker.measure

        @contextlib.contextmanager
        def noted(tracker, kind):
            self.opened.append(kind)
            with measure(tracker, kind):
                yield
            self.opened.pop()

        monkeypatch.setattr(GoodputTracker, "measure", noted)
        return self


def train(strategy, folder, until=None, callbacks=()):
    """Trains with a Trainer; returns (RunResult, contents of result.json, Attending)."""
    experiment = small.build(strategy, precision="float32", steps=STEPS, evaluate_every="4", steps_per_loop=1,
                             verbosity="quiet")
    directory = RunDirectory(str(folder))
    with directory.claimed():
        trainer = Trainer(experiment, directory, console=Console(quiet=True), callbacks=callbacks)
        trainer.watchdog = trainer.stop_request = attending = Attending(directory, until)
        trainer.progress.phase = attending.phases.append
        result, described = trainer.run()
    assert described == read_json(directory.file("result.json"))
    return result, described, attending


def test_the_end_of_a_run_can_be_stopped_and_is_completed_by_the_next_start(tmp_path, strategy, monkeypatch):
    booked = Booked().follow(monkeypatch)
    curves = tmp_path / "tensorboard" / "test" / "penultimate.tsv"
    result, first, attending = train(strategy(1), tmp_path, PASS.format(2), (booked,))
    assert (result.status, first["status"], result.step) == ("preempted", "preempted", STEPS)
    assert [text for text in attending.beats if "outputs" in text] == [PASS.format(1), PASS.format(2)]
    assert not curves.exists() and attending.phases[-1] == "writing for TensorBoard"
    found = attending.found
    assert found["status"] == "preempted" and found["test_accuracy"] == first["test_accuracy"] > 0
    window, evaluation = ("window", "reporting"), ("evaluation", "reporting")
    assert booked.seen == [*[window] * 4, evaluation, *[window] * 2, evaluation]

    result, second, attending = train(strategy(1), tmp_path)
    assert (result.status, second["status"]) == ("finished", "finished") and curves.exists()
    assert [text for text in attending.beats if "outputs" in text] == [PASS.format(i) for i in range(1, 24)]
    for name in ("test_accuracy", "test_loss", "weights_sha256", "train_loss"):
        assert second[name] == first[name]
    assert second["goodput"]["launches"] == 2 and second["goodput"]["steps_repeated"] == 0
    assert second["goodput"]["share"] == pytest.approx(
        second["goodput"]["seconds"]["steps"] / sum(second["goodput"]["seconds"].values()), abs=1e-3)

    # Stopped during an evaluation, a run saves its step without it, and evaluates after the resume.
    other = tmp_path / "other"
    result, _, attending = train(strategy(1), other, "batch 1 of the evaluation of test")
    assert (result.status, result.step, result.saved_step) == ("preempted", 4, 4)
    assert attending.beats[-1] == "the last checkpoint" and metrics(other, "evaluation") == []
    _, third, _ = train(strategy(1), other)
    assert (third["weights_sha256"], third["best"]) == (second["weights_sha256"], second["best"])
    assert [(r["step"], r["loss"]) for r in metrics(other, "evaluation")] == [
        (r["step"], r["loss"]) for r in metrics(tmp_path, "evaluation")] and len(metrics(other, "evaluation")) == 2
