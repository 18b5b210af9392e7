"""The supervisor with stand-in workers, in a process of its own.

    python -m tests.launch.cluster.supervised WORKDIR SIZES LIMITS SETTINGS
"""
import contextlib
import json
import os
import pathlib
import signal
import subprocess
import sys
import time
import uuid

from tests.commands import environment

MARK = "MIRRORLINE_TEST_MARK"


class Supervised:
    """A running supervisor, whose processes can be counted by a variable that all of them inherit.

    Attributes:
      started: all that there were, for a test that fails: it may leave what it was about to see end.
    """

    started = []

    def __init__(self, workdir, sizes=(2,), limits=None, **settings):
        self.workdir, self.mark = pathlib.Path(workdir), uuid.uuid4().hex
        arguments = [str(workdir), json.dumps(sizes), json.dumps(limits or {}),
                     json.dumps({"steps": 20, "do": [], **settings})]
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.launch.cluster.supervised", *arguments], text=True,
            env={**environment(), MARK: self.mark}, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        self.started.append(self)

    def end(self, timeout=600):
        """Returns (exit code, standard output, standard error) once it has ended and nothing is left of it."""
        out, errors = self.process.communicate(timeout=timeout)
        assert self.count_after() == 0
        return self.process.returncode, out, errors

    @classmethod
    def kill_all(cls):
        """Kills what is left of all of them."""
        while cls.started:
            run = cls.started.pop()
            while left := run.pids():
                for pid in left:
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(pid, signal.SIGKILL)
                run.process.poll()
                time.sleep(0.02)

    def pids(self):
        """Returns the processes that are there, also those that nobody has waited for."""
        found = []
        for folder in pathlib.Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                if f"{MARK}={self.mark}".encode() in (folder / "environ").read_bytes():
                    found.append(int(folder.name))
        return found

    def count_after(self, seconds=600):
        """Returns how many processes are left, waiting for the kernel to take away those that were killed."""
        deadline = time.monotonic() + seconds
        while (left := len(self.pids())) and time.monotonic() < deadline:
            time.sleep(0.02)
        return left

    def until_step(self, step, attempt=0):
        """Waits for a step of the run; returns the processes of its workers by rank."""
        wait_for(lambda: any(r["step"] >= step for r in records(self.workdir / "metrics.jsonl")))
        return self.workers(attempt)

    def workers(self, attempt=0):
        """Returns the pids of the workers of an attempt by rank, as their logs tell."""
        found = {}
        for log in (self.workdir / "workers").glob("*.log"):
            for line in log.read_text().splitlines():
                if line.startswith(f"--- attempt {attempt}, "):
                    found[int(log.stem)] = int(line.split("process ")[1].split(",")[0])
        return [found[rank] for rank in sorted(found)]


def records(path):
    """Returns the records of a file of JSON lines, whole lines only."""
    if not path.exists():
        return []
    return [json.loads(line) for line in path.read_text().split("\n")[:-1]]


def wait_for(condition, seconds=600, what="what was waited for"):
    """Waits until a condition holds; fails with `what` did not come."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"{what} did not come within {seconds} s"
        time.sleep(0.01)


def main(workdir, sizes, limits, settings):
    from launch.cluster.display import LaunchDisplay
    from launch.cluster.supervisor import Limits
    from launch.commands.launch import supervise
    from pipeline.errors import UsageError
    worker = [sys.executable, "-m", "tests.launch.cluster.stand_in", workdir, settings]
    try:
        code = supervise(worker, workdir, json.loads(sizes), Limits(**json.loads(limits)), LaunchDisplay())
    except UsageError as error:
        print(error, file=sys.stderr)
        code = 2
    heavy = {"tensorflow", "keras", "numpy", "absl.logging"} & set(sys.modules)
    pathlib.Path(workdir, "imported.json").write_text(json.dumps(sorted(heavy)))
    return code


if __name__ == "__main__":
    os.environ.pop("TF_CONFIG", None)
    sys.exit(main(*sys.argv[1:]))
