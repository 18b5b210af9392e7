"""Runs each cell in processes of its own, halves batches that do not fit, and continues after failures.

Standard library only: this process does not load TensorFlow, which would take a share of the machine.
"""
import json
import os
import signal
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from pipeline.benchmark.display import PlainDisplay
from pipeline.benchmark.grid import KEY, Cell, halved, unit
from pipeline.benchmark.store import Store
from pipeline.config import ExperimentConfig
from pipeline.errors import RunFailure, UsageError
from pipeline.files import read_cached_json
from pipeline.full_memory import ends_for_memory
from pipeline.processes import Processes, last_line, read_errors

CELL = "pipeline.benchmark.cell_process"  # The module that a process runs.
POLL_SECONDS = 0.05
USAGE = 2  # Exit code of a process.
FIGURES = ("examples_per_second", "spread", "repeats", "examples_per_second_per_replica", "step_ms",
           "synthetic_examples_per_second", "input_wait_share", "split_ms", "trace_seconds", "compile_seconds",
           "first_step_seconds", "peak_memory_mib", "gradient_bytes", "reduced_bytes", "flops_per_example",
           "speedup_over_float32", "weak_scaling_efficiency", "strong_scaling_efficiency", "ceiling_share", "note",
           "fitted_batch_size", "device", "statistics_reductions", "slowest_worker")
OF_SLOWEST = ("examples_per_second", "step_ms", "input_wait_share", "peak_memory_mib", "split_ms")


class Stopped(Exception):
    """The user asked to stop the benchmark."""


