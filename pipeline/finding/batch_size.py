"""The largest batch that trains, and the fastest: each size is tried in a process of its own.

Standard library only: this process leaves the machine to the tries.
"""
import dataclasses
import json
import math
import os
import tempfile
import time
from collections.abc import Callable, Mapping
from typing import Any

from pipeline.activity import activity
from pipeline.benchmark.cell_runner import ending
from pipeline.benchmark.grid import unit
from pipeline.choices import OPTIMIZERS, OptimizerRow
from pipeline.config import ExperimentConfig
from pipeline.console import Console
from pipeline.errors import RunFailure, UsageError
from pipeline.files import read_cached_json
from pipeline.full_memory import ends_for_memory
from pipeline.processes import USAGE, Processes, last_line, read_errors

TRY = "pipeline.finding.batch_process"  # The module that a process runs.
START = 16  # Examples of a replica that are tried first.
NEAR = 0.05  # A batch is as fast as another within this share of its speed.
POLL_SECONDS = 0.05


@dataclasses.dataclass(frozen=True)
class TriedBatch:
    """One batch size that was tried.

    Attributes:
      batch_size: examples of one step, over all replicas.
      figures: as of pipeline.finding.batch_process.try_batch; None: it does not fit into memory.
    """

    batch_size: int
    figures: Mapping[str, Any] | None

    @property
    def rate(self) -> float:
        """Its examples/s; 0 if it does not fit."""
        return self.figures["examples_per_second"] if self.figures else 0.0


@dataclasses.dataclass(frozen=True)
class FoundBatch:
    """What a search found.

    Attributes:
      tried: ascending.
      largest: the largest that fits.
      fastest: the smallest that is as fast as any, within NEAR.
      bound: what bounds the largest, as the end of a sentence.
    """

    tried: tuple[TriedBatch, ...]
    largest: TriedBatch
    fastest: TriedBatch
    bound: str


def search(attempt: Callable[[int], TriedBatch], multiple: int, replicas: int, longest_step: float) -> FoundBatch:
    """Doubles the batch until it does not fit, then tries the one in the middle; halves it if the first does not fit.

    Args:
      attempt: tries a batch size.
      multiple: every batch size is a multiple of this.
      replicas: that share the batch.
      longest_step: seconds that a step may take.

    Raises:
      RunFailure: not even the smallest fits.
    """
    tried: dict[int, TriedBatch] = {}

    def fits(size):
        tried[size] = attempt(size)
        return tried[size].figures is not None

    size = multiple * 2 ** math.ceil(math.log2(max(1.0, START * replicas / multiple)))
    while not fits(size):
        if size == multiple:
            raise RunFailure(f"not even a batch of {multiple} fits into memory: take smaller images (--image_size), a "
                             "smaller --model, or --precision=mixed_float16 on a GPU")
        size //= 2
    bound = f"{2 * size} does not fit" if 2 * size in tried else ""
    while not bound:
        try:
            bound = _beyond(tried[size], longest_step) or ("" if fits(2 * size) else f"{2 * size} does not fit")
        except UsageError as error:  # Such as a point of --unfreeze_at that is beyond a run of so few steps.
            bound = str(error)
        size *= 1 if bound else 2
    if 2 * size in tried and size // multiple % 2 == 0 and not fits(size // 2 * 3):
        bound = f"{size // 2 * 3} does not fit"
    done = tuple(tried[key] for key in sorted(tried))
    best = max(one.rate for one in done)
    return FoundBatch(done, max((one for one in done if one.figures), key=lambda one: one.batch_size),
                      next(one for one in done if one.rate >= (1 - NEAR) * best), bound)


def _beyond(one, longest_step):
    """Returns why twice a batch is not tried, or ""."""
    twice = 2 * one.batch_size
    if twice > one.figures["num_examples"]:
        return f"{twice} is more than the {one.figures['num_examples']:,} training examples"
    if 2 * one.figures["step_ms"] > 1e3 * longest_step:
        return f"a step of {twice} would take longer than {longest_step:g} s (--longest_step)"
    return ""


