"""The directory of a run: whose it is, what it was told, and who is writing there now. Standard library only."""
import dataclasses
import fcntl
import json
import os
import socket

from pipeline.config import FREE, GROUPS, options
from pipeline.errors import UsageError
from pipeline.training.files import read_json, write_json

LENGTH = ("epochs", "steps")  # More of them may be allowed, see check_length.
DEFAULT_EPOCHS = 10.0


def default_path(config):
    """Returns runs/<dataset>-<model> for an ExperimentConfig, with what a file name cannot hold replaced."""
    dataset = config.data.dataset
    if dataset.startswith("folder:"):
        dataset = os.path.basename(os.path.abspath(dataset[len("folder:"):])) or "folder"
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
            and plain(old.get(name, field.default)) != plain(new[name])]


def length(values):
    """Returns the length that options ask for as text: '6 epochs' or '300 steps'."""
    if values.get("steps"):
        return f"{values['steps']} steps"
    return f"{values.get('epochs') or DEFAULT_EPOCHS:g} epochs"


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

    def check(self, config, fingerprint=None):
        """Checks that a run with this configuration may live here; touches nothing.

        Args:
          config: ExperimentConfig.
          fingerprint: of the data, or None before it is known.

        Returns:
          [(name, old, new)] of differing settings that `--allow` accepted.

        Raises:
          UsageError: the path is no directory, holds something else, or another run; names a free one.
        """
        if os.path.exists(self.path) and not os.path.isdir(self.path):
            raise UsageError(f"--workdir={self.path} is a file, not a directory; e.g. --workdir={free_path(self.path)}")
        stored = self.config
        if stored is None:
            if os.path.isdir(self.path) and set(os.listdir(self.path)) - {".lock"}:
                raise UsageError(f"--workdir={self.path} holds files that are not of a run; give an empty or new "
                                 f"directory, e.g. --workdir={free_path(self.path)}")
            return []
        changed = differences(stored["config"], config.flat())
        changed += self._length_difference(stored["config"], config.flat())
        if fingerprint and fingerprint != stored["data"]["fingerprint"]:
            changed.append(("fingerprint", stored["data"]["fingerprint"][:12], fingerprint[:12]))
        refused = [c for c in changed if c[0] not in config.runtime.allow]
        if refused:
            listed = ", ".join(f"{name} {_shown(old)} (now {_shown(new)})" for name, old, new in refused)
            names = ",".join(name for name, *_ in refused)
            raise UsageError(f"{self.path} holds a run with other settings: {listed}; continue it all the same with "
                             f"--allow={names}, or start another with --workdir={free_path(self.path)}")
        return changed

    def _length_difference(self, old, new):
        """More or fewer epochs are free under a constant schedule: every other one is a function of the length."""
        if length(old) == length(new) or new["schedule"] == "constant":
            return []
        return [("steps" if new.get("steps") else "epochs", length(old), length(new))]

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

    def release(self):
        """Gives the lock back."""
        if self._lock:
            self._lock.close()

    def write_config(self, values):
        """Writes config.json: {"config", "data", "plan", "normalization", "versions"}."""
        write_json(self.file("config.json"), values)


def _shown(value):
    return ",".join(map(str, value)) if isinstance(value, (list, tuple)) else str(value)


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
    known = {name for group in GROUPS.values() for name in (f.name for f in dataclasses.fields(group))}
    return directory, {**stored, "config": {k: v for k, v in stored["config"].items() if k in known}}
