"""The directory of a run: whose it is, what it was told, and who is writing there now. Standard library only."""
import contextlib
import dataclasses
import json
import os

from pipeline import extension, locks
from pipeline.config import DEFAULT_EPOCHS, FOLDER, MOVING_AVERAGE, located, may_be_same, options, value_type
from pipeline.errors import RunFailure, UsageError
from pipeline.files import read_json, sync, write_json
from pipeline.options import FREE, NEVER
from pipeline.paths import local_path
from pipeline.quantities import counted

LONGEST_NAME = 200  # Bytes of the name of a folder of images, in that of a run; a file system takes about 255.
LENGTH = ("epochs", "steps")  # More of them may be allowed, see check_length.
# What a run that was killed while it began may leave.
PASSING = {*locks.FILES, "config.json.tmp", "launches.jsonl", "hang.txt", "workers", "attempts.jsonl"}


def default_path(config):
    """Returns runs/<dataset>-<model> for an ExperimentConfig, with what a file name cannot hold replaced."""
    dataset = config.data.dataset
    if dataset.startswith(FOLDER):
        dataset = os.path.basename(located(dataset)) or "folder"
        dataset = os.fsencode(dataset)[:LONGEST_NAME].decode(errors="ignore")
    return os.path.join("runs", f"{dataset}-{config.model.model}".replace(":", "-").replace("/", "-"))


def free_path(path):
    """Returns the first of path-2, path-3, ... that does not exist."""
    if os.path.basename(path) in (os.curdir, os.pardir):
        path = os.path.abspath(path)
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
        return counted(values["steps"], "step")
    epochs = values.get("epochs") or DEFAULT_EPOCHS
    return counted(epochs, "epoch")


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
        """What config.json holds, or None for a new run; raises UsageError where it cannot be read."""
        stored = read_json(self.file("config.json"), ("config", "data"))
        if stored is not None:
            _check_stored(stored, self.file("config.json"))
        return stored

    @property
    def result(self):
        """What result.json holds, or None; raises UsageError where it cannot be read."""
        return read_json(self.file("result.json"), ("status", "step"))

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
            self._lock = locks.acquire(self.file(locks.LOCK))
        except locks.Held as holder:
            raise UsageError(f"--workdir={self.path} is being written by {holder}; wait for it, or give another, "
                             f"e.g. --workdir={free_path(self.path)}") from None
        except OSError as error:
            raise UsageError(f"--workdir={self.path} cannot be written: {error.strerror.lower()}; "
                             "give a directory of your own") from error

    @contextlib.contextmanager
    def claimed(self):
        """Claims the directory for a while, see `claim`; an error because it is gone meanwhile says that it is."""
        self.claim()
        try:
            yield
        except Exception:
            self.check_here()
            raise
        finally:
            self._lock.close()

    def check_here(self):
        """Raises RunFailure where the directory was claimed and is not at its path any more."""
        if self._lock is None or self._lock.is_held():
            return
        raise RunFailure(f"--workdir={self.path} was moved or removed while this run was writing there: nothing is "
                         "saved any more; run the same command with where it is now as --workdir, it goes on from its "
                         "newest checkpoint")

    def write_config(self, values):
        """Writes config.json: {"config", "data", "plan", "normalization", "num_replicas", "versions", ...}."""
        write_json(self.file("config.json"), values)


def _check_stored(stored, path):
    """Raises UsageError where config.json, perhaps edited, holds no values of options or no facts of data."""
    for part in ("config", "data"):
        if not isinstance(stored[part], dict):
            raise UsageError(f"{path} cannot be read: '{part}' is no JSON object")
    for name, value in stored["config"].items():
        kind = value_type(options()[name]) if name in options() else None
        fits = {str: str, bool: bool, int: int, float: (int, float), tuple: list}.get(kind, object)
        if value is not None and (not isinstance(value, fits) or (kind in (int, float) and isinstance(value, bool))):
            raise UsageError(f"{path} cannot be read: {name} is {json.dumps(value)}, which is no "
                             f"{'list' if kind is tuple else kind.__name__}")


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
    directory = RunDirectory(local_path(workdir, "--workdir"))
    stored = directory.config
    if not stored:
        here = sorted(os.path.join("runs", n) for n in (os.listdir("runs") if os.path.isdir("runs") else []))
        raise UsageError(f"--workdir={directory.path} holds no run (no config.json)"
                         + (f"; runs here: {', '.join(here)}" if here else "; train one first: mirrorline train"))
    return directory, {**stored, "config": {k: v for k, v in stored["config"].items() if k in options()}}
