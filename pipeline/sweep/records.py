"""The records of a sweep in sweep.json, written whole after every change, so that it can resume from any moment.

Standard library only.
"""
import contextlib
import csv
import dataclasses
import io
import os
from collections.abc import Mapping, Sequence
from typing import Any, get_origin

from pipeline import locks
from pipeline.errors import UsageError
from pipeline.files import read_json, write_json, write_text
from pipeline.run_directory import claim_folder, differences, free_path, length
from pipeline.sweep.space import value_text

SCHEMA = 1
RUNNING, STOPPED, FINISHED, PRUNED, FAILED = "running", "stopped", "finished", "pruned", "failed"
STATUSES = (RUNNING, STOPPED, FINISHED, PRUNED, FAILED)
OPEN = (RUNNING, STOPPED)  # To be continued.
FIGURES = ("accuracy", "loss")
_KINDS = {float: int | float, float | None: int | float | None}  # A whole number may be written without a point.


@dataclasses.dataclass
class Trial:
    """One set of values and its results.

    Attributes:
      number: from 1.
      values: {option name: value}.
      status: "running", "stopped" (to be continued), "finished", "pruned" or "failed".
      evaluations: [{"step", "epoch", "accuracy", "loss"}] on the validation split, in order; a loss that is not finite
        is None. Those after it was pruned are left out.
      examples: of the validation split, None before the first evaluation.
      epochs: length of the run, None before it starts.
      seconds: wall time of its processes.
      message: why it failed.
      rungs: Optuna's state of successive halving.
    """

    number: int
    values: dict[str, Any]
    status: str = RUNNING
    evaluations: list[dict[str, Any]] = dataclasses.field(default_factory=list)
    examples: int | None = None
    epochs: float | None = None
    seconds: float = 0.0
    message: str | None = None
    rungs: dict[str, Any] = dataclasses.field(default_factory=dict)

    @property
    def name(self) -> str:
        """Name of its folder."""
        return f"trial-{self.number:04d}"

    @property
    def last(self) -> dict[str, Any]:
        """Its last evaluation, {} before the first."""
        return self.evaluations[-1] if self.evaluations else {}

    def order(self, metric: str) -> tuple[float, ...]:
        """Returns a key that sorts the better trial first: by the metric of its last evaluation, ties by the other."""
        accuracy, loss = self.last.get("accuracy"), self.last.get("loss")
        keys = {"accuracy": 1.0 if accuracy is None else -accuracy, "loss": float("inf") if loss is None else loss}
        return (keys[metric], *(keys[name] for name in FIGURES if name != metric), self.number)


def ranked(trials: Sequence[Trial], metric: str) -> list[Trial]:
    """Returns the trials in the order of the leaderboard: finished ones, best first, then running, pruned, failed."""
    places = {FINISHED: 0, RUNNING: 1, STOPPED: 1, PRUNED: 2, FAILED: 3}
    return sorted(trials, key=lambda trial: (places[trial.status], trial.order(metric)))


def best(trials: Sequence[Trial], metric: str) -> Trial | None:
    """Returns the best finished trial, or None."""
    first = ranked(trials, metric)[:1]
    return first[0] if first and first[0].status == FINISHED else None


