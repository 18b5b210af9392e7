"""launches.jsonl: what happened to a run beside its steps; append only."""
import time

from pipeline.monitoring.metrics_log import JsonLines, read_records

SAVED = ("saved", "rollback", "stop")  # Events that tell of a checkpoint, whatever their step.


class Launches(JsonLines):
    """The record of starts, stops, saves, losses, rollbacks, hangs, and of what was spent."""

    def record(self, event, step, **more):
        """Puts an event of a global step on record, durably."""
        self.append([{"event": event, "step": step, "wall_time": time.time(), **more}])
        self.sync()

    def newest_saved(self):
        """Returns the newest step of which a checkpoint was on the disk once, or None."""
        return newest_saved(self.path)

    def allowed(self, step):
        """Returns the names of the settings that starts from the checkpoint of `step` were allowed to change.

        A process that is killed before it saves leaves a checkpoint that does not know of them.
        """
        return {name for r in read_records(self.path) if r["event"] == "start" and r["step"] == step
                for name, *_ in r["allowed"]}


def newest_saved(path):
    """Returns the newest step of which a run's launches.jsonl says that a checkpoint was on the disk, or None."""
    steps = [r["step"] for r in read_records(path) if r["event"] in SAVED or (r["event"] == "start" and r["step"] > 0)]
    return max(steps, default=None)
