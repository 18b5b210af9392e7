"""Watchdog: ends a run in which nothing finishes for too long, with a report of what it was doing.

A collective that waits for a replica, a read from a dead network disk or a deadlock never returns and raises nothing.
Standard library only.
"""
import contextlib
import datetime
import faulthandler
import os
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

from pipeline.files import sync_open

FAILURE = 1
PAUSES = 10  # Checks within the timeout.
STOPPED = 4  # Pauses between two checks after which the process itself was stopped, not the run.
LAST_WORDS = 10.0  # Seconds for each part of the report: the disk or the screen may be what hangs.


class Watchdog:
    """Ends the process if no `beat` comes for some seconds. Use as a context manager.

    Time in which the process was stopped (SIGSTOP, a suspended machine) does not count: the timeout starts again. The
    watchdog runs in a thread of its own, which works whatever the others wait for unless they hold Python's lock, and
    ends the process by `os._exit`, since nothing else ends a thread inside TensorFlow.
    """

    def __init__(self, seconds: float, path: str, describe: Callable[[], str],
                 on_hang: Callable[[dict], None] = lambda record: None):
        """
        Args:
          seconds: timeout, 0 for none.
          path: file of the report.
          describe: returns a line about the run: the reduction in use.
          on_hang: called with {"event": "hang", "wall_time", "seconds", "progress", "file"} before the end.
        """
        self.seconds, self.path, self._describe, self._on_hang = seconds, path, describe, on_hang
        self._ended = threading.Event()
        self._progress, self._since = "the start", time.monotonic()

    @contextlib.contextmanager
    def within(self, seconds: float) -> Iterator[None]:
        """Sets another timeout in the block, in seconds; 0 for none."""
        usual, self.seconds, self._since = self.seconds, seconds, time.monotonic()
        try:
            yield
        finally:
            self.seconds, self._since = usual, time.monotonic()

    def beat(self, text: str) -> None:
        """Records that something has finished: "step 120", "evaluation at step 120"."""
        self._progress, self._since = text, time.monotonic()

    def __enter__(self) -> "Watchdog":
        self._since = time.monotonic()
        self._thread = threading.Thread(target=self._watch, name="watchdog", daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *exception: Any) -> None:
        self._ended.set()
        self._thread.join()

    def _watch(self):
        pause = min(1.0, self.seconds / PAUSES) or 1.0
        looked = time.monotonic()
        while not self._ended.wait(pause):
            now = time.monotonic()
            if now - looked > STOPPED * pause:
                self._since = now
            looked = now
            if self.seconds and now - self._since >= self.seconds:
                self._end(now - self._since)

    def _end(self, seconds):
        """Writes the report, calls on_hang, prints one line and ends the process, whichever of these fails."""
        record = {"event": "hang", "wall_time": time.time(), "seconds": seconds, "progress": self._progress,
                  "file": os.path.basename(self.path)}
        fault = attempt(lambda: self._write(seconds), LAST_WORDS)
        attempt(lambda: self._on_hang(record), LAST_WORDS)
        attempt(lambda: self._report(seconds, fault), LAST_WORDS)
        os._exit(FAILURE)

    def _report(self, seconds, fault):
        where = f"the stacks of its threads are in {self.path}"
        if fault:
            where = f"{self.path} cannot be written ({fault}), so the stacks of its threads are above"
            faulthandler.dump_traceback(sys.__stderr__, all_threads=True)
        # A progress bar may have replaced sys.stderr.
        print(f"mirrorline: nothing finished for {seconds:.0f} s after {self._progress}, so the process ends; {where}; "
              "run the same command again to continue, on several GPUs perhaps with another --cross_device_reduction, "
              "or with NCCL_DEBUG=INFO before it to see what NCCL waits for", file=sys.__stderr__, flush=True)

    def _write(self, seconds):
        """Writes the report: time, progress, run, process and the Python stacks of all threads."""
        try:
            run = self._describe()
        except Exception as error:  # The stacks matter more.
            run = f"unknown ({error})"
        with open(self.path, "w", encoding="utf-8") as file:
            file.write(f"when       {datetime.datetime.now().astimezone().isoformat(timespec='seconds')}\n"
                       f"progress   {self._progress}, then nothing for {seconds:.1f} s\n"
                       f"run        {run}\n"
                       f"process    {os.getpid()} on {socket.gethostname()}\n")
            for thread in threading.enumerate():
                file.write(f"thread     0x{thread.ident:016x} {thread.name}\n")
            file.write("\n")
            file.flush()
            faulthandler.dump_traceback(file, all_threads=True)
            sync_open(file.fileno())


def attempt(work: Callable[[], Any], seconds: float) -> str | None:
    """Calls work() in another thread; returns None if that succeeded in time, else the reason as text."""
    outcome: list[str | None] = [f"no answer within {seconds:g} s"]

    def run():
        try:
            work()
            outcome[0] = None
        except Exception as error:
            outcome[0] = str(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(seconds)
    return outcome[0]
