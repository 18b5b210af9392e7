"""Attempts at a run by several workers: start all, watch them, stop all when one fails, restart from the checkpoint.

A failed worker takes its peers with it: they cannot compute without it, and after a failed collective their processes
are of no use. So every failure ends the attempt, and the next one begins from the latest checkpoint. How workers are
started is passed in: this module knows ranks, exit codes and the run's directory.
"""
import collections
import dataclasses
import functools
import signal
import time
from collections.abc import Callable, Sequence
from typing import Any, Self

from launch.cluster import failures
from launch.cluster.display import LaunchDisplay
from launch.cluster.failures import PREEMPTED, USAGE, Failure
from launch.cluster.run_records import AttemptProgress, LostTime, RunRecords
from pipeline import terminal
from pipeline.monitoring.metrics_log import JsonLines, read_records
from pipeline.quantities import counted
from pipeline.training.preemption import ORDERS, stop_signals

POLL_SECONDS = 0.05
PEER_SECONDS = 1.0  # Time for the cause to show where all that ended have lost a peer.
KEPT_LINES = 60
FAILURE = 1
Start = Callable[[int, int, Callable[[int, str], None]], Any]  # (size, attempt, on_line) -> its workers.


@dataclasses.dataclass(frozen=True)
class Limits:
    """Limits of a supervisor.

    Attributes:
      max_restarts: restarts without a new checkpoint.
      grace_seconds: seconds from SIGTERM to SIGKILL after a worker has failed.
      stop_timeout: seconds for workers to save and end, once asked to or once the first has ended.
      stopped_timeout: seconds that a worker may be stopped (SIGSTOP).
    """

    max_restarts: int = 3
    grace_seconds: float = 5.0
    stop_timeout: float = 300.0
    stopped_timeout: float = 15.0


class SignalCounter:
    """Counts (`count`) the signals that ask to stop; a context manager for the main thread."""

    def __init__(self) -> None:
        self.count = 0

    def _take(self, number, _):
        raise NotImplementedError

    def __enter__(self) -> Self:
        self._before = {number: signal.signal(number, self._take) for number in stop_signals()}
        return self

    def __exit__(self, *exception: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)


class StopSignals(SignalCounter):
    """Counts as a trainer does (see preemption): of notices, such as a closed terminal, only the first.

    Attributes:
      number: the last signal.
    """

    def __init__(self) -> None:
        super().__init__()
        self.number, self._orders = 0, 0

    def _take(self, number, _):
        self._orders += number in ORDERS
        self.count, self.number = max(1, self._orders), number
        if number == signal.SIGHUP:
            terminal.let_go()


class Sizes:
    """The number of workers of the next attempt, `now`.

    The largest, unless so many cannot be started: after two attempts in a row without a step it becomes smaller, after
    one where that happened before. After an attempt with a step the largest is tried again.
    """

    def __init__(self, sizes: Sequence[int]):
        self._sizes = sorted(sizes, reverse=True)
        self.now, self._vain = self._sizes[0], collections.Counter[int]()

    def failed(self, stepped: bool) -> bool:
        """Records a failed attempt and whether it made a step; returns whether the next one is smaller."""
        before = self.now
        if stepped:
            self._vain[before] = 0
            self.now = self._sizes[0]
            return False
        self._vain[before] += 1
        smaller = [size for size in self._sizes if size < before]
        if self._vain[before] > 1 and smaller:
            self.now = smaller[0]
        return self.now < before


class Budget:
    """The remaining restarts, which a checkpoint later than at the last failure renews."""

    def __init__(self, most: int, saved: int):
        """Args: most: restarts without a new checkpoint; saved: step of the latest checkpoint."""
        self._most, self._saved, self._used = most, saved, 0
        self._shrunk: set[int] = set()
        self._step: int | None = None

    def refuse(self, progress: Any, saved: int, shrunk_from: int | None = None) -> str | None:
        """Records a failure; returns the reason why there is no other attempt, or None.

        Args:
          progress: AttemptProgress.
          saved: step of the latest checkpoint.
          shrunk_from: number of workers, where the next attempt has fewer: that is free once.
        """
        if saved > self._saved:
            self._used, self._saved = 0, saved
            self._shrunk.clear()
        step = progress.step if progress.begun is not None else None
        again = step is not None and step == self._step
        self._step = self._step if step is None else step
        if shrunk_from is not None and shrunk_from not in self._shrunk:
            self._shrunk.add(shrunk_from)
            return None
        self._used += 1
        if again and self._most:
            return f"it failed twice after step {step}"
        if self._used <= self._most:
            return None
        return f"no checkpoint later than step {saved} in {self._most} restarts (--max_restarts)"


