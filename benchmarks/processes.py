"""The processes of the peers: one each, alive while it is measured, computing only on request."""
import json
import os
import pathlib
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from benchmarks.pulling import process_seconds
from pipeline.errors import RunFailure

REPOSITORY = pathlib.Path(__file__).resolve().parent.parent
PAUSE = 0.15  # Seconds between two blocks: for the threads of the one before to go to sleep.


class Process:
    """One peer in a process of its own; a context manager.

    Attributes:
      name: what it is called in messages.
      born: seconds since the epoch at which it was started.
    """

    def __init__(self, name: str, order: Mapping[str, Any], program: Sequence[str] = ("-m", "benchmarks.worker"),
                 checkout: pathlib.Path = REPOSITORY, python: str = sys.executable):
        """Starts it.

        Args:
          name: what it is called in messages.
          order: the request to the program, in JSON types.
          program: what Python runs, with the order as its last argument.
          checkout: whose modules are imported.
          python: the interpreter.
        """
        self.name, self._errors = name, tempfile.TemporaryFile()
        environment = {**os.environ, "PYTHONPATH": str(checkout), "TF_CPP_MIN_LOG_LEVEL": "3"}
        self.born = time.time()
        self._process = subprocess.Popen(
            [python, *program, json.dumps(order)], cwd=checkout, env=environment, text=True,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._errors)

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self._process.kill()
        self._process.wait()
        self._process.stdin.close()
        self._process.stdout.close()
        self._errors.close()

    def answer(self) -> dict[str, Any]:
        """Waits for what the process says next, a dict.

        Raises:
          RunFailure: it ended instead; carries its last line.
        """
        line = self._process.stdout.readline()
        if line:
            return json.loads(line)
        self._process.wait()
        self._errors.seek(0)
        text = self._errors.read().decode(errors="replace").strip()
        if "Traceback" in text:
            sys.stderr.write(text + "\n")  # A defect, which one line would not explain.
        raise RunFailure(f"{self.name} ended with {self._process.returncode}: {(text.splitlines() or ['no word'])[-1]}")

    def ask(self, command: str, **values: Any) -> dict[str, Any]:
        """Gives a command and returns the answer, a dict."""
        try:
            self._process.stdin.write(json.dumps({"command": command, **values}) + "\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            pass  # It has ended; the answer says why.
        return self.answer()

    def cpu_seconds(self) -> float:
        """Returns the processor time of all its threads so far."""
        return process_seconds(self._process.pid)


class Turns:
    """Lets processes compute in turns, one at a time, and watches that the others rest.

    Attributes:
      idle_share: the largest part of one core that all resting processes together used during a block.
    """

    def __init__(self, processes: Mapping[str, Process]):
        """
        Args:
          processes: {name: Process}.
        """
        self.processes, self.idle_share = processes, 0.0

    def ask(self, name: str, command: str, **values: Any) -> dict[str, Any]:
        """As Process.ask, after a pause."""
        time.sleep(PAUSE)
        others = [process for other, process in self.processes.items() if other != name]
        before, began = sum(p.cpu_seconds() for p in others), time.monotonic()
        answer = self.processes[name].ask(command, **values)
        seconds = time.monotonic() - began
        if seconds > 0.5:  # Processor time is counted in hundredths.
            self.idle_share = max(self.idle_share, (sum(p.cpu_seconds() for p in others) - before) / seconds)
        return answer


def in_order(names: Iterable[str], number: int) -> list[str]:
    """Returns names in the order of round `number`: every second one goes backwards, so that a drift cancels out."""
    return list(names) if number % 2 == 0 else list(names)[::-1]
