"""What make acceptance does with a real Ray on this machine; needs the extra ray.

    python -m tests.launch.cluster.ray_cells
"""
import contextlib
import datetime
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
                            stdout=open(folder / "said", "w"), stderr=subprocess.STDOUT)  # noqa: SIM115


def left(mark):
    """Returns the command lines of processes that have inherited a mark."""
    found = []
    for folder in pathlib.Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if f"{MARK}={mark}".encode() in (folder / "environ").read_bytes():
                found.append((folder / "cmdline").read_bytes().replace(b"\0", b" ").decode()[:80])
    return found


def killed():
    """A worker that is killed under Ray: the group starts anew, with the weights of a run nobody touched."""
    with tempfile.TemporaryDirectory() as name:
        folder, mark = pathlib.Path(name), f"ray-{os.getpid()}"
        assert launch(folder / "whole").wait(timeout=300) == 0, (folder / "whole/said").read_text()[-2000:]
        process = launch(folder / "ray", "--engine=ray", "--max_restarts=2", mark=mark)
        run = folder / "ray/run"
        wait_for(lambda: any(r["step"] >= 20 for r in metrics(run, "train")) or process.poll() is not None, 240)
        trainer = int(re.findall(r"process (\d+), ", (run / "workers/1.log").read_text())[-1])
        before = sum(r["event"] == "start" for r in records(run / "launches.jsonl"))
        at = time.time()
        os.kill(trainer, signal.SIGKILL)

        def begun():
            starts = [r for r in records(run / "launches.jsonl") if r["event"] == "start"]
            return len(starts) > before and starts[-1]

        wait_for(begun, 240)
        assert process.wait(timeout=240) == 0, (folder / "ray/said").read_text()[-3000:]
        assert result(run)["weights_sha256"] == result(folder / "whole/run")["weights_sha256"]
        assert_every_step_once(run, STEPS)
        first = min(r["wall_time"] for r in metrics(run, "train") if r["wall_time"] > begun()["wall_time"])
        wait_for(lambda: not left(mark), 60)
        started = re.findall(r"--- attempt .*, (\S+)\n", (run / "workers/0.log").read_text())[-1]
        return {"weights_sha256": result(run)["weights_sha256"], "seconds_to_the_next_step": round(first - at, 1),
                "of_these_the_start_of_the_trainer": round(
                    first - datetime.datetime.fromisoformat(started).timestamp(), 0)}


def cells():
    """Yields (name, function, arguments)."""
    yield "Ray: a killed worker, the same weights", killed, ()


if __name__ == "__main__":
    for cell, function, arguments in cells():
        print(json.dumps({cell: function(*arguments)}, indent=1), flush=True)