class Attempt:
    """One attempt, from the start of its workers to their end.

    Attributes:
      failure: Failure, None where all ended well or as they were asked to.
      progress: AttemptProgress.
      codes: exit code of each rank.
    """

    def __init__(self, number: int, size: int, records: RunRecords, display: LaunchDisplay):
        self.number, self.size, self._display = number, size, display
        self.progress = AttemptProgress(records)
        self.codes: list[int] = []
        self.failure: Failure | None = None
        self.failed_at: float | None = None
        self.started = self._ended = time.time()
        self._output: Any = collections.defaultdict(lambda: collections.deque(maxlen=KEPT_LINES))
        self._stopped: dict[int, float] = collections.defaultdict(float)
        self._checked = time.monotonic()

    def take_line(self, rank: int, line: str) -> None:
        """Takes a line of a worker."""
        self._output[rank].append(line)
        self._display.worker(rank, line)

    def run(self, start: Callable[[], Any], limits: Limits, signals: StopSignals, update: Callable[[], None]) -> None:
        """Starts the workers and watches them until all have ended; calls `update` regularly."""
        workers = start()
        deadline, asked = float("inf"), False
        try:
            while workers.running and not self.failure and signals.count < 2:
                if signals.count and not asked:
                    workers.ask()
                    asked = True
                if (asked or len(workers.running) < len(workers.workers)) and deadline == float("inf"):
                    deadline = time.monotonic() + limits.stop_timeout
                workers.watch(POLL_SECONDS)
                update()
                self.failure = self._find(workers, limits, deadline)
            self.failed_at = time.time() if self.failure else None
            if workers.running:
                workers.stop(limits.grace_seconds, hurry=lambda: signals.count > 1)
        finally:
            workers.kill()
            workers.close()
        self.codes, self._ended = [worker.code for worker in workers.workers], time.time()
        if self.failure and self.failure.code is not None:  # Its last lines may have come after its end was noticed.
            self.failure = failures.describe(self.failure.rank, self.failure.what, self.failure.code, self._output)
        self.progress.update(now=True)

    def record(self) -> dict[str, Any]:
        """Returns the line of attempts.jsonl: times in seconds since the epoch, exit codes by rank."""
        failure, progress = self.failure, self.progress
        return {"attempt": self.number, "workers": self.size, "started": self.started, "failed": self.failed_at,
                "ended": self._ended, "step_at_start": progress.start, "first_step": progress.first_step,
                "step_reached": progress.step, "exit_codes": self.codes,
                "first_failing_rank": failure.rank if failure else None,
                "failure": failure.text if failure else None, "last_lines": list(failure.lines) if failure else []}

    def _find(self, workers: Any, limits: Limits, deadline: float) -> Failure | None:
        """Returns the Failure that ends the attempt now, or None."""
        found = failures.find(workers.workers, self._output)
        if found and not found.certain:
            first = min(worker.ended for worker in workers.workers if worker.code == failures.PEER_LOST)
            return found if time.monotonic() > first + PEER_SECONDS else None
        if found:
            return found
        # Bounded, since the clock continues while the whole machine is suspended.
        passed, self._checked = min(time.monotonic() - self._checked, 2 * POLL_SECONDS), time.monotonic()
        for worker in workers.running:
            self._stopped[worker.rank] = self._stopped[worker.rank] + passed if worker.stopped() else 0.0
            if self._stopped[worker.rank] >= limits.stopped_timeout:
                return failures.describe(worker.rank, "was stopped (SIGSTOP)", None, self._output)
        if time.monotonic() > deadline:
            return failures.describe(workers.running[0].rank, f"did not end within {limits.stop_timeout:g} s", None,
                                     self._output)
        return None


