"""The directory of a run: whose it is, what it was told, and who is writing there now. Standard library only."""
import contextlib
import dataclasses
import fcntl
import json
import os
import socket

from pipeline import extension
from pipeline.config import DEFAULT_EPOCHS, FOLDER, MOVING_AVERAGE, located, may_be_same, options
from pipeline.errors import UsageError
from pipeline.files import read_json, sync, write_json
from pipeline.options import FREE, NEVER

LENGTH = ("epochs", "steps")  # More of them may be allowed, see check_length.
# What a run that was killed while it began may leave.
PASSING = {".lock", "config.json.tmp", "launches.jsonl", "hang.txt", "workers", "attempts.jsonl"}


def default_path(config):
    """Returns runs/<dataset>-<model> for an ExperimentConfig, with what a file name cannot hold replaced."""
    dataset = config.data.dataset
    if dataset.startswith(FOLDER):
        dataset = os.path.basename(located(dataset)) or "folder"
    return os.path.join("runs", f"{dataset}-{config.model.model}".replace(":", "-").replace("/", "-"))


def free_path(path):
    """Returns the first of path-2, path-3, ... that does not exist."""
    number = 2
    while os.path.exists(f"{path}-{number}"):
        number += 1
    return f"{path}-{number}"


def differences(old, new):
    """Lists what changes the mathematics of a run.

    Args:
      old, new: {option name: value} as in config.json and in ExperimentConfig.flat().

    Returns:
      [(name, old value, new value)], lengths left out.
    """
    def plain(value):
        return json.loads(json.dumps(value))

    return [(name, old.get(name, field.default), new[name]) for name, field in options().items()
            if field.metadata["resume"] != FREE and name not in LENGTH
            and not (name == "dataset" and may_be_same(old.get(name, field.default), new[name]))
            and plain(old.get(name, field.default)) != plain(new[name])]


def length(values):
    """Returns the length that options ask for as text: '6 epochs' or '300 steps'."""
    if values.get("steps"):
        return f"{values['steps']} steps"
    epochs = values.get("epochs") or DEFAULT_EPOCHS
    return f"{epochs:g} epoch{'s' * (epochs != 1)}"


