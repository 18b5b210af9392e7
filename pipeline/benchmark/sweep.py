"""The driver of a sweep: a process a worker of a cell, halving what does not fit, going on after what fails.

Standard library only: the process that drives does not load TensorFlow, which would take a share of the machine.
"""
import json
import os
import signal
import time

from pipeline.benchmark import out_of_memory
from pipeline.benchmark.grid import KEY, halved, unit
from pipeline.errors import RunFailure, UsageError
from pipeline.files import read_cached_json
from pipeline.processes import last_line, read_errors

CELL = "pipeline.benchmark.cell_process"  # The module that a process runs.
POLL_SECONDS = 0.05
USAGE, NO_MEMORY = 2, 3  # Exit codes of a cell's process.
KILLED = (signal.SIGKILL,)
CRASHED = (signal.SIGABRT, signal.SIGSEGV, signal.SIGBUS)
FIGURES = ("examples_per_second", "spread", "repeats", "examples_per_second_per_replica", "step_ms",
           "synthetic_examples_per_second", "input_wait_share", "split_ms", "trace_seconds", "compile_seconds",
           "first_step_seconds", "peak_memory_mib", "gradient_bytes", "reduced_bytes", "flops_per_example",
           "speedup_over_float32", "weak_scaling_efficiency", "strong_scaling_efficiency", "ceiling_share", "note",
           "fitted_batch_size", "device", "statistics_reductions", "slowest_worker")
OF_SLOWEST = ("examples_per_second", "step_ms", "input_wait_share", "peak_memory_mib", "split_ms")


class Stopped(Exception):
    """The user asked to stop."""


class Sweep:
    """Measures cells in processes of their own."""

    def __init__(self, processes, start_workers, folder, store, base, extent, display, should_stop, memory_limit=0,
                 timeout=None):
        """
        Args:
          processes: pipeline.processes.Processes, entered.
          start_workers: function of the path of an order and a number of workers that starts them on this machine and
            returns what stands for all of them: poll(), kill(), wait(), returncode and errors as of one process.
          folder: for files between processes.
          store: Store.
          base: ExperimentConfig of what is not varied.
          extent: {name: value} of pipeline.benchmark.measure.Extent.
          display: of pipeline.benchmark.display.
          should_stop: predicate, asked often.
          memory_limit: MiB that a cell's process may have, 0 for all there is.
          timeout: seconds that a process may take; None: any.
        """
        self.processes, self.start_workers, self.folder = processes, start_workers, folder
        self.store, self.base, self.extent = store, base, extent
        self.display, self.should_stop = display, should_stop
        self.memory_limit, self.timeout, self.image_sizes = memory_limit, timeout, {}

    def run(self, cells, kept):
        """Measures the cells that are not there yet.

        Args:
          cells: list of Cell.
          kept: {Cell: figures} of those that are.

        Returns:
          (their figures as in benchmark.json, in order and as far as it came; whether it came to the end).

        Raises:
          UsageError: data that cannot be loaded, or a model that does not fit; nothing is measured or written then.
        """
        missing = [cell for cell in cells if cell not in kept]
        done, seconds = [], []
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
        """Looks at data and models, and measures the ceilings: before the cells those not known yet, after them all."""
        known = self.store.ceilings() if pairs else ()
        wanted = dict.fromkeys(cell.precision for cell in cells if cell.precision not in known)
        survey = {"precisions": list(wanted), "pairs": sorted(pairs), "seconds": self.extent["repeat_seconds"]}
        self.display.phase("looking at data and machine")
        code, text, found = self._process({"config": self.base.replace(force=True).flat(), "survey": survey}, 0)
        if not found:
            raise (UsageError if code == USAGE else RunFailure)(last_line(text) or f"a process ended with {code}")
        self.store.add_ceilings(found["ceilings"])
        self.image_sizes.update(found["image_sizes"])

    def _measure(self, cell):
        """Returns the figures of a cell, with the largest batch that fits of the one asked for and its halves."""
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
          (exit code, what was said, what was found or None); of several workers those of the first that failed.
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
        """Waits for a process, showing what it is at; returns whether it took too long and was ended."""
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


def results_file(order, rank):
    """Returns the path where a worker writes what it found."""
    path, ending = os.path.splitext(order["results"])
    return f"{path}-{rank}{ending}" if rank else order["results"]


def chief_and_slowest(found):
    """Returns the figures of a cell: the chief's, and beside them some of the worker that was slowest by its own clock.

    Args:
      found: figures of each worker by rank, None of one that did not come to its end.

    Returns:
      Figures by name; None where one is missing. With one worker there is no "slowest_worker".
    """
    if None in found:
        return None
    if len(found) == 1:
        return found[0]
    rank = min(range(len(found)), key=lambda number: found[number]["examples_per_second"])
    return {**found[0], "slowest_worker": {"rank": rank, **{name: found[rank][name] for name in OF_SLOWEST}}}


def ends_for_memory(code, text, limited):
    """Tells whether a process ended because it had not enough memory.

    Args:
      code: its exit code, minus the signal's number where one ended it; None where it took too long.
      text: what it said.
      limited: whether its memory was limited: then a crash is taken for what libraries do that get none.
    """
    if code is None or code == 0:
        return False
    if code == NO_MEMORY or -code in KILLED:  # The system kills whoever takes the last of it.
        return True
    return out_of_memory.is_said(text) or (-code in CRASHED and bool(limited))


def ending(code):
    """Returns in words how a process ended that said nothing."""
    if code is not None and code < 0:
        return f"its process was ended by {signal.Signals(-code).name}"
    return f"its process ended with {code} and without a word"


def read_text(path):
    """Returns the text of a file, "" where there is none."""
    try:
        with open(path, encoding="utf-8") as file:
            return file.read()
    except OSError:
        return ""