class BatchTries:
    """Tries batch sizes in processes; a context manager."""

    def __init__(self, config: ExperimentConfig, memory_limit: int, longest_step: float, console: Console):
        """
        Args:
          config: of the training, with any batch size.
          memory_limit: MiB of main memory that a process may use; 0 for no limit.
          longest_step: seconds from which on a step is measured once.
          console: where progress is shown.
        """
        self._config, self._limit, self._longest, self._console = config, memory_limit, longest_step, console
        self._processes = Processes(config.runtime.hang_timeout or math.inf)
        self._folder = tempfile.TemporaryDirectory(prefix="mirrorline-find-")

    def __enter__(self) -> "BatchTries":
        self._processes.__enter__()
        return self

    def __exit__(self, *error: object) -> None:
        self._processes.__exit__(*error)
        self._folder.cleanup()

    def __call__(self, batch_size: int) -> TriedBatch:
        """Tries a batch size.

        Raises:
          UsageError: options that do not fit the data or each other.
          RunFailure: the process failed, and not for lack of memory.
        """
        optimizer = self._config.optimizer  # The rate is of no importance, and may not follow from this batch.
        config = self._config.replace(batch_size=batch_size, base_learning_rate=None,
                                      learning_rate=optimizer.learning_rate)
        order = {"config": config.flat(), "parent": os.getpid(), "memory_limit": self._limit,
                 "longest_step": self._longest, "results": self._file(f"results-{batch_size}.json"),
                 "phase": self._file("phase")}
        with open(self._file("order.json"), "w", encoding="utf-8") as file:
            json.dump(order, file)
        process = self._processes.start("-m", TRY, self._file("order.json"))
        with activity(f"trying a batch of {batch_size:,}", self._console):
            code = self._wait(process)
        found, text = read_cached_json(order["results"]), read_errors(process)
        if code == 0 and found:
            return TriedBatch(batch_size, found)
        if ends_for_memory(code, text, self._limit):
            return TriedBatch(batch_size, None)
        line = f"a batch of {batch_size}: {last_line(text) or ending(code)}"
        raise (UsageError if code == USAGE else RunFailure)(line)

    def _wait(self, process):
        """Waits for a process; returns its exit code, None if it was killed for taking too long."""
        deadline = time.monotonic() + self._processes.timeout
        while process.poll() is None:
            if time.monotonic() > deadline:
                process.kill()
                process.wait()
                return None
            time.sleep(POLL_SECONDS)
        return process.returncode

    def _file(self, name):
        return os.path.join(self._folder.name, name)


def scaled_rate(config: ExperimentConfig, batch_size: int) -> tuple[float, str]:
    """Returns the learning rate for another batch size than the one of the configuration, and why.

    It goes with the batch size for sgd and lars (Goyal et al., arXiv:1706.02677), and with its square root for
    optimizers that divide by the size of the gradient (Malladi et al., arXiv:2205.10287).

    Returns:
      (rate with three significant digits, the rule in words).
    """
    optimizer, before = config.optimizer, config.training.batch_size
    row = OPTIMIZERS.get(optimizer.optimizer)
    if optimizer.base_learning_rate is not None:
        rate = optimizer.base_learning_rate * batch_size / optimizer.base_batch_size
        return rate, "as --base_learning_rate says"
    if not isinstance(row, OptimizerRow):
        return optimizer.learning_rate, f"as it was: no rule is known for {optimizer.optimizer}"
    ratio = batch_size / before if row.linear else math.sqrt(batch_size / before)
    rule = ("in proportion to the batch, as the update is to the gradient" if row.linear else
            "by the square root of the batch, as the update does not grow with the gradient")
    return float(f"{optimizer.learning_rate * ratio:.3g}"), f"{rule} ({optimizer.optimizer})"


def flags_to_use(config: ExperimentConfig, batch_size: int) -> str:
    """Returns the flags of a training with the batch size that was found."""
    rate = "" if config.optimizer.base_learning_rate is not None else (
        f" --learning_rate={scaled_rate(config, batch_size)[0]:g}")
    return f"--batch_size={batch_size}{rate}"


def find(config: ExperimentConfig, replicas: int, memory_limit: int, longest_step: float, console: Console
         ) -> FoundBatch:
    """Searches for the largest and the fastest batch of a training; see `search` and `BatchTries`.

    Raises:
      UsageError: options that do not fit the data or each other.
      RunFailure: not even the smallest batch fits, or a process failed.
    """
    with BatchTries(config, memory_limit, longest_step, console) as attempt:
        return search(attempt, unit(config, replicas), replicas, longest_step)