class Supervisor:
    """Makes attempts until the run is finished, asked to stop, or not worth another attempt."""

    def __init__(self, start: Start, sizes: Sequence[int], workdir: str, limits: Limits, display: LaunchDisplay,
                 signals: StopSignals):
        """Args: start: see local_workers.LocalStart; sizes: possible numbers of workers; workdir: of the run."""
        self._start, self._limits, self._display, self._signals = start, limits, display, signals
        self._records, self._sizes, self._lost = RunRecords(workdir), Sizes(sizes), LostTime()
        self._budget = Budget(limits.max_restarts, self._records.saved_step())
        self._attempts, self._failures = 0, 0

    def run(self) -> int:
        """Makes the attempts; returns the exit code: that of the trainer, or 128 + signal on a second signal."""
        path = self._records.file("attempts.jsonl")
        number = max((record["attempt"] for record in read_records(path)), default=-1) + 1
        file, code = JsonLines(path), None
        try:
            while code is None:
                if self._signals.count:  # It came between two attempts.
                    code = PREEMPTED
                    break
                attempt = Attempt(number, self._sizes.now, self._records, self._display)
                self._attempts += 1
                attempt.run(functools.partial(self._start, attempt.size, number, attempt.take_line), self._limits,
                            self._signals, functools.partial(self._update, attempt.progress))
                self._update(attempt.progress)
                file.append([attempt.record()])
                file.sync()
                number += 1
                code = self._conclude(attempt)
        finally:
            file.close()
            self._display.close()
        self._lost.end(time.time())
        lost = f", {self._lost.seconds:.1f} s lost" if self._failures else ""
        self._display.info(f"launch  {counted(self._attempts, 'attempt')}, {counted(self._failures, 'failure')}{lost}; "
                           f"{path}")
        return code

    def _update(self, progress: AttemptProgress) -> None:
        """Reads the attempt's progress, and reports when the step of the last failure is passed again."""
        progress.update()
        if progress.step_at is None:
            return
        step, seconds = self._lost.waiting_for, self._lost.reached(progress.step, progress.step_at)
        if seconds is not None and step:
            self._display.info(f"launch  step {step} is passed again after {seconds:.1f} s")

    def _conclude(self, attempt: Attempt) -> int | None:
        """Reports the result of an attempt; returns the exit code of the run, None where another attempt follows."""
        failure, signals = attempt.failure, self._signals
        if signals.count > 1:
            self._error("all workers were killed on the second signal")
            return 128 + signals.number
        if failure is None:
            return PREEMPTED if PREEMPTED in attempt.codes else 0
        self._failures += 1
        if failure.code == USAGE:
            own = [line for line in failure.lines if failures.OWN_LINE.match(line)]
            self._display.error(own[-1] if own else f"mirrorline launch: {failure.text}")
            return USAGE
        progress, saved, size = attempt.progress, self._records.saved_step(), attempt.size
        self._lost.failed(progress.step, progress.step_at or attempt.started)
        where = f"step {saved}" if saved else "the beginning"
        if signals.count:
            self._error(f"asked to stop, but {failure.text}; run the same command again to continue from {where}")
            return PREEMPTED
        smaller = self._sizes.failed(progress.first_step is not None)
        reason = self._budget.refuse(progress, saved, size if smaller else None)
        if reason:
            self._error(f"{reason}: {failure.text}")
            for line in failure.lines if len(failure.lines) > 1 else ():
                self._display.error(f"[{failure.rank}] {line}")
            return FAILURE
        now, how = self._sizes.now, ""
        if now != size:
            how = f"; {now} workers again" if now > size else f"; with {now}, since {size} cannot be started"
        self._error(f"{failure.text}, after step {progress.step}: restarting all workers from {where}{how}")
        return None

    def _error(self, text: str) -> None:
        self._display.error(f"mirrorline launch: {text}")