class CellRunner:
    """Measures cells in processes of their own."""

    def __init__(self, processes: Processes, start_workers: Callable[[str, int], Any], folder: str, store: Store,
                 base: ExperimentConfig, extent: Mapping[str, float], display: PlainDisplay,
                 should_stop: Callable[[], bool], memory_limit: int = 0, timeout: float | None = None):
        """
        Args:
          processes: entered.
          start_workers: function (path of an order, number of workers) that starts them on this machine and returns an
            object for all of them with poll(), kill(), wait(), returncode and errors as of one process.
          folder: for files between processes.
          store: where figures are kept.
          base: of what is not varied.
          extent: the fields of pipeline.benchmark.measure.Extent.
          display: where progress is shown.
          should_stop: polled often.
          memory_limit: MiB for the process of a cell, 0 for no limit.
          timeout: seconds that a process may take; None for no limit.
        """
        self.processes, self.start_workers, self.folder = processes, start_workers, folder
        self.store, self.base, self.extent = store, base, extent
        self.display, self.should_stop = display, should_stop
        self.memory_limit, self.timeout = memory_limit, timeout
        self.image_sizes: dict[str, str] = {}  # By data set.

    def run(self, cells: Sequence[Cell], kept: Mapping[Cell, dict[str, Any]]) -> tuple[list[dict[str, Any]], bool]:
        """Measures the cells that were not measured before.

        Args:
          cells: in order.
          kept: figures of those measured before.

        Returns:
          (figures of the cells as in benchmark.json, whether all were measured).

        Raises:
          UsageError: data that cannot be loaded, or a model that does not fit them; nothing is measured or written.
        """
        missing = [cell for cell in cells if cell not in kept]
        done: list[dict[str, Any]] = []
        seconds: list[float] = []
        try:
            if missing:
                self._survey(missing, {(cell.model, cell.dataset) for cell in missing})
            for number, cell in enumerate(cells, 1):
                began, figures = time.monotonic(), kept.get(cell)
                left = sum(seconds) / len(seconds) * sum(c not in kept for c in cells[number - 1:]) if seconds else None
                self.display.begin(number, len(cells), self._key(cell), left)
                if not figures:
                    figures = self._measure(cell)
                    self.store.save(cell, self.base, figures)
                    seconds.append(time.monotonic() - began)
                    left = sum(seconds) / len(seconds) * sum(c not in kept for c in cells[number:])
                done.append(figures)
                self.display.end(number, len(cells), figures, left, cell in kept)
            if missing:
                self._survey(missing, ())
        except Stopped:
            return done, len(done) == len(cells)
        return done, True

    def _key(self, cell):
        values = {**vars(cell), "image_size": self.image_sizes.get(cell.dataset, cell.dataset)}
        return {name: values[name] for name in KEY}

    def _survey(self, cells, pairs):
        """Checks data and models, and measures the ceilings: unknown ones before the cells, all of them after."""
        known = self.store.ceilings() if pairs else ()
        wanted = dict.fromkeys(cell.precision for cell in cells if cell.precision not in known)
        survey = {"precisions": list(wanted), "pairs": sorted(pairs), "seconds": self.extent["repeat_seconds"]}
        self.display.phase("checking data and machine")
        code, text, found = self._process({"config": self.base.replace(force=True).flat(), "survey": survey}, 0)
        if not found:
            raise (UsageError if code == USAGE else RunFailure)(last_line(text) or ending(code))
        self.store.add_ceilings(found["ceilings"])
        self.image_sizes.update(found["image_sizes"])

    def _measure(self, cell):
        """Returns the figures of a cell, with the requested batch size or the first of its halves that fits."""
        batch_size = cell.batch_size
        figures = {**self._key(cell), "sync_batch_norm": self.base.model.sync_batch_norm and cell.all_replicas > 1,
                   "status": "ok", "error": None, "emulated": False, **dict.fromkeys(FIGURES)}
        while batch_size:
            config = cell.config(self.base, batch_size)
            code, text, found = self._process({"config": config.flat(), "extent": self.extent}, self.memory_limit,
                                              cell.workers)
            if found:
                return {**figures, **found, "fitted_batch_size": batch_size}
            if not ends_for_memory(code, text, self.memory_limit):
                line = last_line(text) or ending(code)
                return {**figures, "status": "failed", "error": line, "log": self.store.log(cell, text)}
            smaller = halved(batch_size, unit(config, cell.all_replicas))
            self.display.info(f"a batch of {batch_size} does not fit" + (f": trying {smaller}" if smaller else ""))
            batch_size = smaller
        return {**figures, "status": "does_not_fit", "error": "not even the smallest batch fits into memory"}

    def _process(self, order, memory_limit, workers=1):
        """Runs the process of an order, or those of several workers.

        Returns:
          (exit code, standard error, figures or None); of several workers those of the first that failed.
        """
        order = {**order, "parent": os.getpid(), "memory_limit": memory_limit, "workers": workers,
                 "results": self._file("results.json"), "phase": self._file("phase")}
        results = [results_file(order, rank) for rank in range(workers)]
        for path in (*results, order["phase"]):
            if os.path.exists(path):
                os.remove(path)
        with open(self._file("order.json"), "w", encoding="utf-8") as file:
            json.dump(order, file)
        if self.should_stop():
            raise Stopped
        if workers == 1:
            process = self.processes.start("-m", CELL, self._file("order.json"))
        else:
            process = self.start_workers(self._file("order.json"), workers)
        timed_out = self._wait(process)
        text = f"no end within {self.timeout:g} s (--hang_timeout)" if timed_out else read_errors(process)
        found = chief_and_slowest([read_cached_json(path) for path in results])
        return process.returncode if not timed_out else None, text, found

    def _wait(self, process):
        """Waits for a process and shows its phase; returns whether it timed out and was killed."""
        deadline = time.monotonic() + self.timeout if self.timeout else None
        while process.poll() is None:
            if self.should_stop():
                process.kill()
                process.wait()
                raise Stopped
            if deadline and time.monotonic() > deadline:
                process.kill()
                process.wait()
                return True
            self.display.phase(read_text(self._file("phase")))
            time.sleep(POLL_SECONDS)
        return False

    def _file(self, name):
        return os.path.join(self.folder, name)


def results_file(order: Mapping[str, Any], rank: int) -> str:
    """Returns the path where a worker writes its figures."""
    path, ending = os.path.splitext(order["results"])
    return f"{path}-{rank}{ending}" if rank else order["results"]


def chief_and_slowest(found: Sequence[dict[str, Any] | None]) -> dict[str, Any] | None:
    """Returns the figures of a cell: the chief's, and as "slowest_worker" some of the slowest by its own clock.

    Args:
      found: figures of each worker by rank, None of one that failed.

    Returns:
      Figures by name; None where a worker's are missing. One worker has no "slowest_worker".
    """
    whole = [figures for figures in found if figures is not None]
    if len(whole) < len(found):
        return None
    if len(whole) == 1:
        return whole[0]
    rank = min(range(len(whole)), key=lambda number: whole[number]["examples_per_second"])
    return {**whole[0], "slowest_worker": {"rank": rank, **{name: whole[rank][name] for name in OF_SLOWEST}}}


def ending(code: int | None) -> str:
    """Returns in words how a process ended that wrote no message."""
    if code is not None and code < 0:
        return f"its process was ended by {signal.Signals(-code).name}"
    return f"its process ended with exit code {code} and no message"


def read_text(path: str) -> str:
    """Returns the text of a file, "" where there is none."""
    try:
        with open(path, encoding="utf-8") as file:
            return file.read()
    except OSError:
        return ""
