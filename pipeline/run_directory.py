"""The directory of a run: its files, its configuration, and its lock. Standard library only."""
import contextlib
import dataclasses
import json
import os
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from pipeline import arithmetic, extension, locks, run_config
from pipeline.config import (
    DEFAULT_EPOCHS,
    MOVING_AVERAGE,
    ExperimentConfig,
    options,
)
from pipeline.data.image_search import is_hidden
from pipeline.data.splits import VALIDATION_NAMES
from pipeline.dataset_name import has_path, located, may_be_same, split
from pipeline.errors import RunFailure, UsageError
from pipeline.files import read_json, sync
from pipeline.options import FREE, NEVER
from pipeline.paths import local_path
from pipeline.quantities import counted

LONGEST_NAME = 200  # Bytes of the name of a folder of images in that of a run; file systems allow about 255.
LENGTH = ("epochs", "steps")
# Files that a run killed at its start may leave.
PASSING = {*locks.FILES, "config.json.tmp", "launches.jsonl", "hang.txt", "workers", "attempts.jsonl"}
# Directories and files of a run.
_FOLDERS = ("checkpoints", "checkpoints/best", "tensorboard", "tensorboard/train", "tensorboard/validation")
_FILES = ("config.json.tmp", "launches.jsonl", "metrics.jsonl", "result.json.tmp", "checkpoints/checkpoint")


def default_path(config: ExperimentConfig) -> str:
    """Returns runs/<dataset>-<model>, as a valid file name."""
    dataset = located(config.data.dataset, bool(config.data.extension))
    if has_path(dataset):
        dataset = os.path.basename(dataset) or split(dataset)[0]
        dataset = os.fsencode(dataset)[:LONGEST_NAME].decode(errors="ignore")
    return os.path.join("runs", f"{dataset}-{config.model.model}".replace(":", "-").replace("/", "-"))


def free_path(path: str) -> str:
    """Returns the first of path-2, path-3, ... that does not exist."""
    if os.path.basename(path) in (os.curdir, os.pardir):
        path = os.path.abspath(path)
    number = 2
    while os.path.exists(f"{path}-{number}"):
        number += 1
    return f"{path}-{number}"


def claim_folder(flag: str, path: str, use: str = "written", inside: str = "") -> locks.Lock:
    """Creates the folder of a flag and locks it, or a folder `inside` it, until the process ends or closes the lock.

    Raises:
      UsageError: it cannot be written, or another process, which is named, has locked it for this `use`.
    """
    folder = os.path.join(path, inside)
    try:
        os.makedirs(folder, exist_ok=True)
        return locks.acquire(os.path.join(folder, locks.LOCK))
    except locks.Held as holder:
        raise UsageError(f"{flag}={path} is being {use} by {holder}; wait for it, or give another, e.g. "
                         f"{flag}={free_path(path)}") from None
    except OSError as error:
        raise UsageError(f"{flag}={path} cannot be written: {(error.strerror or str(error)).lower()}; give a folder of "
                         "your own") from error


def check_outside_data(flag: str, path: str, dataset: str) -> None:
    """Raises UsageError if images written into a folder would become examples of a data set.

    Args:
      flag: for the message, such as "--workdir".
      path: of the folder, which need not exist.
      dataset: as --dataset.
    """
    kind, argument = split(dataset)
    if kind != "folder":
        return
    data, folder = os.path.realpath(argument), os.path.realpath(path)
    parts = os.path.relpath(folder, data).split(os.sep)
    if parts[0] in (os.curdir, os.pardir) or any(map(is_hidden, parts)) or not os.path.isdir(data):
        return
    with contextlib.suppress(OSError):  # An unreadable folder is reported when the data set is loaded.
        has_splits = "train" in map(str.lower, os.listdir(data))
        if not has_splits or parts[0].lower() in ("train", "test", *VALIDATION_NAMES):
            outside = os.path.join(os.path.dirname(data), "runs", os.path.basename(folder))
            raise UsageError(f"{flag}={path} is inside the data set, where its images would become examples: give a "
                             f"folder outside, e.g. {flag}={outside}")


def differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[tuple[str, Any, Any]]:
    """Lists the options that change the mathematics of a run.

    Args:
      old, new: {option name: value} as in config.json and in ExperimentConfig.flat().

    Returns:
      [(name, old value, new value)], without lengths.
    """
    def plain(value):
        return json.loads(json.dumps(value))

    return [(name, old.get(name, field.default), new[name]) for name, field in options().items()
            if field.metadata["resume"] != FREE and name not in LENGTH
            and not (name == "dataset" and may_be_same(old.get(name, field.default), new[name]))
            and plain(old.get(name, field.default)) != plain(new[name])]


def length(values: Mapping[str, Any]) -> str:
    """Returns the length of a run as text: '6 epochs' or '300 steps'."""
    if values.get("steps"):
        return counted(values["steps"], "step")
    return counted(values.get("epochs") or DEFAULT_EPOCHS, "epoch")


@dataclasses.dataclass
class RunDirectory:
    """Paths of the files of a run, its configuration, and the lock against a second process."""

    path: str
    _lock: Any = None

    def file(self, *names: str) -> str:
        """Returns the path of a file of the run."""
        return os.path.join(self.path, *names)

    @property
    def config(self) -> dict[str, Any] | None:
        """Contents of config.json, or None for a new run; raises UsageError if it cannot be read."""
        stored = read_json(self.file("config.json"), ("config", "data"))
        if stored is not None:
            run_config.check_stored(stored, self.file("config.json"))
        return stored

    @property
    def result(self) -> dict[str, Any] | None:
        """Contents of result.json, or None; raises UsageError if it cannot be read."""
        result = read_json(self.file("result.json"), ("status", "step"))
        for name, kind in (("status", str), ("step", int)) if result else ():
            if not isinstance(result[name], kind):
                raise UsageError(f"{self.file('result.json')} cannot be read: {name} is {json.dumps(result[name])}; "
                                 "correct it, or restore it from a copy")
        return result

    def check(self, config: ExperimentConfig, fingerprint_as: Callable[[str], str] | None = None,
              num_replicas: int | None = None, parity: bool = True) -> list[tuple[str, Any, Any]]:
        """Checks whether a run with this configuration may use the directory; changes nothing.

        Args:
          fingerprint_as: Source.fingerprint_as of the data, or None before they are known.
          num_replicas: replicas in sync, or None before they are known.
          parity: whether the layers of the model compute the same on any number of replicas.

        Returns:
          [(name, old, new)] of different options that `--allow` accepts.

        Raises:
          UsageError: the path is not a directory, or holds other files or another run; names a free path.
        """
        if os.path.exists(self.path) and not os.path.isdir(self.path):
            raise UsageError(f"--workdir={self.path} is a file, not a directory; e.g. --workdir={free_path(self.path)}")
        stored = self.config
        if stored is None:
            check_outside_data("--workdir", self.path, config.data.dataset)
        if stored is None and self._listing() - PASSING:
            raise UsageError(f"--workdir={self.path} holds files that are not of a run; give an empty or new "
                             f"directory, e.g. --workdir={free_path(self.path)}")
        self._check_places()
        if stored is None:
            return []
        changed = differences(stored["config"], config.flat()) + _length_difference(stored["config"], config.flat())
        changed += extension.changes(stored.get("extensions"), config.data.extension)
        begun_with = stored["data"]["fingerprint"]
        fingerprint = fingerprint_as(begun_with) if fingerprint_as else begun_with
        if fingerprint != begun_with:
            changed.append(("fingerprint", begun_with[:12], fingerprint[:12]))
        before = stored.get("num_replicas")
        if num_replicas and before != num_replicas and not (config.model.sync_batch_norm and parity):
            changed.append(("replicas", before, num_replicas))  # Statistics are those of each replica's part.
        refused = [c for c in changed if c[0] not in config.runtime.allow or _never(c[0])]
        if refused:
            listed = ", ".join(f"{_named(name, old)} (now {_shown(new)})" for name, old, new in refused)
            names = ",".join(name for name, *_ in refused)
            remedy = "" if any(_never(name) for name, *_ in refused) else (
                f"continue anyway with --allow={names}, or ")
            raise UsageError(f"{self.path} holds a run with other settings: {listed}; {remedy}start another with "
                             f"--workdir={free_path(self.path)}")
        return changed

    def _check_places(self):
        """Raises UsageError if a directory has the name of a file of the run, or a file that of a directory."""
        for names, is_right, kind in ((_FOLDERS, os.path.isdir, "folder"), (_FILES, os.path.isfile, "file")):
            for path in (self.file(*name.split("/")) for name in names):
                if os.path.exists(path) and not is_right(path):
                    raise UsageError(f"{path} is no {kind}, and a run needs a {kind} there: move it away, or give "
                                     f"another directory, e.g. --workdir={free_path(self.path)}")

    def _listing(self):
        try:
            return set(os.listdir(self.path)) if os.path.isdir(self.path) else set()
        except OSError as error:
            raise UsageError(f"--workdir={self.path} cannot be read: {str(error.strerror).lower()}; give a directory "
                             "of your own") from error

    def forget_result(self) -> None:
        """Removes result.json, since the run continues."""
        if os.path.exists(self.file("result.json")):
            os.remove(self.file("result.json"))
            sync(self.path)

    def claim(self) -> None:
        """Creates the directory and locks it until the process ends.

        Raises:
          UsageError: it cannot be written, or another process, which is named, has locked it.
        """
        self._lock = claim_folder("--workdir", self.path)

    @contextlib.contextmanager
    def claimed(self) -> Iterator[None]:
        """Claims the directory in the block, see `claim`; reports if it was moved or removed in the meantime."""
        self.claim()
        try:
            yield
        except Exception:
            self.check_here()
            raise
        finally:
            self._lock.close()

    def check_here(self) -> None:
        """Raises RunFailure if the directory was claimed and is no longer at its path."""
        if self._lock is None or self._lock.is_held():
            return
        raise RunFailure(f"--workdir={self.path} was moved or removed while this run was writing there: nothing is "
                         "saved any more; run the same command with its new path as --workdir to continue from its "
                         "latest checkpoint")




