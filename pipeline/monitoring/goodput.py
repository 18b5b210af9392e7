"""Goodput: the share of a run's time, over all its restarts, spent in steps that counted.

A process records the time it spent at every checkpoint, in launches.jsonl. Steps after the checkpoint that a restart or
a rollback returns to are lost, and computed again.
"""
import contextlib
import os
import time
from collections.abc import Iterator
from typing import Any

from pipeline import BEGAN
from pipeline.monitoring.launches import Launches
from pipeline.monitoring.metrics_log import read_backwards, read_records

# What a run's time is spent on: steps that counted, waiting for their input, steps that were lost, and the rest.
KINDS = ("steps", "input", "lost", "compiling", "saving", "evaluating", "reporting", "profiling",
         "starting", "other")
OF_STEPS = ("steps", "input")
INTERPRETER_SECONDS = 1.0  # Upper bound of Python's start, before the first line of this package.


class GoodputTracker:
    """Adds up this process's seconds by kind; `commit` writes them to the run's record."""

    def __init__(self, launches: Launches, age: float):
        """Args: age: seconds since this process began, all of them spent on starting."""
        self._launches, self._seconds = launches, {"starting": age}
        self._since = time.monotonic() - age
        self._pending: tuple[int, float] | None = None  # Steps and seconds of the first window, until it is split.
        self._inside = 0.0  # Seconds of measurements inside the open one.

    def add(self, kind: str, seconds: float) -> None:
        """Adds seconds to one of KINDS."""
        self._seconds[kind] = self._seconds.get(kind, 0.0) + seconds

    @contextlib.contextmanager
    def measure(self, kind: str) -> Iterator[None]:
        """Adds the time spent inside, without that of measurements nested in it."""
        began, around, self._inside = time.monotonic(), self._inside, 0.0
        try:
            yield
        finally:
            seconds = time.monotonic() - began
            self.add(kind, seconds - self._inside)
            self._inside = around + seconds

    def window(self, count: int, seconds: float, waited: float, compiled: bool = False) -> None:
        """Adds a window of `count` steps, of whose seconds `waited` passed without input.

        The first one of a process is traced and compiled, and so are others (`compiled`): the time by which its steps
        are slower than those of the next window counts as compiling.
        """
        waited = min(waited, seconds)
        if compiled or self._pending is None:
            if self._pending:
                self._split_first(0.0)
            self._pending = (count, seconds)
            return
        self._split_first(seconds / count)
        self.add("steps", seconds - waited)
        self.add("input", waited)

    def _split_first(self, step_seconds: float) -> None:
        count, seconds = self._pending or (0, 0.0)
        if count:
            self.add("steps", min(seconds, count * step_seconds))
            self.add("compiling", max(0.0, seconds - count * step_seconds))
        self._pending = (0, 0.0)

    def commit(self, step: int) -> None:
        """Writes the time spent since the last commit, up to a step."""
        if self._pending is not None:
            self._split_first(0.0)
        now = time.monotonic()
        self.add("other", max(0.0, now - self._since - sum(self._seconds.values())))
        self._launches.record("spent", step, seconds={kind: round(s, 4) for kind, s in self._seconds.items()})
        self._seconds, self._since = {}, now


def process_age() -> float:
    """Returns the seconds since this process began, 0 where the system does not tell.

    A script that ends with `exec` passes its age on; what it did before does not count. (psutil's create_time is of the
    wall clock, in steps of a second.)
    """
    try:
        with open("/proc/self/stat", encoding="utf-8") as file:
            ticks = int(file.read().rsplit(")", 1)[1].split()[19])  # Field 22 of proc(5), counted after the name.
        age = time.clock_gettime(time.CLOCK_BOOTTIME) - ticks / os.sysconf("SC_CLK_TCK")
    except (OSError, AttributeError, ValueError, IndexError):
        return 0.0
    return min(age, time.monotonic() - BEGAN + INTERPRETER_SECONDS)


def lost_tail(launches_path: str, metrics_path: str) -> tuple[int, float]:
    """Finds what a killed process had computed after its last commit.

    Args:
      launches_path, metrics_path: the run's files, the latter not cut yet.

    Returns:
      (last step it recorded, seconds from its last commit to that), seconds 0 where nothing is missing.
    """
    commits = [r for r in read_records(launches_path) if r["event"] in ("start", "spent", "lost", "stop")
               and "wall_time" in r]
    last = next((r for r in read_backwards(metrics_path) if r["kind"] == "train" and "wall_time" in r), None)
    if not commits or not last:
        return 0, 0.0
    return last["step"], max(0.0, last["wall_time"] - commits[-1]["wall_time"])


def summarize(launches_path: str) -> dict[str, Any]:
    """Adds up the launches of a run.

    Returns:
      {"share": seconds of steps that counted over all seconds, "seconds": {kind: float} over KINDS, "launches": int,
      "steps_repeated": int, "rollbacks": int}.
    """
    segments: list[dict[str, Any]] = []
    total = dict.fromkeys(KINDS, 0.0)
    launches = repeated = rollbacks = reached = 0
    uncommitted = 0.0  # Age of a process at its start, until its first commit.
    for record in read_records(launches_path):
        event = record["event"]
        if event == "spent":
            segments.append(record)
            reached, uncommitted = max(reached, record["step"]), 0.0
        elif event == "lost":
            total["lost"] += record["seconds"]
            reached = max(reached, record["to_step"])
        elif event == "hang":
            total["other"] += record["seconds"]
        elif event in ("start", "rollback"):
            if event == "start":
                launches += 1
                total["starting"] += uncommitted
                uncommitted = record.get("age", 0.0)
            rollbacks += event == "rollback"
            repeated += max(0, reached - record["step"])
            reached = record["step"]
            for segment in segments:
                if segment["step"] > record["step"]:  # These steps are computed again.
                    gone = sum(segment["seconds"].pop(kind, 0.0) for kind in OF_STEPS)
                    segment["seconds"]["lost"] = segment["seconds"].get("lost", 0.0) + gone
    for segment in segments:
        for kind, seconds in segment["seconds"].items():
            total[kind if kind in total else "other"] += seconds
    everything = sum(total.values())
    return {"share": round(total["steps"] / everything, 4) if everything else 0.0,
            "seconds": {kind: round(seconds, 3) for kind, seconds in total.items()}, "launches": launches,
            "steps_repeated": repeated, "rollbacks": rollbacks}
