"""The count of unreadable files that a run has skipped, over all its launches and workers."""
import numpy as np

from pipeline.monitoring.launches import Launches
from pipeline.monitoring.metrics_log import read_records
from pipeline.training.experiment import Experiment


class SkippedFiles:
    """Counts the files that were replaced up to a step.

    A stream reads ahead of the step: so each file is kept with the first position at which it was replaced. They are
    recorded before each checkpoint, of all workers by each: a resume reads no earlier position again.
    """

    def __init__(self, experiment: Experiment, launches: Launches):
        """Args: launches: the run's record, in which its earlier launches are."""
        self._experiment, self._launches = experiment, launches
        self._unreadable = experiment.source.unreadable
        self._first: dict[str, int] = {}
        for record in read_records(launches.path) if self._unreadable else ():
            if record["event"] == "replaced":
                self._add(record.get("files", {}).items())

    def record(self, step: int) -> None:
        """Records the files replaced since the last call; every worker calls it at the same step."""
        if self._unreadable is None:
            return
        own = np.array(self._unreadable.found(), np.float64).reshape(-1, 2)
        found = [(self._unreadable.name(int(start)), int(position))
                 for start, position in self._experiment.workers.gathered(own)]
        new = self._add(found)
        if new:
            self._launches.record("replaced", step, files=new)

    def describe(self, step: int) -> dict[str, dict[str, int]]:
        """Returns the part of result.json at a step, after `record`; {} without --skip_unreadable."""
        if self._unreadable is None:
            return {}
        seen = step * self._experiment.plan.batch_size
        return {"unreadable_files": {"left_out": self._unreadable.left_out,
                                     "replaced": sum(position < seen for position in self._first.values())}}

    def _add(self, files):
        """Adds pairs (name, position); returns {name: position} of those that were not known."""
        new = {}
        for name, position in files:
            if position < self._first.get(name, position + 1):
                self._first[name] = new[name] = position
        return new