class SweepDirectory:
    """The folder of a sweep and its files.

    Attributes:
      path: the folder.
      settings: {"space": {name: text}, "search", "prune", "flags": {option: value}, "metric",
        "extensions": {file name: SHA-256}}, which identify the sweep.
      trials: by number.
    """

    def __init__(self, path: str, settings: dict[str, Any]):
        """Reads what is there; writes nothing.

        Raises:
          UsageError: the path is no folder of a sweep, or of one with other settings; suggests a free one.
        """
        self.path, self.settings = path, settings
        self._lock: locks.Lock | None = None
        self.trials = self._stored()

    def _stored(self):
        """Returns the trials in sweep.json, [] without one; raises UsageError as the constructor does."""
        free = f"--output={free_path(self.path)}"
        if os.path.exists(self.path) and not os.path.isdir(self.path):
            raise UsageError(f"--output={self.path} is a file, not a directory; e.g. {free}")
        stored = read_json(self.file("sweep.json"), ("settings", "trials"))
        if stored is None:
            if os.path.isdir(self.path) and set(os.listdir(self.path)) - {*locks.FILES, "sweep.json.tmp"}:
                raise UsageError(f"--output={self.path} holds files that are not of a sweep; give an empty or new "
                                 f"directory, e.g. {free}")
            return []
        try:
            changed, trials = changes(stored["settings"], self.settings), [Trial(**t) for t in stored["trials"]]
            for trial in trials:
                _check(trial, self.settings["space"])
        except (TypeError, KeyError, AttributeError) as error:
            raise UsageError(f"{self.file('sweep.json')} cannot be read: it is not a sweep ({error})") from None
        if changed:
            raise UsageError(f"{self.path} holds a sweep with other settings: {', '.join(changed)}; start another with "
                             f"{free}")
        return trials

    def file(self, *names: str) -> str:
        """Returns the path of a file in the folder."""
        return os.path.join(self.path, *names)

    def claim(self) -> None:
        """Creates the folder and locks it until the process ends.

        sweep.json is read again: another process may have continued the sweep in the meantime.

        Raises:
          UsageError: it cannot be written, another process holds it, or has started another sweep there.
        """
        self._lock = claim_folder("--output", self.path)
        try:
            self.trials = self._stored()
        except UsageError:
            self.close()
            raise

    def close(self) -> None:
        """Releases the lock."""
        if self._lock:
            self._lock.close()

    def save(self, **more: Any) -> None:
        """Writes sweep.json, with `more` in it."""
        write_json(self.file("sweep.json"), {"schema": SCHEMA, "settings": self.settings, "complete": False, **more,
                                             "trials": [dataclasses.asdict(trial) for trial in self.trials]})

    def write_leaderboard(self) -> None:
        """Writes leaderboard.csv: one line for each trial, the best first."""
        names, metric = list(self.settings["space"]), self.settings["metric"]
        text = io.StringIO()
        rows = csv.writer(text, lineterminator="\n")
        rows.writerow(["rank", "trial", "status", *(f"validation_{name}" for name in FIGURES), "step", "epoch",
                       "seconds", *names, "message"])
        for place, trial in enumerate(ranked(self.trials, metric), 1):
            last = trial.last
            rows.writerow([place if trial.status == FINISHED else "", trial.name, trial.status,
                           *(last.get(name) for name in FIGURES), last.get("step"), last.get("epoch"),
                           round(trial.seconds, 1), *(value_text(trial.values[name]) for name in names),
                           trial.message])
        write_text(self.file("leaderboard.csv"), text.getvalue())

    def remove(self, name: str) -> None:
        """Removes a file that is no longer valid."""
        with contextlib.suppress(FileNotFoundError):
            os.remove(self.file(name))


def _check(trial, names):
    """Raises TypeError if a value of a trial in sweep.json is missing or of a wrong type.

    `names` are those of the options that vary.
    """
    for field in dataclasses.fields(Trial):
        value, kind = getattr(trial, field.name), _KINDS.get(field.type, field.type)
        if isinstance(value, bool) or not isinstance(value, {list: list, dict: dict}.get(get_origin(kind), kind)):
            raise TypeError(f"{field.name} of a trial is {value!r}")
    if trial.status not in STATUSES:
        raise TypeError(f"status of trial {trial.number} is {trial.status!r}")
    if set(names) - set(trial.values):
        raise TypeError(f"trial {trial.number} has no value of {min(set(names) - set(trial.values))}")
    for evaluation in trial.evaluations:
        for name in ("step", "epoch", *FIGURES):
            value = evaluation.get(name)
            unknown = value is None and name in FIGURES  # Not finite.
            if isinstance(value, bool) or not (unknown or isinstance(value, (int, float))):
                raise TypeError(f"{name} of an evaluation of trial {trial.number} is {value!r}")


def changes(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """Returns the differences of two settings in words."""
    spaces = old["space"], new["space"]
    listed = [f"space of {name} {spaces[0].get(name, 'none')} (now {spaces[1].get(name, 'none')})"
              for name in dict.fromkeys((*spaces[0], *spaces[1])) if spaces[0].get(name) != spaces[1].get(name)]
    listed += [f"{name} {old[name]} (now {new[name]})" for name in ("search", "prune") if old[name] != new[name]]
    listed += [f"{name} {_shown(before)} (now {_shown(now)})"
               for name, before, now in differences(old["flags"], new["flags"])]
    listed += [f"code of {name}" for name, checksum in new.get("extensions", {}).items()
               if old.get("extensions", {}).get(name, checksum) != checksum]
    if length(old["flags"]) != length(new["flags"]):
        listed.append(f"length {length(old['flags'])} (now {length(new['flags'])})")
    return listed


def _shown(value):
    return "none" if value is None else value_text(value)
