"""How far a run has come, read from its directory beside the process that writes there."""
import os
import time

from pipeline.monitoring.launches import SAVED
from pipeline.monitoring.metrics_log import parse_line, read_records
from pipeline.verification.killing import newest_checkpoint

TAIL = 2**16  # Bytes of metrics.jsonl that are looked at for what came last.
LOOK_SECONDS = 0.25


class RunRecords:
    """What supervisors want to know of a run's directory."""

    def __init__(self, workdir):
        """Args: workdir: directory of the run."""
        self.workdir = workdir

    def file(self, *names):
        """Returns the path of a file of the run."""
        return os.path.join(self.workdir, *names)

    def launches(self):
        """Returns the records of launches.jsonl."""
        return list(read_records(self.file("launches.jsonl")))

    def saved_step(self):
        """Returns the newest step of which there is or was a checkpoint, 0 before the first.

        A process that is killed may have published one without having put it on record.
        """
        noted = max((r["step"] for r in self.launches() if r["event"] in SAVED), default=0)
        return max(noted, newest_checkpoint(self.workdir) or 0)

    def last_steps(self):
        """Returns the records of the last steps in metrics.jsonl, the newest at the end."""
        path = self.file("metrics.jsonl")
        try:
            with open(path, "rb") as file:
                file.seek(max(0, os.path.getsize(path) - TAIL))
                lines = file.read().decode("utf-8", "replace").splitlines(keepends=True)
        except FileNotFoundError:
            return []
        return [r for line in lines if (r := parse_line(line)) is not None and r.get("kind") == "train"]


class AttemptProgress:
    """How far one attempt has come.

    Attributes:
      begun: wall time of when the trainer had restored what there was, None before.
      start: the step that it went on from; until it begins, the newest that is saved.
      step: the newest step that it has recorded; `start` before the first.
      first_step: wall time of its first step, None before.
    """

    def __init__(self, records):
        """Args: records: RunRecords, as they are before the attempt is started."""
        self._records = records
        self._starts = self._count_starts()
        self.begun, self.first_step, self._looked = None, None, 0.0
        self.start = self.step = records.saved_step()
        self.step_at = None  # Wall time of `step`, once there is one of this attempt.

    def _count_starts(self):
        return sum(r["event"] == "start" for r in self._records.launches())

    def look(self, now=False):
        """Reads anew, unless that was a moment ago and it need not be `now`."""
        if not now and time.monotonic() < self._looked + LOOK_SECONDS:
            return
        self._looked = time.monotonic()
        if self.begun is None:
            starts = [r for r in self._records.launches() if r["event"] == "start"][self._starts:]
            if not starts:
                return
            self.begun, self.start, self.step = starts[-1]["wall_time"], starts[-1]["step"], starts[-1]["step"]
        # Steps of the attempt before stand there until they are cut, after the start was noted.
        new = [r for r in self._records.last_steps() if r["step"] > self.start and r["wall_time"] >= self.begun]
        if new:
            self.step, self.step_at = new[-1]["step"], new[-1]["wall_time"]
            self.first_step = self.first_step or new[0]["wall_time"]


class LostTime:
    """The seconds in which nothing new was computed, added up over failures.

    From the last step on record before a failure until a later one is on record: what is computed again, and
    everything between.

    Attributes:
      seconds: float.
    """

    def __init__(self):
        self.seconds, self._since, self._step = 0.0, None, 0

    @property
    def waiting_for(self):
        """The step that is not reached again yet, None where nothing is lost at the moment."""
        return self._step if self._since is not None else None

    def failed(self, step, when):
        """Takes note of a failure after `step`, recorded at the wall time `when`."""
        if self._since is None:
            self._since, self._step = when, step

    def reached(self, step, when):
        """Takes note of a step; returns the seconds lost where it is the first new one, else None."""
        if self._since is None or step <= self._step:
            return None
        seconds, self._since = max(0.0, when - self._since), None
        self.seconds += seconds
        return seconds

    def end(self, when):
        """Counts what was not made up for as lost until `when`."""
        self.reached(self._step + 1, when)
