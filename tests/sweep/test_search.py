"""The loop of a sweep with processes that stand in for trainings: failed, pruned, stopped, resumed."""
import json
import os
import signal
import subprocess
import sys

import pytest

from pipeline.config import ExperimentConfig
from pipeline.errors import UsageError
from pipeline.monitoring.metrics_log import parse_line
from pipeline.sweep import trials as trial_processes
from pipeline.sweep.leaderboard import PlainLeaderboard
from pipeline.sweep.records import FINISHED, SweepDirectory, Trial
from pipeline.sweep.search import Search
from pipeline.sweep.space import parse_space

STAND_IN = os.path.join(os.path.dirname(os.path.abspath(__file__)), "stand_in.py")
FLAGS = ExperimentConfig.from_flat({"epochs": 4.0, "validation_split": 0.1}).flat()


@pytest.fixture(autouse=True)
def stand_in(monkeypatch):
    """Starts STAND_IN in place of trainings."""
    def start(arguments, log):
        with open(log, "ab") as file:
            return subprocess.Popen([sys.executable, "-S", STAND_IN, *arguments], stdout=file, stderr=file)

    monkeypatch.setattr(trial_processes, "start_process", start)


class Sweep:
    """A grid over learning rates, in a folder."""

    def __init__(self, folder, rates, prune="none", places=1, behaviours=None, stop=None):
        space = parse_space("learning_rate=" + "|".join(map(str, rates)))
        self.directory = SweepDirectory(str(folder), {"space": space.text, "search": "grid", "prune": prune,
                                                      "metric": "accuracy", "flags": FLAGS})
        self.directory.claim()
        self.lines, self.places_used = [], set()

        def command(trial, place):
            self.places_used.add(place)
            return ["train", f"--learning_rate={trial.values['learning_rate']}",
                    f"--workdir={self.directory.file(trial.name)}",
                    f"--behaviour={(behaviours or {}).get(trial.number, 'plain')}"]

        self.search = Search(self.directory, space, len(rates), command, places,
                             PlainLeaderboard("accuracy", len(rates), self.lines.append), stop or (lambda: False))

    def run(self):
        """Runs; returns the trials as sweep.json has them."""
        try:
            self.search.run()
        finally:
            self.directory.close()
        return self.stored()

    def stored(self):
        """Returns the trials of sweep.json."""
        with open(self.directory.file("sweep.json"), encoding="utf-8") as file:
            return json.load(file)["trials"]


def test_failures_are_recorded_and_the_sweep_continues(tmp_path):
    sweep = Sweep(tmp_path / "out", (0.5, 0.9, 0.8, 0.7, 0.6))
    found = sweep.run()
    assert [one["status"] for one in found] == ["finished", "failed", "failed", "failed", "finished"]
    assert [one["message"] for one in found[1:4]] == ["the loss diverged in steps 1 to 2 (loss nan)",
                                                      "unknown model 'cnm'", "its process was ended by SIGKILL"]
    assert [(e["step"], e["epoch"], e["accuracy"]) for e in found[0]["evaluations"]] == [
        (10, 1.0, 0.51), (20, 2.0, 0.52), (30, 3.0, 0.53), (40, 4.0, 0.54)]
    assert found[0]["examples"] == 11 and found[0]["seconds"] > 0 and not sweep.search.stopped
    assert "trial 2/5  FAILED: the loss diverged in steps 1 to 2 (loss nan)" in sweep.lines
    assert any(line.startswith("trial 5/5  validation accuracy 64.00% (the best so far)") for line in sweep.lines)
    with open(sweep.directory.file("leaderboard.csv"), encoding="utf-8") as file:
        rows = [line.split(",") for line in file.read().splitlines()]
    assert rows[1][:4] == ["1", "trial-0005", "finished", "0.64"] and rows[1][8] == "0.6"
    assert [row[1] for row in rows[1:]] == ["trial-0005", "trial-0001", "trial-0002", "trial-0003", "trial-0004"]