def _never(name):
    """Tells whether the stored state fits no other value of an option."""
    return name in options() and options()[name].metadata["resume"] == NEVER


def _length_difference(old, new):
    """Returns the difference of two lengths as `differences` does; with a constant schedule any length is accepted.

    Not with early stopping: the evaluation at the old end counts, which an uninterrupted run would not have.
    """
    free = new["schedule"] == "constant" and not new["early_stopping_patience"] and not (
        new["average_last"] or new["image_sizes"])
    if length(old) == length(new) or free:
        return []
    return [("steps" if new.get("steps") else "epochs", length(old), length(new))]


def _named(name, value):
    """Returns an option with its value as text; that of a length names it already."""
    return _shown(value) if _shown(value).endswith(f" {name}") else f"{name} {_shown(value)}"


def _shown(value):
    if value is None:
        return "not given"
    return ",".join(map(str, value)) if isinstance(value, (list, tuple)) else str(value)


def evaluates_average(stored: Mapping[str, Any]) -> bool:
    """Tells whether a run evaluates, and selects its best checkpoint by, the moving average of its weights.

    Runs with --ema_decay do, except those started by a version that did not.

    Args:
      stored: contents of config.json.
    """
    return stored.get("evaluated_weights") == MOVING_AVERAGE


def stored_config(workdir: str) -> tuple[RunDirectory, dict[str, Any]]:
    """Reads the configuration of an existing run.

    Returns:
      (directory, contents of config.json with the options that are still known).

    Raises:
      UsageError: there is no run, or its configuration has invalid values.
    """
    directory = RunDirectory(local_path(workdir, "--workdir"))
    stored = directory.config
    if not stored:
        here = sorted(os.path.join("runs", n) for n in (os.listdir("runs") if os.path.isdir("runs") else []))
        raise UsageError(f"--workdir={directory.path} holds no run (no config.json)"
                         + (f"; runs here: {', '.join(here)}" if here else "; train one first: mirrorline train"))
    known = {k: v for k, v in stored["config"].items() if k in options()}
    run_config.check_values(known, directory.file("config.json"))
    return directory, {**stored, "config": known}


def evaluation_config(stored: Mapping[str, Any], given: Mapping[str, Any]) -> ExperimentConfig:
    """Returns the configuration of a run with options given for an evaluation, {option name: value}.

    Options of the training step do not affect an evaluation; the number of threads is that of the training.
    """
    return ExperimentConfig.from_flat({**stored["config"], "threads": arithmetic.stored_threads(stored), **given,
                                       "accumulate_steps": 1, "xla": "auto", "cross_device_reduction": "auto"})
