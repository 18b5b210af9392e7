"""launches.jsonl: the events of a run other than its steps; append only."""
import time
from typing import Any

from pipeline.monitoring.metrics_log import JsonLines, read_records

SAVED = ("saved", "rollback", "stop")  # Events of a checkpoint at any step.


class Launches(JsonLines):
    """The record of starts, stops, saves, losses, rollbacks, hangs, and of time spent."""

    def record(self, event: str, step: int, **more: Any) -> None:
        """Records an event of a global step durably."""
        self.append([{"event": event, "step": step, "wall_time": time.time(), **more}])
        self.sync()

    def latest_saved(self) -> int | None:
        """Returns the latest step of which a checkpoint was on the disk once, or None."""
        return latest_saved(self.path)

    def allowed(self, step: int) -> set[str]:
        """Returns the names of the settings that starts from the checkpoint of `step` were allowed to change.

        A process that is killed before it saves leaves a checkpoint without them.
        """
        return {name for r in read_records(self.path) if r["event"] == "start" and r["step"] == step
                for name, *_ in r.get("allowed", ())}


def latest_saved(path: str) -> int | None:
    """Returns the latest step with a checkpoint on the disk, according to a run's launches.jsonl, or None."""
    steps = [r["step"] for r in read_records(path) if r["event"] in SAVED or (r["event"] == "start" and r["step"] > 0)]
    return max(steps, default=None)
