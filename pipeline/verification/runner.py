"""Runs the processes that `mirrorline verify` compares, and collects the comparisons."""
import concurrent.futures
import contextlib
import json
import os
import tempfile
import time
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from pipeline.config import ExperimentConfig
from pipeline.console import Console
from pipeline.errors import RunFailure
from pipeline.files import read_json
from pipeline.processes import Processes
from pipeline.quantities import counted
from pipeline.verification import killing
from pipeline.verification.comparison import compare_replicas
from pipeline.verification.report import PARTS, Comparison

SECONDS = 1800  # Limit of one process.


def verify(config: ExperimentConfig, kind: str, replicas: int, steps: int, parts: Sequence[str], console: Console,
           train: Sequence[str]) -> list[Comparison]:
    """Verifies parts in a temporary folder; returns the comparisons in the order of PARTS.

    Args:
      config: of a short run.
      kind: "CPU" or "GPU".
      replicas: their number.
      steps: of each run.
      parts: of PARTS.
      console: where the progress of the processes goes.
      train: arguments of Python that run the command `train`.
    """
    with tempfile.TemporaryDirectory(prefix="mirrorline-verify-") as folder, Processes(SECONDS) as processes:
        verification = Verification(processes, folder, config, kind, replicas, steps, console, train)
        # Starting TensorFlow keeps one core busy; GPUs may not have the memory for two processes.
        executor = concurrent.futures.ThreadPoolExecutor(1 if kind == "GPU" else 2)
        try:
            waiting = [executor.submit(job, *values) for job, *values in verification.jobs(parts)]
            for done in concurrent.futures.as_completed(waiting):
                done.result()
            return sorted(verification.rows(parts), key=lambda row: PARTS.index(row.part))
        finally:
            executor.shutdown(wait=False, cancel_futures=True)


class Verification:
    """The processes, and the files that they leave in a folder; for the arguments see `verify`."""

    def __init__(self, processes: Processes, folder: str, config: ExperimentConfig, kind: str, replicas: int,
                 steps: int, console: Console, train: Sequence[str]):
        self._processes, self._folder, self._config, self._train = processes, folder, config, train
        self._kind, self._replicas, self._steps, self._console = kind, replicas, steps, console
        self._failures: dict[str, str] = {}
        self._kills: tuple[int, int] | None = None

    def jobs(self, parts: Sequence[str]) -> list[tuple]:
        """Returns [(method, argument, ...)], the longest first."""
        here = [part for part in parts if part not in ("resume", "replicas")
                or (part == "replicas" and self._replicas > 1)]
        jobs: list[tuple] = [(self.train_killed,), (self.train_uninterrupted,)] if "resume" in parts else []
        if here:
            jobs.insert(1, (self.measure, self._replicas, here))
        if "replicas" in here:
            jobs.insert(2, (self.measure, 1, ["replicas"]))
        return jobs

    def _path(self, name: object) -> str:
        return os.path.join(self._folder, str(name))

    @contextlib.contextmanager
    def _job(self, name: str, parts: Sequence[str]) -> Iterator[None]:
        """Reports the begin and end of a job; its failure counts against its parts."""
        began = time.monotonic()
        self._console.info(f"start   {name}")
        try:
            yield
        except RunFailure as failure:
            if self._processes.ended:
                return
            self._failures.update({part: str(failure) for part in parts})
        self._console.info(f"done    {name}: {time.monotonic() - began:.0f} s")

    def measure(self, replicas: int, parts: Sequence[str]) -> None:
        """Measures parts with a number of replicas, in one process."""
        os.mkdir(self._path(replicas))
        path = self._path(f"{replicas}.json")
        with open(path, "w", encoding="utf-8") as file:
            json.dump({"config": self._config.replace(replicas=replicas).flat(), "parts": parts, "steps": self._steps,
                       "folder": self._path(replicas)}, file)
        with self._job(f"{counted(replicas, 'replica')}: {', '.join(parts)}", parts):
            self._processes.finish(self._processes.start("-m", "pipeline.verification.part_process", path))

    def _command(self, workdir: str, *more: str) -> tuple[str, ...]:
        """Returns the arguments of Python for a short training of the user's in a directory."""
        flags = killing.train_flags(killing.settings(self._config, self._steps))
        return (*self._train, *flags, f"--workdir={workdir}", *more)

    def train_uninterrupted(self) -> None:
        """Trains without interruption."""
        with self._job("resume: uninterrupted", ["resume"]):
            self._processes.finish(self._processes.start(*self._command(self._path("whole"))))

    def train_killed(self) -> None:
        """Trains, killed twice."""
        with self._job("resume: killed twice, started again", ["resume"]):
            self._kills = killing.killed_twice(self._processes, self._command, self._path("killed"))

    def rows(self, parts: Sequence[str]) -> list[Comparison]:
        """Returns the comparisons of parts; a part whose process failed is violated."""
        rows = [Comparison(part, "what its process found", None, 0.0, note=failure)
                for part, failure in self._failures.items()]
        measured = self._read(self._replicas, "rows.json") or []
        rows += [Comparison(**row) for row in measured if row["part"] not in self._failures]
        known = {row.part for row in rows}
        if "resume" in parts and "resume" not in known:
            unclaimed = "" if self._kind == "CPU" or self._config.runtime.deterministic else (
                "on a GPU it is claimed with --deterministic")
            rows += killing.compare_runs(self._path("whole"), self._path("killed"), self._kills, self._steps, unclaimed)
        if "replicas" in parts and "replicas" not in known:
            rows += self._compare_replicas()
        missing = [part for part in parts if part not in {row.part for row in rows}]
        return rows + [Comparison(part, "nothing", None, 0.0, "not measured: the reduction is wrong")
                       for part in missing]

    def _read(self, replicas: int, name: str) -> Any:
        """Returns the content of a JSON file that a process left, or None."""
        return read_json(os.path.join(self._path(replicas), name))

    def _compare_replicas(self) -> list[Comparison]:
        """Returns the comparisons of the part replicas; none if its process found the reduction wrong."""
        if self._replicas == 1:
            return [Comparison("replicas", "1 replica against more", None, 0.0,
                               "one replica was asked for, or is available")]
        facts = self._read(self._replicas, "facts.json")
        if not facts:
            return []
        with np.load(self._path("1/arrays.npz")) as one, np.load(self._path(f"{self._replicas}/arrays.npz")) as several:
            return compare_replicas(dict(one), dict(several), self._replicas, facts)
