"""Attempts at a run by several workers: start all, watch, stop all when one fails, start anew from the checkpoint.

A worker that fails takes its peers with it: they cannot compute without it, and after an error of a collective their
processes are of no more use. So every failure ends the attempt, and the next one begins from the newest checkpoint.
What is started, and how, is handed in: this module knows ranks, exit codes and the run's directory.
"""
import collections
import dataclasses
import signal
import time

from launch.cluster import failures
from launch.cluster.failures import PREEMPTED, USAGE
from launch.cluster.run_records import AttemptProgress, LostTime, RunRecords
from pipeline import terminal
from pipeline.monitoring.metrics_log import JsonLines, read_records
from pipeline.quantities import counted
from pipeline.training.preemption import ORDERS, heard

POLL_SECONDS = 0.05
ECHO_SECONDS = 1.0  # Where all that ended have lost a peer: how long the cause may take to show.
KEPT_LINES = 60
FAILURE = 1


@dataclasses.dataclass(frozen=True)
class Limits:
    """What a supervisor may take.

    Attributes:
      max_restarts: restarts without a new checkpoint.
      grace_seconds: seconds from SIGTERM to SIGKILL, where a worker has failed.
      stop_timeout: seconds that workers have to save and end, once asked to or once the first has ended.
      stopped_timeout: seconds that a worker may be stopped (SIGSTOP).
    """

    max_restarts: int = 3
    grace_seconds: float = 5.0
    stop_timeout: float = 300.0
    stopped_timeout: float = 15.0


class StopSignals:
    """What asks to stop, counted as a trainer does, see preemption; a context manager for the main thread.

    Attributes:
      count: how many came; of notices, such as of a closed terminal, only the first where no order came.
      number: the last one.
    """

    def __init__(self):
        self.count, self.number, self._orders = 0, None, 0

    def _take(self, number, _):
        self._orders += number in ORDERS
        self.count, self.number = max(1, self._orders), number
        if number == signal.SIGHUP:
            terminal.let_go()

    def __enter__(self):
        self._before = {number: signal.signal(number, self._take) for number in heard()}
        return self

    def __exit__(self, *exception):
        for number, handler in self._before.items():
            signal.signal(number, handler)


