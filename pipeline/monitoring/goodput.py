"""Goodput: which part of a run's time, over all its restarts, went into steps that counted.

A process notes what it spent at every checkpoint, in launches.jsonl. What it had computed after the checkpoint that a
restart or a rollback goes back to was lost, and is computed again.
"""
import contextlib
import os
import time

from pipeline import BEGAN
from pipeline.monitoring.metrics_log import read_backwards, read_records

# Seconds of a run: in steps that counted, waiting for their input, in steps that were lost, and in everything else.
KINDS = ("steps", "input", "lost", "compiling", "saving", "evaluating", "reporting", "profiling",
         "starting", "other")
OF_STEPS = ("steps", "input")
INTERPRETER_SECONDS = 1.0  # Of starting Python, at most, before this house's first line.


class GoodputTracker:
    """Keeps account of this process's seconds; `commit` makes them part of the run's record."""

    def __init__(self, launches, age):
        """
        Args:
          launches: Launches of the run.
          age: seconds this process has lived already, all of them spent on starting.
        """
        self._launches, self._seconds = launches, {"starting": age}
        self._since, self._pending = time.monotonic() - age, None
        self._inside = 0.0  # Seconds of accounts inside of the one that is open.

    def add(self, kind, seconds):
        """Books seconds under one of KINDS."""
        self._seconds[kind] = self._seconds.get(kind, 0.0) + seconds

    @contextlib.contextmanager
    def measure(self, kind):
        """Books the time spent inside, without that which is booked by an account inside of it."""
        began, around, self._inside = time.monotonic(), self._inside, 0.0
        try:
            yield
        finally:
            seconds = time.monotonic() - began
            self.add(kind, seconds - self._inside)
            self._inside = around + seconds

    def window(self, count, seconds, waited):
        """Books a window of steps.

        The first one of a process is traced and compiled: what it took longer than the steps of the second window is
        booked as compiling once that one is known.

        Args:
          count: steps.
          seconds: its duration.
          waited: seconds of it without input.
        """
        waited = min(waited, seconds)
        if self._pending is None:
            self._pending = (count, seconds)
            return
        self._settle(seconds / count)
        self.add("steps", seconds - waited)
        self.add("input", waited)

    def _settle(self, step_seconds):
        count, seconds = self._pending
        if count:
            self.add("steps", min(seconds, count * step_seconds))
            self.add("compiling", max(0.0, seconds - count * step_seconds))
        self._pending = (0, 0.0)

    def commit(self, step):
        """Writes what was spent since the last time, up to a step."""
        if self._pending is not None:
            self._settle(0.0)
        now = time.monotonic()
        self.add("other", max(0.0, now - self._since - sum(self._seconds.values())))
        self._launches.record("spent", step, seconds={kind: round(s, 4) for kind, s in self._seconds.items()})
        self._seconds, self._since = {}, now


def process_age():
    """Returns how many seconds ago this process was started, 0 where the system does not say.

    A script that ends with `exec` hands its age on; what it did before was not starting to train.
    """
    try:
        with open("/proc/self/stat", encoding="utf-8") as file:
            ticks = int(file.read().rsplit(")", 1)[1].split()[19])  # Field 22 of proc(5), counted after the name.
        age = time.clock_gettime(time.CLOCK_BOOTTIME) - ticks / os.sysconf("SC_CLK_TCK")
    except (OSError, AttributeError, ValueError, IndexError):
        return 0.0
    return min(age, time.monotonic() - BEGAN + INTERPRETER_SECONDS)


def lost_tail(launches_path, metrics_path):
    """Finds what a killed process had computed after it last noted what it spent.

    Args:
      launches_path, metrics_path: the run's files, the latter not cut yet.

    Returns:
      (last step it recorded, seconds from its last note to that), seconds 0 where nothing is missing.
    """
    notes = [r for r in read_records(launches_path) if r["event"] in ("start", "spent", "lost", "stop")]
    last = next((r for r in read_backwards(metrics_path) if r["kind"] == "train"), None)
    if not notes or not last:
        return 0, 0.0
    return last["step"], max(0.0, last["wall_time"] - notes[-1]["wall_time"])


def summarize(launches_path):
    """Adds a run's launches up.

    Args:
      launches_path: launches.jsonl.

    Returns:
      {"share": seconds of steps that counted over all seconds, "seconds": {kind: float} over KINDS, "launches": int,
      "steps_repeated": int, "rollbacks": int}.
    """
    segments, total = [], dict.fromkeys(KINDS, 0.0)
    launches = repeated = rollbacks = reached = 0
    silent = 0.0  # Seconds that a process has lived which has not said yet how it spent them.
    for record in read_records(launches_path):
        event = record["event"]
        if event == "spent":
            segments.append(record)
            reached, silent = max(reached, record["step"]), 0.0
        elif event == "lost":
            total["lost"] += record["seconds"]
            reached = max(reached, record["to_step"])
        elif event == "hang":
            total["other"] += record["seconds"]
        elif event in ("start", "rollback"):
            if event == "start":
                launches += 1
                total["starting"] += silent
                silent = record.get("age", 0.0)
            rollbacks += event == "rollback"
            repeated += max(0, reached - record["step"])
            reached = record["step"]
            for segment in segments:
                if segment["step"] > record["step"]:  # Gone back behind it: these steps are done once more.
                    gone = sum(segment["seconds"].pop(kind, 0.0) for kind in OF_STEPS)
                    segment["seconds"]["lost"] = segment["seconds"].get("lost", 0.0) + gone
    for segment in segments:
        for kind, seconds in segment["seconds"].items():
            total[kind] += seconds
    everything = sum(total.values())
    return {"share": round(total["steps"] / everything, 4) if everything else 0.0,
            "seconds": {kind: round(seconds, 3) for kind, seconds in total.items()}, "launches": launches,
            "steps_repeated": repeated, "rollbacks": rollbacks}
