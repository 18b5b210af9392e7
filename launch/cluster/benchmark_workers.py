"""The workers of a benchmark's cell: started as `mirrorline launch` starts them, watched as if they were one."""
import collections
import contextlib
import io
import signal
import sys
import time

from launch.cluster import failures
from launch.cluster.guard import Guard
from launch.cluster.local_workers import LocalStart
from launch.cluster.supervisor import ECHO_SECONDS
from pipeline.benchmark.sweep import CELL

KEPT_LINES = 400


class CellWorkers:
    """Starts the workers of one cell after another on this machine; a context manager, none outlives it.

    Each cell has ports of its own, so that one that ended badly leaves none to wait for.
    """

    def __init__(self, folder, gpus=()):
        """
        Args:
          folder: where they leave their logs.
          gpus: what CUDA_VISIBLE_DEVICES calls the GPUs that are shared out; empty where there are none.
        """
        self._folder, self._gpus, self._started = folder, gpus, []
        self._stack, self._start = contextlib.ExitStack(), None

    def __enter__(self):
        return self

    def __exit__(self, *error):
        for workers in self._started:
            workers.kill()
        self._stack.close()

    def __call__(self, order, count):
        """Starts `count` workers on the order in a file, always the same; returns Together.

        Raises:
          RunFailure: this machine cannot start them.
        """
        if self._start is None:
            guard = self._stack.enter_context(contextlib.closing(Guard()))
            self._start = LocalStart([sys.executable, "-m", CELL, order], self._folder, guard, self._gpus)
        lines = [collections.deque(maxlen=KEPT_LINES) for _ in range(count)]
        workers = self._start(count, 0, lambda rank, line: lines[rank].append(line))
        self._started.append(Together(workers, lines))
        return self._started[-1]


class Together:
    """Several workers as one process, which fails with the first of them, for the others then fail after it.

    Attributes:
      returncode: None while any runs; 0 where all ended well, else of the one that failed first.
      errors: binary file of what that one said, and a last line that tells which it was.
    """

    def __init__(self, workers, lines):
        """
        Args:
          workers: launch.cluster.local_workers.LocalWorkers.
          lines: of each rank, a list that grows.
        """
        self._workers, self._lines, self._deadline = workers, lines, None
        self.returncode, self.errors = None, io.BytesIO()

    def poll(self):
        """Sees who has ended; returns the returncode."""
        if self.returncode is None:
            self._workers.watch(0)
            if self._is_over():
                self._end(failures.find(self._workers.workers, dict(enumerate(self._lines))))
        return self.returncode

    def _is_over(self):
        codes = [worker.code for worker in self._workers.workers]
        if not any(codes):
            return None not in codes
        # Who has lost a peer may end before the peer is seen to have ended, whose failure it is.
        self._deadline = self._deadline or time.monotonic() + ECHO_SECONDS
        return bool(set(codes) - {0, None, failures.PEER_LOST}) or time.monotonic() > self._deadline

    def _end(self, failure):
        self._workers.kill()
        self._workers.close()
        if failure:
            said = [*self._lines[failure.rank], failure.text]
            self.errors.write("\n".join(said).encode())
        self.returncode = (failure.code or failures.PEER_LOST) if failure else 0

    def kill(self):
        """Ends all of them."""
        if self.returncode is None:
            self._end(None)
            self.returncode = -signal.SIGKILL

    def wait(self):
        """Returns the returncode of what has been ended."""
        return self.returncode