class Sizes:
    """With how many workers an attempt is made.

    The most there may be, unless that many cannot be started: two attempts in a row without a step make it fewer, and
    one where that happened before. After an attempt with a step the most are tried again.

    Attributes:
      now: number of workers of the next attempt.
    """

    def __init__(self, sizes):
        """Args: sizes: numbers of workers that are possible."""
        self._sizes = sorted(sizes, reverse=True)
        self.now, self._vain = self._sizes[0], collections.Counter()

    def failed(self, stepped):
        """Takes note of a failed attempt, and whether it made a step; returns whether the next one is smaller."""
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
    """Restarts that are left. A checkpoint later than at the last failure renews them."""

    def __init__(self, most, saved):
        """
        Args:
          most: restarts without a new checkpoint.
          saved: step of the newest checkpoint as it is.
        """
        self._most, self._saved, self._used, self._shrunk, self._step = most, saved, 0, set(), None

    def refuse(self, progress, saved, shrunk_from=None):
        """Takes note of a failure; returns why there is no other attempt, None where there is one.

        Args:
          progress: AttemptProgress.
          saved: step of the newest checkpoint.
          shrunk_from: the number of workers, where the next attempt has fewer: that is free once.
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
    """One attempt, from the start of its workers until all are gone.

    Attributes:
      failure: Failure, None where all ended well or as they were asked to.
      progress: AttemptProgress.
      codes: exit code of each rank.
    """

    def __init__(self, number, size, records, screen):
        """
        Args:
          number: of the attempt, from 0.
          size: number of workers.
          records: RunRecords.
          screen: Screen.
        """
        self.number, self.size, self._screen = number, size, screen
        self.progress, self.failure, self.codes, self.failed_at = AttemptProgress(records), None, [], None
        self.started, self._said = time.time(), collections.defaultdict(lambda: collections.deque(maxlen=KEPT_LINES))
        self._stopped, self._looked, self._ended = collections.Counter(), time.monotonic(), None

    def take_line(self, rank, line):
        """Takes a line of a worker."""
        self._said[rank].append(line)
        self._screen.worker(rank, line)

    def run(self, start, limits, signals, look):
        """Starts the workers and watches until all have ended.

        Args:
          start: function -> the workers, see local_workers.LocalWorkers.
          limits: Limits.
          signals: StopSignals.
          look: called every moment, for what else is to be seen to.
        """
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
                look()
                self.failure = self._find(workers, limits, deadline)
            self.failed_at = time.time() if self.failure else None
            if workers.running:
                workers.stop(limits.grace_seconds, hurry=lambda: signals.count > 1)
        finally:
            workers.kill()
            workers.close()
        self.codes, self._ended = [worker.code for worker in workers.workers], time.time()
        if self.failure and self.failure.code is not None:  # Its last words may have come after its end was seen.
            self.failure = failures.describe(self.failure.rank, self.failure.what, self.failure.code, self._said)
        self.progress.look(now=True)

    def record(self):
        """Returns the line of attempts.jsonl: times in seconds since the epoch, exit codes by rank."""
        failure, progress = self.failure, self.progress
        return {"attempt": self.number, "workers": self.size, "started": self.started, "failed": self.failed_at,
                "ended": self._ended, "step_at_start": progress.start, "first_step": progress.first_step,
                "step_reached": progress.step, "exit_codes": self.codes,
                "first_failing_rank": failure.rank if failure else None,
                "failure": failure.text if failure else None, "last_lines": list(failure.lines) if failure else []}

    def _find(self, workers, limits, deadline):
        """Returns the Failure that ends the attempt now, or None."""
        found = failures.find(workers.workers, self._said)
        if found and not found.certain:
            first = min(worker.ended for worker in workers.workers if worker.code == failures.PEER_LOST)
            return found if time.monotonic() > first + ECHO_SECONDS else None
        if found:
            return found
        # The clock goes on while the whole machine sleeps, and then everybody seems to have been stopped for long.
        passed, self._looked = min(time.monotonic() - self._looked, 2 * POLL_SECONDS), time.monotonic()
        for worker in workers.running:
            self._stopped[worker.rank] = self._stopped[worker.rank] + passed if worker.stopped() else 0.0
            if self._stopped[worker.rank] >= limits.stopped_timeout:
                return failures.describe(worker.rank, "was stopped (SIGSTOP)", None, self._said)
        if time.monotonic() > deadline:
            return failures.describe(workers.running[0].rank, f"did not end within {limits.stop_timeout:g} s", None,
                                     self._said)
        return None


class Supervisor:
    """Makes attempts until the run is done, asked to stop, or not worth another one."""

    def __init__(self, start, sizes, workdir, limits, screen, signals):
        """
        Args:
          start: function (number of workers, attempt, on_line) -> its workers, see local_workers.LocalStart.
          sizes: numbers of workers that are possible.
          workdir: directory of the run.
          limits: Limits.
          screen: Screen.
          signals: StopSignals.
        """
        self._start, self._limits, self._screen, self._signals = start, limits, screen, signals
        self._records, self._sizes, self._lost = RunRecords(workdir), Sizes(sizes), LostTime()
        self._budget = Budget(limits.max_restarts, self._records.saved_step())
        self._attempts, self._failures = 0, 0

    def run(self):
        """Makes the attempts; returns the exit code: that of the trainer, or 128 + signal on a second signal."""
        path = self._records.file("attempts.jsonl")
        number = max((record["attempt"] for record in read_records(path)), default=-1) + 1
        file, code = JsonLines(path), None
        try:
            while code is None:
                if self._signals.count:  # It came between two attempts.
                    code = PREEMPTED
                    break
                attempt = Attempt(number, self._sizes.now, self._records, self._screen)
                self._attempts += 1
                attempt.run(lambda attempt=attempt: self._start(attempt.size, attempt.number, attempt.take_line),
                            self._limits, self._signals, lambda attempt=attempt: self._look(attempt))
                self._look(attempt)
                file.append([attempt.record()])
                file.sync()
                number += 1
                code = self._judge(attempt)
        finally:
            file.close()
            self._screen.close()
        self._lost.end(time.time())
        self._conclude(path)
        return code

    def _look(self, attempt):
        """Sees how far the attempt has come, and whether it has made up for the failure before."""
        progress = attempt.progress
        progress.look()
        if progress.step_at is None:
            return
        step, seconds = self._lost.waiting_for, self._lost.reached(progress.step, progress.step_at)
        if seconds is not None and step:
            self._screen.info(f"launch  step {step} is passed again after {seconds:.1f} s")

    def _judge(self, attempt):
        """Says what came of an attempt; returns the exit code of the run, None where another attempt follows."""
        failure, signals = attempt.failure, self._signals
        if signals.count > 1:
            self._report("all workers were killed on the second signal")
            return 128 + signals.number
        if failure is None:
            return PREEMPTED if PREEMPTED in attempt.codes else 0
        self._failures += 1
        if failure.code == USAGE:
            own = [line for line in failure.lines if failures.OWN_WORDS.match(line)]
            self._screen.error(own[-1] if own else f"mirrorline launch: {failure.text}")
            return USAGE
        progress, saved, size = attempt.progress, self._records.saved_step(), attempt.size
        self._lost.failed(progress.step, progress.step_at or attempt.started)
        where = f"step {saved}" if saved else "the beginning"
        if signals.count:
            self._report(f"asked to stop, but {failure.text}; run the same command again to go on from {where}")
            return PREEMPTED
        smaller = self._sizes.failed(progress.first_step is not None)
        why = self._budget.refuse(progress, saved, size if smaller else None)
        if why:
            self._report(f"{why}: {failure.text}")
            for line in failure.lines if len(failure.lines) > 1 else ():
                self._screen.error(f"[{failure.rank}] {line}")
            return FAILURE
        now, how = self._sizes.now, ""
        if now != size:
            how = f"; {now} workers again" if now > size else f"; {now} of them, since {size} cannot be started"
        self._report(f"{failure.text}, after step {progress.step}: all start anew from {where}{how}")
        return None

    def _report(self, text):
        self._screen.error(f"mirrorline launch: {text}")

    def _conclude(self, path):
        lost = f", {self._lost.seconds:.1f} s lost" if self._failures else ""
        self._screen.info(f"launch  {counted(self._attempts, 'attempt')}, "
                          f"{counted(self._failures, 'failure')}{lost}; {path}")
