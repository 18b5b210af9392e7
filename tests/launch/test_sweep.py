"""mirrorline sweep as a user runs it: real trainings, one that diverges, one killed and resumed."""
import json
import os
import signal
import threading
import time
import types

import pytest

from launch import __main__ as command_line
from pipeline.config import RuntimeConfig
from pipeline.distributed import cuda
from pipeline.errors import UsageError
from pipeline.sweep import run
from pipeline.sweep import trials as trial_processes
from tests import commands
from tests.commands import metrics, mirrorline, result, start

FIXED = ("sweep", "--model=mlp", "--augment=", "--steps=32", "--subset=8", "--evaluate_every=4", "--checkpoint_every=4",
         "--steps_per_loop=1", "--on_divergence=stop", "--divergence_steps=2", "--seed=3")
REAL = (*FIXED, "--search=grid", "--space=learning_rate=0.01|1e30", "--output=out")


# subprocess whose processes are forked, see tests.forking.
FORKING = types.SimpleNamespace(run=lambda arguments, **_: mirrorline(*arguments[3:], cwd=os.getcwd(),
                                                                      module=arguments[2]))


class Forked:
    """A trial that is forked (see tests.forking), with its output in its log."""

    def __init__(self, arguments, log):
        module, *rest = arguments
        assert module == "launch"
        self._process = commands.start(*rest, cwd=os.getcwd())
        self._log = open(log, "ab")  # noqa: SIM115
        self._copies = [threading.Thread(target=lambda pipe=pipe: self._log.write(pipe.read().encode()))
                        for pipe in (self._process.stdout, self._process.stderr)]
        for copy in self._copies:
            copy.start()

    def poll(self):
        """Returns the exit code once its log is whole."""
        if self._process.poll() is not None and not self._log.closed:
            for copy in self._copies:
                copy.join()
            self._log.close()
        return self._process.returncode

    def __getattr__(self, name):
        return getattr(self._process, name)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with a sweep that was killed and resumed (out)."""
    folder, patch = tmp_path_factory.mktemp("sweep"), pytest.MonkeyPatch()
    patch.chdir(folder)
    patch.setattr(trial_processes, "start_process", Forked)
    try:
        first = start(*REAL, cwd=folder)
        deadline = time.monotonic() + 600
        while not list((folder / "out" / "trial-0001" / "checkpoints").glob("ckpt-[1-9]*.manifest.json")):
            assert time.monotonic() < deadline and first.poll() is None
            time.sleep(0.01)
        alive = running(folder)
        first.kill()
        first.communicate(timeout=600)
        while (left := running(folder)) and time.monotonic() < deadline:
            time.sleep(0.02)
        (folder / "killed.json").write_text(json.dumps({"alive": len(alive), "left": len(left), "reached": len(metrics(
            folder / "out" / "trial-0001", "train"))}))
        done = commands.subprocess.CompletedProcess(REAL, *resume())
    finally:
        patch.undo()
    return {"path": folder, "done": done}


def resume():
    """Resumes the sweep in this process; returns (exit code, standard output)."""
    import contextlib
    import io
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        return command_line.main(list(REAL)), out.getvalue()


def running(folder):
    """Returns the process ids of trials whose sweep runs in a folder."""
    found = []
    for name in filter(str.isdigit, os.listdir("/proc")):
        try:
            with open(f"/proc/{name}/cmdline", encoding="utf-8", errors="replace") as file:
                if "\0launch\0train\0" in file.read() and os.readlink(f"/proc/{name}/cwd") == str(folder):
                    found.append(int(name))
        except OSError:  # Gone meanwhile.
            continue
    return found


def stored(path):
    """Returns what sweep.json holds."""
    return json.loads((path / "sweep.json").read_text())


def test_no_training_outlives_a_sweep_that_is_killed(folder):
    killed = json.loads((folder["path"] / "killed.json").read_text())
    assert killed["alive"] == 1 and killed["left"] == 0 and 4 <= killed["reached"] < 32
    starts = [json.loads(line) for line in (folder["path"] / "out/trial-0001/launches.jsonl").read_text().splitlines()]
    assert [r["step"] > 0 for r in starts if r["event"] == "start"] == [False, True]


@pytest.mark.acceptance
def test_a_resumed_sweep_is_what_an_uninterrupted_one_is(folder):
    whole = mirrorline(*REAL[:-1], "--trials=1", "--output=whole", "--verbosity=quiet", cwd=folder["path"])
    assert whole.returncode == 0, whole.stderr
    one, other = stored(folder["path"] / "whole"), stored(folder["path"] / "out")
    for trial in (*one["trials"], *other["trials"]):
        assert trial.pop("seconds") > 0
    assert one["trials"] == other["trials"][:1] and one["best"] == other["best"]
    assert result(folder["path"] / "whole/trial-0001")["weights_sha256"] == result(
        folder["path"] / "out/trial-0001")["weights_sha256"]


def test_the_leaderboard_is_of_the_validation_split(folder):
    sweep, out = stored(folder["path"] / "out"), folder["done"].stdout
    assert folder["done"].returncode == 0 and sweep["complete"]
    assert [trial["status"] for trial in sweep["trials"]] == ["finished", "failed"]
    assert "the training loss diverged in steps" in sweep["trials"][1]["message"]
    for trial in sweep["trials"][:1]:
        records = metrics(folder["path"] / "out" / f"trial-{trial['number']:04d}", "evaluation")
        assert [e["accuracy"] for e in trial["evaluations"]] == [e["accuracy"] for e in records]
        assert {e["split"] for e in records} == {"validation"} and trial["examples"] == records[-1]["examples"] == 144
    chosen = sweep["best"]
    assert chosen["accuracy"] == sweep["trials"][0]["evaluations"][-1]["accuracy"]
    found = result(folder["path"] / "out" / f"trial-{chosen['trial']:04d}")
    assert chosen["test_accuracy"] == found["test_accuracy"] and found["selected_on"] == "validation"
    assert f"best    trial {chosen['trial']}: validation accuracy {chosen['accuracy']:.2%} of 144" in out
    assert f"its test accuracy, which selected nothing, is {found['test_accuracy']:.2%}" in out
    assert "2 of the 2 combinations, grid search" in out
    assert "where there is none, 0.1 of the training examples" in " ".join(out.split())
    assert out.count(f"{found['test_accuracy']:.2%}") == 1  # Of no other trial, and in no table.
    assert (folder["path"] / "out" / "leaderboard.csv").read_text().count("\n") == 3


def test_the_best_flag_file_has_the_settings_of_that_run(folder):
    """In the directory of the trial they are accepted, and nothing is left to train."""
    trial = f"out/trial-{stored(folder['path'] / 'out')['best']['trial']:04d}"
    before = result(folder["path"] / trial)
    done = mirrorline("train", "--flagfile=out/best.flags", f"--workdir={trial}", cwd=folder["path"])
    assert done.returncode == 0, done.stderr
    assert result(folder["path"] / trial)["weights_sha256"] == before["weights_sha256"]


@pytest.mark.acceptance
def test_the_best_flag_file_is_that_run(folder):
    best = stored(folder["path"] / "out")["best"]["trial"]
    done = mirrorline("train", "--flagfile=out/best.flags", "--workdir=again", cwd=folder["path"])
    assert done.returncode == 0, done.stderr
    assert result(folder["path"] / "again")["weights_sha256"] == result(
        folder["path"] / "out" / f"trial-{best:04d}")["weights_sha256"]


def test_a_finished_sweep_trains_nothing(folder, monkeypatch, capsys):
    monkeypatch.chdir(folder["path"])
    before = {path: path.stat().st_mtime_ns for path in (folder["path"] / "out").glob("trial-*/*")}
    assert command_line.main(list(REAL)) == 0
    assert "2 done before" in capsys.readouterr().out
    assert {path: path.stat().st_mtime_ns for path in (folder["path"] / "out").glob("trial-*/*")} == before
    code = command_line.main([*REAL, "--learning_rate=0.1"])
    assert (code, "--space varies it" in capsys.readouterr().err) == (2, True)
    assert command_line.main([*REAL, "--batch_size=16"]) == 2
    assert "holds a sweep with other settings: batch_size 32 (now 16)" in capsys.readouterr().err


class Slow:
    """A trial that runs until it is asked to save and stop."""

    def __init__(self, arguments, log):
        self.code = None
        threading.Timer(0.3, os.kill, (os.getpid(), signal.SIGINT)).start()

    def poll(self):
        """Returns the exit code."""
        return self.code

    def send_signal(self, number):
        """Ends as train does."""
        self.code = 75 if number == signal.SIGTERM else 1


def test_stopped_by_the_keyboard_it_says_how_to_resume(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(trial_processes, "start_process", Slow)
    code = command_line.main(["sweep", "--space=learning_rate=log:1e-4..1e-1", "--trials=3"])
    assert (code, capsys.readouterr().err) == (
        75, "stopped with 0 of 3 trials done; run the same command again to continue\n")
    assert [trial["status"] for trial in stored(tmp_path / "runs/sweep-digits-cnn")["trials"]] == ["stopped"]


@pytest.mark.parametrize("arguments, line", [
    ([], "--space is what to vary"), (["--space=lr=1|2"], "--space: unknown flag 'lr': did you mean learning_rate?"),
    (["--space=learning_rate=0..0.1:3"], "--space: --learning_rate must be > 0; found 0"),
    (["--space=learning_rate=0.1..1", "--search=grid"], "--search=grid needs sets of values"),
    (["--space=epochs=1|2", "--epochs=3"], "--epochs=3 is given, and --space varies it"),
    (["--space=seed=1|2", "--workdir=x"], "--workdir is that of one run: give the folder of all trials with --output"),
    (["--space=seed=1|2", "--validation_split=0"], "--validation_split=0: trials are compared on a validation split"),
    (["--space=batch_size=8|16", "--subset=5"], "--subset=5 counts batches"),
    (["--space=steps=1|2", "--epochs=3"], "--space, with steps=1: --epochs=3 and --steps=1 both set the length"),
    (["--space=seed=1|2", "--search=smart"], "unknown --search 'smart'"),
])
def test_wrong_use_is_one_line_and_leaves_nothing(tmp_path, monkeypatch, capfd, arguments, line):
    monkeypatch.chdir(tmp_path)
    code = command_line.main(["sweep", *arguments])
    out, err = capfd.readouterr()
    assert (code, out) == (2, "") and err.startswith(f"mirrorline sweep: {line}") and err.count("\n") == 1, err
    assert os.listdir(tmp_path) == []


def test_a_model_that_does_not_exist_is_found_before_anything_starts(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(run, "subprocess", FORKING)
    code = command_line.main(["sweep", "--space=model=cnn|cnm"])
    out, err = capsys.readouterr()
    assert (code, out) == (2, "") and os.listdir(tmp_path) == []
    assert err.startswith("mirrorline sweep: --space: unknown model 'cnm': did you mean 'cnn'?")


@pytest.mark.parametrize("gpus, devices, parallel, places", [
    (0, (), 3, [{}, {}, {}]), (4, (), 1, [{}]), (4, (), 2, [{"devices": ("0",)}, {"devices": ("1",)}]),
    (4, ("3", "1"), 2, [{"devices": ("3",)}, {"devices": ("1",)}])])
def test_each_parallel_trial_has_its_own_gpu(monkeypatch, gpus, devices, parallel, places):
    monkeypatch.setattr(cuda, "count_gpus", lambda: gpus)
    assert run.choose_places(RuntimeConfig(devices=devices), parallel) == places
    if gpus:
        with pytest.raises(UsageError, match="--parallel=5 on 4 GPUs: each trial takes one; give at most 4"):
            run.choose_places(RuntimeConfig(), 5)
        with pytest.raises(UsageError, match="one GPU; found --replicas=2"):
            run.choose_places(RuntimeConfig(replicas=2), 2)
