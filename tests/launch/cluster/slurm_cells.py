"""Cells of `make acceptance` with a real Slurm of two nodes on this machine; see real_slurm for what they need.

    python -m tests.launch.cluster.slurm_cells [part of a cell's name]
"""
import json
import os
import pathlib
import random
import re
import signal
import subprocess
import sys
import tempfile
import time

from tests.commands import REPOSITORY, assert_every_step_once, environment, metrics, result
from tests.launch.cluster.real_slurm import Slurm
from tests.launch.cluster.supervised import records, wait_for

STEPS = 60
TRAIN = ("train", "--dataset=digits", "--model=three_apis", "--batch_size=96", "--evaluate_every=30",
         "--checkpoint_every=5", "--steps_per_loop=1", "--augment=flip,crop,mixup", "--tensorboard=scalars")
ENDS = ("COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL")


class Cluster:
    """A Slurm and the runs in its folder; a context manager."""

    def __init__(self):
        self._folder = tempfile.TemporaryDirectory()
        self.folder = pathlib.Path(self._folder.name)
        (self.folder / "slurm").mkdir()
        self.slurm = Slurm(self.folder / "slurm")
        self.slurm.environment.update(environment(), SLURM_CONF=self.slurm.environment["SLURM_CONF"])

    def __enter__(self):
        self.slurm.__enter__()
        return self

    def __exit__(self, *exception):
        self.slurm.__exit__()
        self._folder.cleanup()

    def script(self, name, *more, steps=STEPS, train=TRAIN):
        """Returns the printed batch script of a run."""
        return subprocess.run(
            [sys.executable, "-m", "launch", "launch", "--engine=slurm", "--print", "--workers=2", *more, "--", *train,
             f"--steps={steps}", f"--workdir={self.folder / name}"], cwd=REPOSITORY, env=environment(), text=True,
            stdout=subprocess.PIPE, check=True, timeout=60).stdout

    def submit(self, script, *options):
        """Submits it; returns the job's number."""
        return self.slurm.command("sbatch", "--parsable", *options, cwd=self.folder, text=script, succeeds=True).strip()

    def ended(self, job, seconds=600):
        """Waits for a job's end; returns its state."""
        return self.slurm.until_state(job, ENDS, seconds)["JobState"]

    def output(self, job):
        """Returns what a job wrote."""
        return (self.folder / f"slurm-{job}.out").read_text()

    def until_step(self, name, step, attempt=0):
        """Waits for a step of an attempt; returns the processes of its trainers by rank."""
        folder, found = self.folder / name, {}

        def started():
            for log in (folder / "workers").glob("[0-9].log"):
                line = re.findall(rf"--- attempt {attempt}, .*process (\d+), ", log.read_text())
                found.update({int(log.stem): int(number) for number in line})
            return len(found) == 2

        wait_for(started, 120, f"attempt {attempt} of {name}")
        wait_for(lambda: any(r["step"] >= step for r in metrics(folder, "train")), 240, f"step {step} of {name}")
        return found

    def attempts(self, name):
        """Returns the records of the attempts of a run."""
        return records(self.folder / name / "attempts.jsonl")