@dataclasses.dataclass
class RunDirectory:
    """Paths of a run's files, its configuration, and the lock that keeps a second process out."""

    path: str
    _lock: object = None

    def file(self, *names):
        """Returns the path of a file of the run."""
        return os.path.join(self.path, *names)

    @property
    def config(self):
        """What config.json holds, or None for a new run."""
        return read_json(self.file("config.json"))

    @property
    def result(self):
        """What result.json holds, or None."""
        return read_json(self.file("result.json"))

    def check(self, config, fingerprint=None, num_replicas=None, parity=True):
        """Checks that a run with this configuration may live here; touches nothing.

        Args:
          config: ExperimentConfig.
          fingerprint: of the data, or None before it is known.
          num_replicas: replicas in sync, or None before they are known.
          parity: whether the model's layers compute the same on any number of replicas.

        Returns:
          [(name, old, new)] of differing settings that `--allow` accepted.

        Raises:
          UsageError: the path is no directory, holds something else, or another run; names a free one.
        """
        if os.path.exists(self.path) and not os.path.isdir(self.path):
            raise UsageError(f"--workdir={self.path} is a file, not a directory; e.g. --workdir={free_path(self.path)}")
        stored = self.config
        if stored is None:
            if self._listing() - PASSING:
                raise UsageError(f"--workdir={self.path} holds files that are not of a run; give an empty or new "
                                 f"directory, e.g. --workdir={free_path(self.path)}")
            return []
        changed = differences(stored["config"], config.flat()) + _length_difference(stored["config"], config.flat())
        changed += extension.changes(stored.get("extensions"), config.data.extension)
        if fingerprint and fingerprint != stored["data"]["fingerprint"]:
            changed.append(("fingerprint", stored["data"]["fingerprint"][:12], fingerprint[:12]))
        before = stored.get("num_replicas")
        if num_replicas and before != num_replicas and not (config.model.sync_batch_norm and parity):
            changed.append(("replicas", before, num_replicas))  # Each replica's statistics are of its own part.
        refused = [c for c in changed if c[0] not in config.runtime.allow or _never(c[0])]
        if refused:
            listed = ", ".join(f"{_named(name, old)} (now {_shown(new)})" for name, old, new in refused)
            names = ",".join(name for name, *_ in refused)
            remedy = "" if any(_never(name) for name, *_ in refused) else (
                f"continue it all the same with --allow={names}, or ")
            raise UsageError(f"{self.path} holds a run with other settings: {listed}; {remedy}start another with "
                             f"--workdir={free_path(self.path)}")
        return changed

    def _listing(self):
        try:
            return set(os.listdir(self.path)) if os.path.isdir(self.path) else set()
        except OSError as error:
            raise UsageError(f"--workdir={self.path} cannot be read: {error.strerror.lower()}; give a directory of "
                             "your own") from error

    def forget_result(self):
        """Removes result.json: it is not that of a run which is going on."""
        if os.path.exists(self.file("result.json")):
            os.remove(self.file("result.json"))
            sync(self.path)

    def claim(self):
        """Makes the directory and locks it until the process ends, however it ends.

        Raises:
          UsageError: it cannot be written, or another process has it; names that process.
        """
        try:
            os.makedirs(self.path, exist_ok=True)
            # A lock of the kernel's: that of a dead process is gone with the process.
            self._lock = open(self.file(".lock"), "a+", encoding="utf-8")  # noqa: SIM115
        except OSError as error:
            raise UsageError(f"--workdir={self.path} cannot be written: {error.strerror.lower()}; "
                             "give a directory of your own") from error
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            self._lock.seek(0)
            holder = self._lock.read().strip() or "another process"
            self._lock.close()
            raise UsageError(f"--workdir={self.path} is being written by {holder}; wait for it, or give another, "
                             f"e.g. --workdir={free_path(self.path)}") from error
        self._lock.truncate(0)
        self._lock.write(f"process {os.getpid()} on {socket.gethostname()}\n")
        self._lock.flush()

    @contextlib.contextmanager
    def claimed(self):
        """Claims the directory for a while, see `claim`."""
        self.claim()
        try:
            yield
        finally:
            self._lock.close()

    def write_config(self, values):
        """Writes config.json: {"config", "data", "plan", "normalization", "num_replicas", "versions", ...}."""
        write_json(self.file("config.json"), values)


def _never(name):
    """Tells whether what is stored would not fit another value of an option."""
    return name in options() and options()[name].metadata["resume"] == NEVER


def _length_difference(old, new):
    """More or fewer epochs are free under a constant schedule; every other one is a function of the length.

    With early stopping they are not: the evaluation at the old end counts, and a run in one piece would not have it.
    """
    if length(old) == length(new) or (new["schedule"] == "constant" and not new["early_stopping_patience"]):
        return []
    return [("steps" if new.get("steps") else "epochs", length(old), length(new))]


def _named(name, value):
    """Returns a setting with its value; that of a length says itself what it is."""
    return _shown(value) if _shown(value).endswith(f" {name}") else f"{name} {_shown(value)}"


def _shown(value):
    if value is None:
        return "not given"
    return ",".join(map(str, value)) if isinstance(value, (list, tuple)) else str(value)


def evaluates_average(stored):
    """Tells whether a run evaluates, and selects its best checkpoint by, the moving average of its weights.

    Those with --ema_decay do; one that was begun before they did goes on as it was begun.

    Args:
      stored: what config.json of the run holds.
    """
    return stored.get("evaluated_weights") == MOVING_AVERAGE


def stored_config(workdir):
    """Reads the configuration of an existing run.

    Returns:
      (RunDirectory, what config.json holds).

    Raises:
      UsageError: there is no run.
    """
    directory = RunDirectory(workdir)
    stored = directory.config
    if not stored:
        here = sorted(os.path.join("runs", n) for n in (os.listdir("runs") if os.path.isdir("runs") else []))
        raise UsageError(f"--workdir={workdir} holds no run (no config.json)"
                         + (f"; runs here: {', '.join(here)}" if here else "; train one first: mirrorline train"))
    return directory, {**stored, "config": {k: v for k, v in stored["config"].items() if k in options()}}
