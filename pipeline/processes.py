"""Child processes of this program, which end with it. Standard library only."""
import ctypes
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Mapping
from typing import IO, Any, Self

from pipeline.distributed.cluster import VARIABLE
from pipeline.errors import RunFailure, UsageError

USAGE, FAILURE = 2, 1
POLL_SECONDS = 0.002
# Variables that make a process one of several workers: see launch.cluster.adapters.
OF_WORKERS = (VARIABLE, "SLURM_STEP_NODELIST", "JOB_COMPLETION_INDEX")
PR_SET_PDEATHSIG = 1  # <linux/prctl.h>


class Processes:
    """Processes of the same Python, code and working directory; those still running are killed at the end.

    A context manager. Processes may be started from several threads.

    Attributes:
      ended: whether it is being left: errors of processes from then on are of their being killed.
    """

    def __init__(self, timeout: float):
        """Args: timeout: seconds that one process may take."""
        self.timeout, self.ended, self._lock = timeout, False, threading.Lock()
        self._running: list[Any] = []
        self._environment = child_environment()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        with self._lock:
            self.ended = True
            for process in self._running:
                process.kill()
        for process in self._running:
            process.wait()
            process.errors.close()

    def start(self, *arguments: str) -> Any:
        """Starts `python ARGUMENTS` in a session of its own, since this process handles Ctrl-C.

        Returns:
          subprocess.Popen with the attribute `errors`, a binary file of its standard error.
        """
        errors: IO[bytes] = tempfile.TemporaryFile()
        with self._lock:
            if self.ended:
                raise RunFailure("ended while starting another process")
            process: Any = subprocess.Popen([sys.executable, *arguments], env=self._environment,
                                            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=errors,
                                            start_new_session=True)
            process.errors = errors
            self._running.append(process)
        return process

    def finish(self, process: Any) -> None:
        """Waits for a process to succeed.

        Raises:
          UsageError: it ended with exit code 2; carries its line.
          RunFailure: it failed otherwise, or did not end within the time limit; carries its last line.
        """
        try:
            code = process.wait(self.timeout)
        except subprocess.TimeoutExpired:
            process.kill()
            raise RunFailure(f"a process did not end within {self.timeout:g} s") from None
        if not code:
            return
        text = read_errors(process)
        if "Traceback" in text and not self.ended:
            sys.stderr.write(text)  # A defect, which one line would not explain.
        if code == USAGE:
            raise UsageError(last_line(text))
        raise RunFailure(last_line(text) or f"a process ended with {code} and without a message")

    def kill_when(self, process: Any, condition: Callable[[], bool]) -> None:
        """Kills a running process (SIGKILL) as soon as a condition, checked every few milliseconds, holds.

        Raises:
          UsageError, RunFailure: it ended by itself before, or the condition never held.
        """
        deadline = time.monotonic() + self.timeout
        while not condition():
            if process.poll() is not None:
                self.finish(process)
                raise RunFailure("the run was over before it could be killed; give it more --verify_steps")
            if time.monotonic() > deadline:
                raise RunFailure(f"a process did not reach the point at which it is killed within {self.timeout:g} s")
            time.sleep(POLL_SECONDS)
        process.kill()
        process.wait()


def read_errors(process: Any) -> str:
    """Returns what an ended process wrote to standard error."""
    process.errors.seek(0)
    return process.errors.read().decode(errors="replace")


def last_line(text: str) -> str:
    """Returns the last line of a text, without the name of the command in front."""
    last = (text.strip().splitlines() or [""])[-1].strip()
    name, colon, rest = last.partition(": ")
    return rest if colon and name.startswith("mirrorline") else last


def child_environment(environment: Mapping[str, str] | None = None) -> dict[str, str]:
    """Returns the variables (default os.environ) for a child that runs the same code and is not a worker."""
    values = {name: value for name, value in (os.environ if environment is None else environment).items()
              if name not in OF_WORKERS}
    if not {"", os.getcwd()} & set(sys.path):
        values["PYTHONSAFEPATH"] = "1"  # Otherwise `-m` would search the working directory first.
    return values


def end_with(parent: int) -> Callable[[], None]:
    """Returns a function for a new process, which the kernel then kills when the process `parent` is gone.

    The thread that started the new process has to live as long as the parent.
    """
    libc = ctypes.CDLL(None)

    def tie():
        libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        if os.getppid() != parent:  # It ended before this call.
            os._exit(FAILURE)

    return tie
