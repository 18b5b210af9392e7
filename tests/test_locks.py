"""One process at a time writes into a folder, also on file systems without flock.

No such file system can be had here without root: the system's answer is replaced, in this process and in children.
"""
import contextlib
import errno
import fcntl
import json
import os
import signal
import subprocess
import sys
import time

import pytest

from pipeline import locks
from pipeline.config import ExperimentConfig
from pipeline.errors import UsageError
from pipeline.export.publish import claimed
from pipeline.run_directory import RunDirectory, claim_folder
from pipeline.sweep.records import SweepDirectory
from pipeline.verification import installation
from tests.commands import environment, metrics, start
from tests.test_structure import SOURCES, imports, under

SETTINGS = {"space": {}, "search": "grid", "prune": "none", "flags": ExperimentConfig().flat(), "metric": "accuracy"}
WITHOUT = """
import errno, fcntl, os
def flock(file, operation):
    raise OSError(errno.{name}, os.strerror(errno.{name}))
fcntl.flock = flock
"""
HOLDING = """
import sys
from pipeline import locks
lock = locks.acquire(sys.argv[1])
print(flush=True)
sys.stdin.read()
"""
RUNNING = "import runpy\nrunpy.run_module('launch', run_name='__main__', alter_sys=True)\n"


@pytest.fixture(params=[None, "ENOSYS", "ENOLCK", "EOPNOTSUPP"])
def kind(request, monkeypatch):
    """The error of flock, None where it works."""
    if request.param:
        def flock(file, operation):
            number = getattr(errno, request.param)
            raise OSError(number, os.strerror(number))
        monkeypatch.setattr(fcntl, "flock", flock)
        monkeypatch.setattr(locks, "_warned", set())
    return request.param


def claim_run(folder):
    return RunDirectory(str(folder)).claimed()


def claim_sweep(folder):
    directory = SweepDirectory(str(folder), SETTINGS)
    directory.claim()
    return contextlib.closing(directory)


def claim_launch(folder):
    return claim_folder("--workdir", str(folder), "supervised", inside="workers")


CLAIMS = {"run": claim_run, "sweep": claim_sweep, "launch": claim_launch}


@pytest.mark.parametrize("claim", CLAIMS)
def test_folder_is_locked_once_and_again_after_release(tmp_path, kind, claim, capsys):
    for _ in range(2):
        with CLAIMS[claim](tmp_path / "own"):
            with pytest.raises(UsageError, match=rf"process {os.getpid()} on "), CLAIMS[claim](tmp_path / "own"):
                pass
            assert bool(list(tmp_path.rglob(".lock.owner"))) == bool(kind)
        assert not list(tmp_path.rglob(".lock.owner"))
    errors = capsys.readouterr().err
    assert errors.count("has no flock") == bool(kind) and errors.count("\n") == bool(kind)


def test_exports_into_one_folder_have_separate_versions(tmp_path, kind):
    with claimed(str(tmp_path / "out"), ("keras",)) as first, claimed(str(tmp_path / "out"), ("keras",)) as second:
        assert (first.version, second.version, second.replaced) == (1, 2, [])
        first.publish(["keras"])
    with claimed(str(tmp_path / "out"), ("keras",)) as third:
        assert third.version == 2 and [os.path.basename(path) for path in third.replaced] == ["2.unproved"] * 2
        third.publish(["keras"])
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


@pytest.mark.parametrize("kind", [None, "ENOSYS"], indirect=True)
def test_lock_of_a_killed_process_is_released(tmp_path, kind):
    (tmp_path / "sitecustomize.py").write_text(WITHOUT.format(name=kind) if kind else "")
    path = str(tmp_path / ".lock")
    env = {**environment(), "PYTHONPATH": f"{tmp_path}{os.pathsep}{environment()['PYTHONPATH']}"}
    child = subprocess.Popen([sys.executable, "-c", HOLDING, path], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                             env=env)
    child.stdout.readline()
    with pytest.raises(locks.Held, match=f"process {child.pid} on "):
        locks.acquire(path)
    child.kill()
    child.communicate()
    with locks.acquire(path), pytest.raises(locks.Held, match=f"process {os.getpid()} on "):
        locks.acquire(path)


@pytest.mark.parametrize("kind", ["ENOLCK"], indirect=True)
@pytest.mark.parametrize("change", [{"machine": "another"}, {"process": 2**22 + 1}, {"started": 1}, None])
def test_owner_that_has_ended_or_may_run_elsewhere(tmp_path, kind, change):
    path = str(tmp_path / ".lock")
    with locks.acquire(path):
        owner = json.loads((tmp_path / ".lock.owner").read_text())
    (tmp_path / ".lock.owner").write_text(json.dumps({**owner, **change}) if change else "")
    if change and "machine" not in change:
        locks.acquire(path).close()
    else:
        with pytest.raises(locks.Held, match=rf"where it has ended, remove {tmp_path}/\.lock\.owner"):
            locks.acquire(path)


def test_doctor_reports_missing_flock(tmp_path, kind):
    found = installation.check_workdir(str(tmp_path / "runs"))
    assert found.state == (installation.WARNING if kind else installation.OK)
    assert ("has no flock" in found.text) == bool(kind) and not list(tmp_path.iterdir())


@pytest.mark.acceptance
def test_training_continues_after_a_kill_without_flock(tmp_path):
    (tmp_path / "without_flock.py").write_text(WITHOUT.format(name="ENOSYS") + RUNNING)
    train = ("train", "--model=mlp", "--checkpoint_every=5", "--workdir=run", "--tensorboard=scalars", "--quiet",
             "--evaluate_every=100000")
    first = start(*train, "--steps=100000", cwd=tmp_path, module="without_flock")
    while first.poll() is None and not list((tmp_path / "run").glob("checkpoints/ckpt-[1-9]*.manifest.json")):
        time.sleep(0.02)
    second = start(*train, "--steps=100000", cwd=tmp_path, module="without_flock")
    _, errors = second.communicate()
    assert second.returncode == 2 and f"is being written by process {first.pid} on " in errors, errors
    first.send_signal(signal.SIGKILL)
    _, errors = first.communicate()
    assert errors.count("\n") == 1 and "has no flock (function not implemented): .lock.owner keeps" in errors, errors
    steps = metrics(tmp_path / "run", "train")[-1]["step"] + 1
    again = start(*train, f"--steps={steps}", "--allow=steps", cwd=tmp_path, module="without_flock")
    assert again.communicate() and again.returncode == 0
    assert [record["step"] for record in metrics(tmp_path / "run", "train")] == list(range(1, steps + 1))


def test_locks_are_acquired_in_one_module():
    users = [path for path, text in SOURCES.items() if any(under(name, "fcntl") for name in imports(text))]
    assert users == ["pipeline/locks.py"]