def parent(pid):
    """Returns the number of a process's parent."""
    return int(pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


# What is done to which rank, by a signal to the trainer or to the agent around it.
KILLS = {"worker 1 killed": (1, signal.SIGKILL, False), "the chief killed": (0, signal.SIGKILL, False),
         "the agent of worker 1 killed": (1, signal.SIGKILL, True), "worker 1 killed again": (1, signal.SIGKILL, False),
         "the chief killed again": (0, signal.SIGKILL, False),
         "the agent of the chief killed": (0, signal.SIGKILL, True)}
STOPPED = {"worker 1 stopped": (1, signal.SIGSTOP, False), "the chief stopped": (0, signal.SIGSTOP, False)}
MOST_SECONDS = 10.0  # From a kill to the next step, beyond the trainer's own start.


def disturbed(ways):
    """Runs undisturbed, and disturbed at a step in each way: the same weights, and the seconds to the next step."""
    with Cluster() as cluster:
        job = cluster.submit(cluster.script("whole"))
        assert cluster.ended(job) == "COMPLETED", cluster.output(job)
        whole, found = result(cluster.folder / "whole"), {}
        for number, (name, how) in enumerate(ways.items()):
            step = random.Random(name).randrange(6, STEPS - 10)
            found[name] = {"at_step": step, **once(cluster, f"run{number}", step, *how, whole["weights_sha256"])}
        return {"weights_sha256": whole["weights_sha256"], **found}


def once(cluster, folder, step, rank, how, agent, weights):
    """Disturbs one run; returns what came of it."""
    job = cluster.submit(cluster.script(folder))
    trainers = cluster.until_step(folder, step)
    at = time.time()
    os.kill(parent(trainers[rank]) if agent else trainers[rank], how)
    assert cluster.ended(job) == "COMPLETED", cluster.output(job)
    first, second = cluster.attempts(folder)
    assert first["first_failing_rank"] == rank or how == signal.SIGSTOP, first
    assert result(cluster.folder / folder)["weights_sha256"] == weights, f"{folder}: other weights"
    assert_every_step_once(cluster.folder / folder, STEPS)
    left = [pid for pid in trainers.values() if pathlib.Path(f"/proc/{pid}").exists()]
    assert not left, f"{folder}: trainers {left} are still there"
    total, start = second["first_step"] - at, second["first_step"] - second["started"]
    assert how == signal.SIGSTOP or total - start <= MOST_SECONDS, (
        f"{total:.1f} s, {start:.1f} of these the trainer's start")
    return {"seconds_to_the_next_step": round(total, 1), "of_these_the_start_of_the_trainer": round(start, 1),
            "first_failure": first["failure"]}


def without_progress():
    """A worker that is killed again and again before a checkpoint ends the run, with the worker's number."""
    with Cluster() as cluster:
        train = [flag for flag in TRAIN if "checkpoint_every" not in flag] + ["--checkpoint_every=100000"]
        job = cluster.submit(cluster.script("run", "--max_restarts=1", steps=100_000, train=train))
        for attempt in range(2):
            os.kill(cluster.until_step("run", 0, attempt)[1], signal.SIGKILL)
        assert cluster.ended(job) == "FAILED"
        output = cluster.output(job)
        assert re.search(r"mirrorline launch: .* in 1 restarts .*worker 1 was ended by SIGKILL", output), output
        return {"attempts": len(cluster.attempts("run"))}


def time_limit():
    """At the notice of the time limit all workers save at the same step, and the job is in the queue again."""
    with Cluster() as cluster:
        job = cluster.submit(cluster.script("run", "--submit=--time=2", steps=100_000))
        cluster.until_step("run", 1)
        state = cluster.slurm.until_state(job, ("PENDING", *ENDS), 150)
        assert (state["JobState"], state["Restarts"]) == ("PENDING", "1"), (state, cluster.output(job))
        attempt, = cluster.attempts("run")
        assert attempt["exit_codes"] == [75, 75] and attempt["failure"] is None, attempt
        found = result(cluster.folder / "run")
        assert found["status"] == "preempted" and found["step"] == attempt["step_reached"]
        return {"saved_at_step": found["step"]}


def array():
    """Two tasks of an array are two runs; a cancelled one ends, is not requeued, and does not touch the other."""
    with Cluster() as cluster:
        job = cluster.submit(cluster.script("run", steps=100_000), "--array=0-1")
        for task in (0, 1):
            cluster.until_step(f"run-{task}", 2)
        cluster.slurm.command("scancel", f"{job}_0")
        assert cluster.ended(f"{job}_0", 60) == "CANCELLED"
        before = len(metrics(cluster.folder / "run-1", "train"))
        wait_for(lambda: len(metrics(cluster.folder / "run-1", "train")) > before + 5, 120, "a step of the other task")
        state = cluster.slurm.job(f"{job}_0")
        assert (state["JobState"], state["Restarts"]) == ("CANCELLED", "0"), state
        return {"the_other": cluster.slurm.job(f"{job}_1")["JobState"]}


def cells():
    """Yields (name, function, arguments)."""
    yield f"slurm: {len(KILLS)} kills of workers, chief and agents, the same weights", disturbed, (KILLS,)
    yield "slurm: stopped workers, the same weights", disturbed, (STOPPED,)
    yield "slurm: no progress ends the run", without_progress, ()
    yield "slurm: time limit", time_limit, ()
    yield "slurm: an array, one of it cancelled", array, ()


if __name__ == "__main__":
    for cell, function, arguments in cells():
        if not sys.argv[1:] or sys.argv[1] in cell:
            print(json.dumps({cell: function(*arguments)}, indent=1), flush=True)