def test_a_hopeless_trial_is_stopped_and_marked(tmp_path):
    rates = (0.3, 0.32, 0.34, 0.36, 0.38, 0.1, 0.4)
    found = Sweep(tmp_path / "out", rates, "median", behaviours={6: "slow"}).run()  # Nothing else would end it.
    assert [one["status"] for one in found] == ["finished"] * 5 + ["pruned", "finished"]
    assert len(found[5]["evaluations"]) == 2 and found[5]["epochs"] == 4.0


def test_three_equal_usage_errors_end_the_sweep_and_are_retried(tmp_path):
    """Different options of the same wrong kind: no trial of the space would finish."""
    sweep = Sweep(tmp_path / "out", (0.5, 0.6, 0.4, 0.3))
    fails, plain = {"0.6", "0.4", "0.3"}, sweep.search.command
    sweep.search.command = lambda trial, place: [argument.replace(f"={rate}", "=0.8") if argument.startswith(
        "--learning_rate") else argument for argument in plain(trial, place)
        for rate in [str(trial.values["learning_rate"]) if str(trial.values["learning_rate"]) in fails else "none"]]
    with pytest.raises(UsageError, match="3 trials in a row failed alike: unknown model 'cnm'"):
        sweep.run()
    assert [one["status"] for one in sweep.stored()] == ["finished", "stopped", "stopped", "stopped"]
    again = Sweep(tmp_path / "out", (0.5, 0.6, 0.4, 0.3))
    assert [one["status"] for one in again.run()] == ["finished"] * 4
    assert not any(line.startswith("trial 1/4") for line in again.lines)  # What is done is kept.


def test_a_stopped_sweep_lets_trials_save_and_resumes(tmp_path):
    rates, asked = (0.5, 0.6, 0.4), []
    sweep = Sweep(tmp_path / "out", rates, behaviours={2: "wait"}, stop=lambda: bool(asked))
    note = sweep.search._note

    def after_two(process, evaluation):
        note(process, evaluation)
        if process.trial.number == 2 and len(process.trial.evaluations) == 2:
            asked.append(True)

    sweep.search._note = after_two
    found = sweep.run()
    assert sweep.search.stopped and [one["status"] for one in found] == ["finished", "stopped"]
    assert [e["step"] for e in found[1]["evaluations"]] == [10, 20]
    (tmp_path / "out" / "go").touch()
    again = Sweep(tmp_path / "out", rates, behaviours={2: "wait"})
    resumed = again.run()
    whole = Sweep(tmp_path / "whole", rates).run()
    for one in (*resumed, *whole):
        one.pop("seconds")
    assert resumed == whole
    assert again.lines[0] == "trial 2/3 continues after 2 epochs  learning_rate=0.6"


def test_a_signal_to_every_process_stops_the_sweep_resumably(tmp_path, monkeypatch):
    """A trial then has a signal already when the sweep asks it to save, and ends at the second one."""
    asked, started, start = [], [], trial_processes.start_process
    monkeypatch.setattr(trial_processes, "start_process", lambda *a: started.append(start(*a)) or started[-1])
    sweep = Sweep(tmp_path / "out", (0.5, 0.6), behaviours={2: "busy"}, stop=lambda: bool(asked))
    note = sweep.search._note

    def after_two(process, evaluation):
        note(process, evaluation)
        if process.trial.number == 2 and len(process.trial.evaluations) == 2:
            started[-1].send_signal(signal.SIGINT)  # The sweep's will be SIGTERM: two of one kind may become one.
            asked.append(True)

    sweep.search._note = after_two
    assert [one["status"] for one in sweep.run()] == ["finished", "stopped"]
    assert started[-1].returncode == 128 + signal.SIGTERM and sweep.search.stopped
    assert [one["status"] for one in Sweep(tmp_path / "out", (0.5, 0.6)).run()] == ["finished"] * 2


