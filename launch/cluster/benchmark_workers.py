"""The workers of a benchmark cell, started as `mirrorline launch` starts them and handled as one process."""
import collections
import contextlib
import io
import signal
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any, Self

from launch.cluster import failures
from launch.cluster.guard import Guard
from launch.cluster.local_workers import LocalStart, LocalWorkers
from launch.cluster.supervisor import PEER_SECONDS
from pipeline.benchmark.cell_runner import CELL

KEPT_LINES = 400


class CellWorkers:
    """Starts the workers of each cell on this machine; a context manager, none outlives it.

    Each cell has ports of its own, so that none has to wait for those of a failed one.
    """

    def __init__(self, folder: str, gpus: Sequence[str] = ()):
        """Args: folder: for their logs; gpus: values for CUDA_VISIBLE_DEVICES, divided among the workers."""
        self._folder, self._gpus = folder, gpus
        self._started: list[CombinedProcess] = []
        self._start: Callable[..., Any] | None = None
        self._stack = contextlib.ExitStack()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        for workers in self._started:
            workers.kill()
        self._stack.close()

    def __call__(self, order: str, count: int) -> "CombinedProcess":
        """Starts `count` workers with the request in a file, always the same file.

        Raises:
          RunFailure: this machine cannot start them.
        """
        if self._start is None:
            guard = self._stack.enter_context(contextlib.closing(Guard()))
            self._start = LocalStart([sys.executable, "-m", CELL, order], self._folder, guard, self._gpus)
        lines: list[collections.deque[str]] = [collections.deque(maxlen=KEPT_LINES) for _ in range(count)]
        workers = self._start(count, 0, lambda rank, line: lines[rank].append(line))
        self._started.append(CombinedProcess(workers, lines))
        return self._started[-1]


class CombinedProcess:
    """Several workers as one process, which fails with the first of them.

    Attributes:
      returncode: None while any runs; 0 where all succeeded, else of the one that failed first.
      errors: binary file of the output of that one, and a last line that names it.
    """

    def __init__(self, workers: LocalWorkers, lines: Sequence[Sequence[str]]):
        """Args: workers: of one cell; lines: output of each rank so far."""
        self._workers, self._lines = workers, lines
        self._deadline: float | None = None
        self.returncode: int | None = None
        self.errors = io.BytesIO()

    def poll(self) -> int | None:
        """Returns the returncode, None while any worker runs."""
        if self.returncode is None:
            self._workers.watch(0)
            if self._is_over():
                self._end(failures.find(self._workers.workers, dict(enumerate(self._lines))))
        return self.returncode

    def _is_over(self) -> bool:
        codes = [worker.code for worker in self._workers.workers]
        if not any(codes):
            return None not in codes
        # A worker that has lost a peer may end before the peer, whose failure it is, is known to have ended.
        self._deadline = self._deadline or time.monotonic() + PEER_SECONDS
        return bool(set(codes) - {0, None, failures.PEER_LOST}) or time.monotonic() > self._deadline

    def _end(self, failure: failures.Failure | None) -> None:
        self._workers.kill()
        self._workers.close()
        if failure:
            self.errors.write("\n".join([*self._lines[failure.rank], failure.text]).encode())
        self.returncode = (failure.code or failures.PEER_LOST) if failure else 0

    def kill(self) -> None:
        """Kills all of them."""
        if self.returncode is None:
            self._end(None)
            self.returncode = -signal.SIGKILL

    def wait(self) -> int | None:
        """Returns the returncode after the end."""
        return self.returncode
