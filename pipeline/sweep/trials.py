"""The process of a trial, and what is read of its run while it trains. Standard library only."""
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from typing import Any

from pipeline.files import read_cached_json
from pipeline.monitoring.metrics_log import parse_line
from pipeline.processes import child_environment, end_with, last_line
from pipeline.sweep.records import Trial

USAGE, PREEMPTED = 2, 75  # Exit codes of train.
TAIL = 2**16  # Bytes at the end of a log that are read for its last lines.


def start_process(arguments: Sequence[str], log: str) -> subprocess.Popen:
    """Starts `python -m ARGUMENTS`, which ends when this process does, even by SIGKILL.

    In a session of its own: this process handles Ctrl-C.

    Args:
      arguments: the module first.
      log: path of a file to which its output is appended.
    """
    with open(log, "ab") as file:
        return subprocess.Popen([sys.executable, "-m", *arguments], env=child_environment(), stdin=subprocess.DEVNULL,
                                stdout=file, stderr=subprocess.STDOUT, start_new_session=True,
                                preexec_fn=end_with(os.getpid()))


class TrialProcess:
    """The process of one trial.

    Attributes:
      trial: whose seconds grow.
      place: index of its place among the trials that run at the same time.
      asked: whether it was asked to stop.
    """

    def __init__(self, trial: Trial, place: int, arguments: Sequence[str], workdir: str, log: str):
        """
        Args:
          trial, place: see above.
          arguments: of `python -m`: the module of the command line, and its arguments.
          workdir: directory of the run.
          log: path of the file for its output.
        """
        self.trial, self.place, self.workdir, self._log = trial, place, workdir, log
        self.asked, self._began = False, time.monotonic()
        # Of metrics.jsonl: its size and the bytes read of it, and the last line.
        self._size: int | None = None
        self._read, self._last = 0, b""
        self._plan: dict[str, Any] = {}
        self._before = trial.seconds
        self._logged = os.path.getsize(log) if os.path.exists(log) else 0
        self._process = start_process(arguments, log)

    def poll(self) -> int | None:
        """Returns the exit code, or None while it runs."""
        code = self._process.poll()
        self.trial.seconds = round(self._before + time.monotonic() - self._began, 3)
        return code

    def stop(self) -> None:
        """Asks it to save and end, once: a second signal would end it immediately."""
        if not self.asked and self._process.poll() is None:
            self._process.send_signal(signal.SIGTERM)
        self.asked = True

    def kill(self) -> None:
        """Ends it by SIGKILL, and waits for it."""
        if self._process.poll() is None:
            self._process.kill()
        self._process.wait()

    def failure(self, code: int) -> str:
        """Returns in one line why it failed with this exit code."""
        if code < 0:
            return f"its process was ended by {signal.Signals(-code).name}"
        with open(self._log, "rb") as file:
            file.seek(max(self._logged, os.path.getsize(self._log) - TAIL))
            text = file.read().decode(errors="replace")
        # Libraries may have written after it.
        own = [line for line in text.splitlines() if line.startswith("mirrorline train: ")]
        return last_line(own[-1] if own else text) or f"its process ended with exit code {code} and no message"

    @property
    def plan(self) -> dict[str, Any]:
        """{"total_steps", "epochs_per_step", "epochs"} of config.json, {} before it is written."""
        stored = None if self._plan else read_cached_json(os.path.join(self.workdir, "config.json"))
        if stored:
            steps, examples = stored["plan"]["total_steps"], stored["data"]["num_train"]
            batch = stored["config"]["batch_size"]
            self._plan = {"total_steps": steps, "epochs_per_step": batch / examples, "epochs": steps * batch / examples}
        return self._plan

    def news(self) -> list[dict[str, Any]] | None:
        """Returns the evaluations that were added to metrics.jsonl since the last call, or None.

        Only new bytes are read, unless a rollback has replaced lines: then all evaluations are returned.
        """
        path = self._metrics
        size = os.path.getsize(path) if os.path.exists(path) else None
        if size == self._size or not self.plan:
            return None
        self._size = size
        return self._evaluations(self._read)

    @property
    def _metrics(self):
        return os.path.join(self.workdir, "metrics.jsonl")

    def evaluations(self) -> list[dict[str, Any]]:
        """Returns all evaluations in metrics.jsonl: [{"step", "epoch", "accuracy", "loss", "examples"}]."""
        return self._evaluations(0)

    def _evaluations(self, start):
        """Returns those from an offset on, which is 0 or the end of the last line that was read."""
        found, plan = [], self.plan
        with open(self._metrics, "rb") as file:
            file.seek(max(0, start - len(self._last)))
            if start and file.read(len(self._last)) != self._last:
                start = file.seek(0)
            self._read = start
            for line in file:
                if not line.endswith(b"\n"):
                    break
                self._read, self._last = self._read + len(line), line
                # Most lines are of steps, and are not parsed.
                record = parse_line(line.decode("utf-8", "replace")) if b'"evaluation"' in line else None
                if record is None:
                    continue
                found.append({"epoch": round(record["step"] * plan["epochs_per_step"], 4),
                              **{name: record[name] for name in ("step", "accuracy", "loss", "examples")}})
        return found

    def epoch(self) -> float:
        """Returns the epochs done as of the last line that was read of metrics.jsonl, 0.0 before the first."""
        record = parse_line(self._last.decode("utf-8", "replace"))
        return record["step"] * self.plan["epochs_per_step"] if record else 0.0