def test_only_new_lines_of_a_log_are_read(tmp_path, monkeypatch):
    parsed = []
    monkeypatch.setattr(trial_processes, "parse_line", lambda line: parsed.append(line) or parse_line(line))
    (tmp_path / "config.json").write_text(json.dumps({"config": {"batch_size": 10}, "plan": {"total_steps": 40},
                                                      "data": {"num_train": 100, "num_validation": 11}}))
    process = trial_processes.TrialProcess.__new__(trial_processes.TrialProcess)
    process.workdir, process._plan = str(tmp_path), None
    process._size, process._read, process._last = None, 0, b""
    path = tmp_path / "metrics.jsonl"

    def line(step, loss=0.5):
        return json.dumps({"kind": "evaluation", "step": step, "accuracy": 0.5, "loss": loss, "examples": 11}) + "\n"

    def news():
        return [(one["step"], one["loss"]) for one in process.news() or ()]

    path.write_text(line(10) + '{"kind": "train", "step": 11}\n' + line(20) + line(30)[:20])
    assert news() == [(10, 0.5), (20, 0.5)] and process.news() is None
    path.write_text(path.read_text()[:-20] + line(30))
    assert news() == [(30, 0.5)]
    assert len(parsed) == 3  # Every line once.
    path.write_text(line(10) + line(20, 0.25) + line(30, 0.25) + line(40))  # It has gone back to step 10.
    assert news() == [(10, 0.5), (20, 0.25), (30, 0.25), (40, 0.5)]
    path.write_text(line(10))
    assert news() == [(10, 0.5)]
    assert [one["step"] for one in process.evaluations()] == [10]


def test_trials_of_another_process_are_seen(tmp_path):
    early = Sweep(tmp_path / "other", (0.5, 0.6)).directory
    settings = early.settings
    early, other = (SweepDirectory(str(tmp_path / "out"), settings) for _ in range(2))
    different = SweepDirectory(str(tmp_path / "out"), {**settings, "search": "random"})
    other.claim()
    other.trials.append(Trial(1, {"learning_rate": 0.5}, FINISHED))
    other.save()
    other.close()
    early.claim()
    assert [(trial.number, trial.status) for trial in early.trials] == [(1, FINISHED)]
    early.close()
    with pytest.raises(UsageError, match=r"search grid \(now random\)"):
        different.claim()
    early.claim()  # Who was refused has let go of it.
    early.close()


def test_several_trials_run_at_once_each_in_its_place(tmp_path):
    sweep = Sweep(tmp_path / "out", (0.5, 0.6, 0.4), places=2, behaviours={1: "meet", 2: "meet"})
    assert [one["status"] for one in sweep.run()] == ["finished"] * 3
    assert sweep.places_used == {0, 1}


def test_other_settings_in_the_same_folder_are_refused(tmp_path):
    sweep = Sweep(tmp_path / "out", (0.5, 0.6))
    sweep.run()
    settings = sweep.directory.settings
    assert len(SweepDirectory(sweep.directory.path, settings).trials) == 2
    for change, words in (({"space": {"learning_rate": "0.1|0.2"}},
                           r"space of learning_rate 0.5\|0.6 \(now 0.1\|0.2\)"),
                          ({"space": {}}, r"learning_rate 0.5\|0.6 \(now none\)"),
                          ({"search": "random"}, r"search grid \(now random\)"),
                          ({"flags": {**FLAGS, "epochs": 5.0}}, r"length 4 epochs \(now 5 epochs\)")):
        with pytest.raises(UsageError, match=words) as raised:
            SweepDirectory(sweep.directory.path, {**settings, **change})
        assert f"--output={sweep.directory.path}-2" in str(raised.value)
    with pytest.raises(UsageError, match="holds files that are not of a sweep"):
        SweepDirectory(str(tmp_path / "out" / "trial-0001"), settings)
    sweep.directory.claim()
    with pytest.raises(UsageError, match="is being written by process"):
        SweepDirectory(sweep.directory.path, settings).claim()
    sweep.directory.close()
