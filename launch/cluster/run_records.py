"""The progress of a run, read from its directory while another process writes there."""
import os
import time
from typing import Any

from pipeline.monitoring.launches import SAVED
from pipeline.monitoring.metrics_log import parse_line, read_records
from pipeline.verification.killing import latest_checkpoint

TAIL = 2**16  # Bytes at the end of metrics.jsonl that are searched for the last steps.
LOOK_SECONDS = 0.25


class RunRecords:
    """What supervisors read from a run's directory."""

    def __init__(self, workdir: str):
        self.workdir = workdir

    def file(self, *names: str) -> str:
        """Returns the path of a file of the run."""
        return os.path.join(self.workdir, *names)

    def launches(self) -> list[dict[str, Any]]:
        """Returns the records of launches.jsonl."""
        return list(read_records(self.file("launches.jsonl")))

    def saved_step(self) -> int:
        """Returns the latest step with a checkpoint, also a deleted one; 0 before the first.

        A process may be killed between publishing a checkpoint and recording it.
        """
        recorded = max((r["step"] for r in self.launches() if r["event"] in SAVED), default=0)
        return max(recorded, latest_checkpoint(self.workdir) or 0)

    def last_steps(self) -> list[dict[str, Any]]:
        """Returns the records of the last steps in metrics.jsonl, the latest at the end."""
        path = self.file("metrics.jsonl")
        try:
            with open(path, "rb") as file:
                file.seek(max(0, os.path.getsize(path) - TAIL))
                lines = file.read().decode("utf-8", "replace").splitlines(keepends=True)
        except FileNotFoundError:
            return []
        return [r for line in lines if (r := parse_line(line)) is not None and r.get("kind") == "train"]


class AttemptProgress:
    """The progress of one attempt.

    Attributes:
      begun: wall time at which the trainer had restored its checkpoint, None before.
      start: step from which it continued; until it begins, the latest saved step.
      step: latest recorded step; `start` before the first.
      step_at: wall time of `step`, None before the first step of this attempt.
      first_step: wall time of its first step, None before.
    """

    def __init__(self, records: RunRecords):
        """Args: records: of the run, before the attempt is started."""
        self._records, self._checked = records, 0.0
        self._starts = sum(r["event"] == "start" for r in records.launches())
        self.begun: float | None = None
        self.first_step: float | None = None
        self.step_at: float | None = None
        self.start = self.step = records.saved_step()

    def update(self, now: bool = False) -> None:
        """Reads the records again, unless they were read a moment ago and `now` is false."""
        if not now and time.monotonic() < self._checked + LOOK_SECONDS:
            return
        self._checked = time.monotonic()
        if self.begun is None:
            starts = [r for r in self._records.launches() if r["event"] == "start"][self._starts:]
            if not starts:
                return
            self.begun, self.start, self.step = starts[-1]["wall_time"], starts[-1]["step"], starts[-1]["step"]
        # Steps of the attempt before are removed only after the start was recorded.
        new = [r for r in self._records.last_steps() if r["step"] > self.start and r["wall_time"] >= self.begun]
        if new:
            self.step, self.step_at = new[-1]["step"], new[-1]["wall_time"]
            self.first_step = self.first_step or new[0]["wall_time"]


class LostTime:
    """The seconds lost by failures: from the last step before a failure until a later step is recorded.

    Attributes:
      seconds: total.
    """

    def __init__(self) -> None:
        self.seconds, self._step = 0.0, 0
        self._since: float | None = None

    @property
    def waiting_for(self) -> int | None:
        """The step that is not reached again yet, None where nothing is lost at the moment."""
        return self._step if self._since is not None else None

    def failed(self, step: int, when: float) -> None:
        """Records a failure after `step`, which was recorded at wall time `when`."""
        if self._since is None:
            self._since, self._step = when, step

    def reached(self, step: int, when: float) -> float | None:
        """Records a step; returns the seconds lost if it is the first new one, else None."""
        if self._since is None or step <= self._step:
            return None
        seconds, self._since = max(0.0, when - self._since), None
        self.seconds += seconds
        return seconds

    def end(self, when: float) -> None:
        """Counts the time until `when` as lost if the step was not reached again."""
        self.reached(self._step + 1, when)
