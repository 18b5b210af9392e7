"""A trial's process, and what is read from its directory while it runs. Standard library only."""
import os
import signal
import subprocess
import sys
import time

from pipeline.files import read_cached_json
from pipeline.monitoring.metrics_log import parse_line
from pipeline.processes import child_environment, last_line

USAGE, PREEMPTED = 2, 75  # Exit codes of train.
TAIL = 2**16  # Bytes of a log and of metrics.jsonl that are looked at for what came last.


def start_process(arguments, log):
    """Starts `python -m ARGUMENTS`, which ends when this process does, however that ends.

    In a session of its own: Ctrl-C is for this process to deal with.

    Args:
      arguments: list of str, the module first.
      log: path of the file that what it says is added to.

    Returns:
      subprocess.Popen.
    """
    with open(log, "ab") as file:
        return subprocess.Popen([sys.executable, "-m", "pipeline.sweep.trial_process", str(os.getpid()), *arguments],
                                env=child_environment(), stdin=subprocess.DEVNULL, stdout=file,
                                stderr=subprocess.STDOUT, start_new_session=True)


class TrialProcess:
    """The process of one trial.

    Attributes:
      place: which of the places for trials it has.
      asked: whether it was asked to stop.
    """

    def __init__(self, trial, place, arguments, workdir, log):
        """
        Args:
          trial: Trial; its seconds grow.
          place: int.
          arguments: of `python -m`: the module of the command line, and its arguments.
          workdir: directory of the run.
          log: path of the file for what it says.
        """
        self.trial, self.place, self.workdir, self._log = trial, place, workdir, log
        self.asked, self._began = False, time.monotonic()
        self._size, self._read, self._last = None, 0, b""  # Of metrics.jsonl: its bytes, those read, the last line.
        self._before, self._plan = trial.seconds, None
        self._said = os.path.getsize(log) if os.path.exists(log) else 0
        self._process = start_process(arguments, log)

    def poll(self):
        """Returns the exit code, or None while it runs."""
        code = self._process.poll()
        self.trial.seconds = round(self._before + time.monotonic() - self._began, 3)
        return code

    def stop(self):
        """Asks it to save and end, once: a second signal would end it at once."""
        if not self.asked and self._process.poll() is None:
            self._process.send_signal(signal.SIGTERM)
        self.asked = True

    def kill(self):
        """Ends it by SIGKILL, and waits until it is gone."""
        if self._process.poll() is None:
            self._process.kill()
        self._process.wait()

    def failure(self, code):
        """Returns in one line why it ended with an exit code that is no good end."""
        if code < 0:
            return f"its process was ended by {signal.Signals(-code).name}"
        with open(self._log, "rb") as file:
            file.seek(max(self._said, os.path.getsize(self._log) - TAIL))
            said = file.read().decode(errors="replace")
        # Libraries may have spoken after it.
        own = [line for line in said.splitlines() if line.startswith("mirrorline train: ")]
        return last_line(own[-1] if own else said) or f"its process ended with {code} and without a word"

    @property
    def plan(self):
        """What config.json says of the run's length, {} as long as there is none."""
        stored = None if self._plan else read_cached_json(os.path.join(self.workdir, "config.json"))
        if stored:
            steps, examples = stored["plan"]["total_steps"], stored["data"]["num_train"]
            batch = stored["config"]["batch_size"]
            self._plan = {"total_steps": steps, "epochs_per_step": batch / examples, "epochs": steps * batch / examples}
        return self._plan or {}

    def news(self):
        """Returns the evaluations that metrics.jsonl has more of since it was asked last, or None.

        Only what was added is read. Where the run went back and wrote other lines, all are new.
        """
        path = os.path.join(self.workdir, "metrics.jsonl")
        size = os.path.getsize(path) if os.path.exists(path) else None
        if size == self._size or not self.plan:
            return None
        self._size = size
        return self._evaluations(self._read)

    def evaluations(self):
        """Returns the evaluations in metrics.jsonl: [{"step", "epoch", "accuracy", "loss", "examples"}]."""
        return self._evaluations(0)

    def _evaluations(self, start):
        """Returns those in the lines from an offset on, 0 or the end of the last line that was read."""
        found, plan = [], self.plan
        with open(os.path.join(self.workdir, "metrics.jsonl"), "rb") as file:
            file.seek(max(0, start - len(self._last)))
            if start and file.read(len(self._last)) != self._last:
                start = file.seek(0)
            self._read = start
            for line in file:
                if not line.endswith(b"\n"):
                    break
                self._read, self._last = self._read + len(line), line
                # Most lines are of steps, and not worth reading.
                record = parse_line(line.decode("utf-8", "replace")) if b'"evaluation"' in line else None
                if record is None:
                    continue
                found.append({"epoch": round(record["step"] * plan["epochs_per_step"], 4),
                              **{name: record[name] for name in ("step", "accuracy", "loss", "examples")}})
        return found

    def epoch(self):
        """Returns how many epochs are done as of the last whole line of metrics.jsonl, 0.0 before the first."""
        path = os.path.join(self.workdir, "metrics.jsonl")
        if not self.plan or not os.path.exists(path):
            return 0.0
        with open(path, "rb") as file:
            file.seek(max(0, os.path.getsize(path) - TAIL))
            lines = file.read().decode("utf-8", "replace").splitlines(keepends=True)
        records = (parse_line(line) for line in reversed(lines))
        return next((record["step"] for record in records if record), 0) * self.plan["epochs_per_step"]
