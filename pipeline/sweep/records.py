"""What a sweep knows, in sweep.json: written whole after every change, so that any moment can be gone on from.

Standard library only.
"""
import contextlib
import csv
import dataclasses
import io
import os

from pipeline import locks
from pipeline.errors import UsageError
from pipeline.files import read_json, write_json, write_text
from pipeline.run_directory import differences, free_path, length
from pipeline.sweep.space import value_text

SCHEMA = 1
RUNNING, STOPPED, FINISHED, PRUNED, FAILED = "running", "stopped", "finished", "pruned", "failed"
STATUSES = (RUNNING, STOPPED, FINISHED, PRUNED, FAILED)
OPEN = (RUNNING, STOPPED)  # To be gone on with.
FIGURES = ("accuracy", "loss")
_NUMBERS = (float, float | None)


@dataclasses.dataclass
class Trial:
    """One set of values and what came of it.

    Attributes:
      number: from 1.
      values: {option name: value}.
      status: "running", "stopped" (to be continued), "finished", "pruned" or "failed".
      evaluations: [{"step", "epoch", "accuracy", "loss"}] of the part held out, in order; a loss that is not finite is
        None. What a pruned trial did after it was pruned is left out.
      examples: of the part held out, None before the first evaluation.
      epochs: length of the run, None before it began.
      seconds: wall time of its processes.
      message: why it failed.
      rungs: what successive halving remembers of it.
    """

    number: int
    values: dict
    status: str = RUNNING
    evaluations: list = dataclasses.field(default_factory=list)
    examples: int | None = None
    epochs: float | None = None
    seconds: float = 0.0
    message: str | None = None
    rungs: dict = dataclasses.field(default_factory=dict)

    @property
    def name(self):
        """Its folder in that of the sweep."""
        return f"trial-{self.number:04d}"

    @property
    def last(self):
        """Its last evaluation, {} before the first."""
        return self.evaluations[-1] if self.evaluations else {}

    def order(self, metric):
        """Returns a key that sorts the better trial first: by the metric, of equals by the other figure.

        The last evaluation counts: it is of the weights that the run ends with, and result.json judges.
        """
        keys = {"accuracy": -_number(self.last.get("accuracy"), -1.0),
                "loss": _number(self.last.get("loss"), float("inf"))}
        return (keys[metric], *(keys[name] for name in FIGURES if name != metric), self.number)


def _number(value, missing):
    return missing if value is None else value


def ranked(trials, metric):
    """Returns the trials as a leaderboard lists them: finished ones, best first, running, pruned and failed ones."""
    places = {FINISHED: 0, RUNNING: 1, STOPPED: 1, PRUNED: 2, FAILED: 3}
    return sorted(trials, key=lambda trial: (places[trial.status], trial.order(metric)))


def best(trials, metric):
    """Returns the best of the finished trials, or None."""
    first = ranked(trials, metric)[:1]
    return first[0] if first and first[0].status == FINISHED else None


class SweepDirectory:
    """The folder of a sweep and its files.

    Attributes:
      path: the folder.
      settings: {"space": {name: text}, "search", "prune", "flags": {option: value}, "metric",
        "extensions": {file name: SHA-256}}: what makes a sweep this one.
      trials: list of Trial, by number.
    """

    def __init__(self, path, settings):
        """Reads what is there; touches nothing.

        Raises:
          UsageError: the path is no folder of a sweep, or of one with other settings; names a free one.
        """
        self.path, self.settings, self._lock = path, settings, None
        self.trials = self._stored()

    def _stored(self):
        """Returns the trials that sweep.json has, [] without one; raises UsageError as the constructor does."""
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
            raise UsageError(f"{self.file('sweep.json')} cannot be read: it is not as sweeps write it "
                             f"({error})") from None
        if changed:
            raise UsageError(f"{self.path} holds a sweep with other settings: {', '.join(changed)}; start another with "
                             f"{free}")
        return trials

    def file(self, *names):
        """Returns the path of a file of the sweep."""
        return os.path.join(self.path, *names)

    def claim(self):
        """Makes the folder and keeps other sweeps out of it until the process ends, however it ends.

        What is there is read again: another sweep may have gone on in the meantime.

        Raises:
          UsageError: it cannot be written, another process has it, or has begun another sweep there.
        """
        try:
            os.makedirs(self.path, exist_ok=True)
            self._lock = locks.acquire(self.file(locks.LOCK))
        except locks.Held as holder:
            raise UsageError(f"--output={self.path} is being written by another sweep, {holder}; wait for it, or give "
                             f"another, e.g. --output={free_path(self.path)}") from None
        except OSError as error:
            raise UsageError(f"--output={self.path} cannot be written: {error.strerror.lower()}; give a folder that is "
                             "there or can be made") from error
        try:
            self.trials = self._stored()
        except UsageError:
            self.close()
            raise

    def close(self):
        """Lets other sweeps in."""
        if self._lock:
            self._lock.close()

    def save(self, **more):
        """Writes sweep.json; `more` is what a complete sweep adds to it."""
        write_json(self.file("sweep.json"), {"schema": SCHEMA, "settings": self.settings, "complete": False, **more,
                                             "trials": [dataclasses.asdict(trial) for trial in self.trials]})

    def write_leaderboard(self):
        """Writes leaderboard.csv: a line a trial, the best first."""
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

    def remove(self, name):
        """Removes a file that is not true any more."""
        with contextlib.suppress(FileNotFoundError):
            os.remove(self.file(name))


def _check(trial, names):
    """Raises TypeError if a value of a trial in sweep.json is missing or of a wrong type.

    Args:
      trial: Trial.
      names: of the options that vary.
    """
    for field in dataclasses.fields(Trial):
        value = getattr(trial, field.name)
        if isinstance(value, bool) or not isinstance(value, (int, float) if field.type in _NUMBERS else field.type):
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


def changes(old, new):
    """Returns in words what makes a sweep of now another than the one stored; both are settings."""
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
