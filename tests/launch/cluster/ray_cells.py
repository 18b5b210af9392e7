"""Cells of `make acceptance` with a real Ray on this machine; needs the extra ray: make acceptance EXTRAS=test,ray

    python -m tests.launch.cluster.ray_cells
"""
import contextlib
import datetime
import importlib.util
import json
import os
import pathlib
import re
import signal
import subprocess
import sys
import tempfile
import time

from tests.commands import REPOSITORY, assert_every_step_once, environment, metrics, result
from tests.launch.cluster.slurm_cells import STEPS, TRAIN
from tests.launch.cluster.supervised import MARK, records, wait_for


def launch(folder, *flags, mark="none"):
    """Starts `mirrorline launch --workers=2 FLAGS -- train ...`."""
    folder.mkdir()
    return subprocess.Popen([sys.executable, "-m", "launch", "launch", "--workers=2", *flags, "--", *TRAIN,
                             f"--steps={STEPS}", f"--workdir={folder / 'run'}"], cwd=REPOSITORY,
                            env={**environment(), MARK: mark, "RAY_USAGE_STATS_ENABLED": "0"}, text=True,
                            stdout=open(folder / "output", "w"), stderr=subprocess.STDOUT)  # noqa: SIM115


def left(mark):
    """Returns {process: command line} of those that have inherited a mark."""
    found = {}
    for folder in pathlib.Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if f"{MARK}={mark}".encode() in (folder / "environ").read_bytes():
                found[int(folder.name)] = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode()[:80]
    return found


@contextlib.contextmanager
def none_left(mark):
    """Ends the processes that have inherited a mark, where something fails."""
    try:
        yield
    finally:
        for pid in left(mark):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


def killed(rank):
    """A worker that is killed under Ray: all workers are restarted; the weights are those of an undisturbed run."""
    assert importlib.util.find_spec("ray"), (
        "Ray is not installed in this environment: make acceptance EXTRAS=test,ray (or pip install 'mirrorline[ray]')")
    mark = f"ray-{os.getpid()}-{rank}"
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as name, none_left(mark):
        folder = pathlib.Path(name)
        assert launch(folder / "whole", mark=mark).wait(timeout=600) == 0, output(folder / "whole")
        process, run = launch(folder / "ray", "--engine=ray", "--max_restarts=2", mark=mark), folder / "ray/run"
        wait_for(lambda: reached(run, 20) or process.poll() is not None, 600, "step 20 under Ray")
        assert process.poll() is None, output(folder / "ray")
        trainer = int(re.findall(r"process (\d+), ", (run / f"workers/{rank}.log").read_text())[-1])
        before, at = len(starts(run)), time.time()
        os.kill(trainer, signal.SIGKILL)
        assert process.wait(timeout=600) == 0, output(folder / "ray")
        assert len(starts(run)) == before + 1, starts(run)
        assert result(run)["weights_sha256"] == result(folder / "whole/run")["weights_sha256"], "other weights"
        assert_every_step_once(run, STEPS)
        first = min(r["wall_time"] for r in metrics(run, "train") if r["wall_time"] > starts(run)[-1]["wall_time"])
        wait_for(lambda: not left(mark), 120, "the end of all processes")
        began = datetime.datetime.fromisoformat(
            re.findall(r"--- attempt .*, (\S+)\n", (run / "workers/0.log").read_text())[-1]).timestamp()
        return {"weights_sha256": result(run)["weights_sha256"], "seconds_to_the_next_step": round(first - at, 1),
                "of_these_the_start_of_the_trainer": round(first - began)}


def output(folder):
    """Returns the end of what a launch wrote."""
    return (folder / "output").read_text()[-2000:]


def reached(run, step):
    """Tells whether a run has come to a step."""
    return any(r["step"] >= step for r in metrics(run, "train"))


def starts(run):
    """Returns the records of the chief's starts."""
    return [r for r in records(run / "launches.jsonl") if r["event"] == "start"]


def cells():
    """Yields (name, function, arguments)."""
    yield "ray: worker 1 killed, the same weights", killed, (1,)
    yield "ray: the chief killed, the same weights", killed, (0,)


if __name__ == "__main__":
    for cell, function, arguments in cells():
        print(json.dumps({cell: function(*arguments)}, indent=1), flush=True)
