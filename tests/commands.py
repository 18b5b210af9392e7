"""Running the real command in real processes, as a user does."""
import contextlib
import functools
import io
import json
import os
import pathlib
import signal
import subprocess
import sys
import tempfile
import time

import pytest

from tests import forking

REPOSITORY = pathlib.Path(__file__).resolve().parent.parent
forks = None


def environment():
    """The environment of a child: this checkout's code and nothing of this process's own; see also surroundings."""
    inherited = {k: v for k, v in os.environ.items() if k not in ("TF_CPP_MIN_LOG_LEVEL", "COLUMNS", "NO_COLOR")}
    return {**inherited, "PYTHONPATH": str(REPOSITORY), "PYTHONUNBUFFERED": "1"}


def mirrorline(*arguments, cwd, timeout=1800, fresh=False, module="launch"):
    """Runs `mirrorline ARGUMENTS`, see `start`; returns the completed process with text output."""
    process = start(*arguments, cwd=cwd, fresh=fresh, module=module)
    try:
        out, errors = process.communicate(timeout=timeout)
    finally:
        process.kill()
    return subprocess.CompletedProcess(process.args, process.returncode, out, errors)


def succeed(*arguments, cwd, timeout=1800):
    """Runs `mirrorline ARGUMENTS`, which have to end well; returns the completed process."""
    done = mirrorline(*arguments, cwd=cwd, timeout=timeout)
    assert done.returncode == 0, f"mirrorline {' '.join(arguments)}: exit {done.returncode}: {done.stderr[-800:]}"
    return done


def answers(lines, cwd):
    """Runs command lines (lists of text) one after another in one process; returns [(code, output, errors)]."""
    lines = [list(map(str, _short(tuple(line)))) for line in lines]
    done = mirrorline(json.dumps(lines), cwd=cwd, module="tests.several")
    assert done.returncode == 0, done.stderr[-800:]
    # Predictions go to the descriptor itself, before this line.
    return [tuple(found) for found in json.loads(done.stdout.splitlines()[-1])]


def start(*arguments, cwd, fresh=False, more=None, module="launch"):
    """Starts `mirrorline ARGUMENTS`; returns the running process, with text pipes.

    With `fresh`, and wherever no forks were offered, it starts from nothing; else see tests.forking. `more` is added to
    its environment. Another `module` than that of the command may lie in `cwd`.
    """
    arguments = _short(arguments)
    env = {**environment(), **(more or {})}
    if forks and not fresh:
        return forks.start(arguments, cwd, env, module)
    return subprocess.Popen([sys.executable, "-m", module, *arguments], cwd=cwd, env=env, encoding="utf-8",
                            stdout=subprocess.PIPE, stderr=subprocess.PIPE, stdin=subprocess.DEVNULL)


def _short(arguments):
    """Limits TensorBoard to scalars unless a test asks for more: the rest is a third of a short run."""
    if arguments[:1] != ("train",) or any(str(text).startswith(("--tensorboard", "--help")) for text in arguments):
        return arguments
    return ("train", "--tensorboard=scalars", *arguments[1:])


@contextlib.contextmanager
def forked():
    """Lets commands be forked for a while, see tests.forking."""
    global forks
    forks = forking.Forks({"args": [sys.executable, "-m", "tests.forking"], "cwd": REPOSITORY, "env": environment()})
    try:
        yield
    finally:
        forks = forks.close()


def with_forked_children(*arguments, cwd):
    """Runs `mirrorline ARGUMENTS` in this process; what it starts through Processes is forked, see tests.forking.

    Returns:
      The completed process with text output.
    """
    from launch import __main__ as command_line
    from pipeline import processes
    patch, out, errors = pytest.MonkeyPatch(), io.StringIO(), io.StringIO()
    patch.setattr(processes.Processes, "start", functools.partialmethod(start_forked, processes.Processes.start))
    patch.chdir(cwd)
    patch.setenv("PYTHONPATH", str(REPOSITORY))
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(errors):
            code = command_line.main(list(arguments))
    finally:
        patch.undo()
    return subprocess.CompletedProcess(arguments, code, out.getvalue(), errors.getvalue())


def start_forked(self, unforked, *arguments):
    """Stands for Processes.start: the same module with the same arguments; a script starts from nothing."""
    if arguments[0] != "-m":
        return unforked(self, *arguments)
    errors, (_, module, *rest) = tempfile.TemporaryFile(), arguments
    with open(os.devnull, "wb") as nothing:
        pid = forks.fork(module, rest, os.getcwd(), environment(), nothing.fileno(), errors.fileno())
    process = forking.Forked(arguments, pid)
    process.errors = errors
    self._running.append(process)
    return process


def metrics(workdir, kind=None):
    """Returns the records of a run's metrics.jsonl, whole lines only."""
    path = pathlib.Path(workdir) / "metrics.jsonl"
    if not path.exists():
        return []
    lines = path.read_text().split("\n")[:-1]
    records = [json.loads(line) for line in lines]
    return [r for r in records if kind is None or r["kind"] == kind]


def result(workdir):
    """Returns a run's result.json."""
    return json.loads((pathlib.Path(workdir) / "result.json").read_text())


def kill_at_step(process, workdir, step, number=signal.SIGKILL, timeout=1800):
    """Sends a signal once metrics.jsonl has a step; returns (exit code, standard error) of the process."""
    deadline = time.monotonic() + timeout
    while process.poll() is None and time.monotonic() < deadline:
        if any(r["step"] >= step for r in metrics(workdir)):
            break
        time.sleep(0.02)
    process.send_signal(number)
    _, errors = process.communicate(timeout=600)
    return process.returncode, errors


def assert_every_step_once(workdir, steps):
    """Checks metrics.jsonl and TensorBoard's files: every step from 1 on stands there exactly once, in order."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    expected = list(range(1, steps + 1))
    assert [r["step"] for r in metrics(workdir, "train")] == expected
    accumulator = EventAccumulator(str(pathlib.Path(workdir) / "tensorboard" / "train"), size_guidance={"scalars": 0})
    accumulator.Reload()
    assert [e.step for e in accumulator.Scalars("loss")] == expected
    written = {r["step"]: r["loss"] for r in metrics(workdir, "train")}
    for event in accumulator.Scalars("loss"):
        assert abs(event.value - written[event.step]) <= 1e-5 * max(1.0, abs(event.value))
    evaluations = [r["step"] for r in metrics(workdir, "evaluation")]
    assert evaluations == sorted(set(evaluations))
