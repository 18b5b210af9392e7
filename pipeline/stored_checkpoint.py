"""Checkpoints on disk: TensorFlow's files and a manifest with their checksums.

The manifest is written after the files are synced. A checkpoint without a manifest was never finished; one that does
not match its manifest is damaged.
"""
import dataclasses
import functools
import glob
import hashlib
import json
import os
import re
import shutil
from collections.abc import Mapping
from typing import Any

import tensorflow as tf

from pipeline.errors import UsageError, did_you_mean
from pipeline.files import read_cached_json, read_json, sha256, sync, write_json
from pipeline.paths import local_path
from pipeline.quantities import counted

PREFIX = "ckpt"
MANIFEST = ".manifest.json"
BEST = "best"  # Folder in checkpoints/.


@dataclasses.dataclass(frozen=True)
class StoredCheckpoint:
    """A checkpoint on disk: its path without suffix, and its step."""

    path: str
    step: int

    @functools.cached_property
    def problem(self) -> str | None:
        """The problem with its files as text, None for a good one. The files are read once, on first access."""
        return find_problem(self.path)

    @property
    def foreign(self) -> bool:
        """Whether another run saved it than the one in whose directory it is."""
        manifest = read_cached_json(self.path + MANIFEST)
        return isinstance(manifest, dict) and _is_foreign(manifest, self.path)

    @property
    def gone(self) -> bool:
        """Whether it has been removed."""
        return not os.path.exists(self.path + MANIFEST)

    @property
    def specs(self) -> dict[str, list]:
        """Its variables, see TrainState.specs; raises FileNotFoundError if it was removed in the meantime."""
        manifest = read_json(self.path + MANIFEST, ("variables",))
        if manifest is None:
            raise FileNotFoundError(self.path + MANIFEST)
        return manifest["variables"]


def write_manifest(path: str, step: int, specs: Mapping[str, list]) -> None:
    """Syncs the files of a checkpoint and writes its manifest, which identifies the run.

    Args:
      path: of the checkpoint without suffix.
      step: its global step.
      specs: TrainState.specs() of its variables.
    """
    names = sorted(glob.glob(glob.escape(path) + ".index") + glob.glob(glob.escape(path) + ".data-*"))
    for name in names:
        sync(name)
    files = {os.path.basename(name): {"bytes": os.path.getsize(name), "sha256": sha256(name)} for name in names}
    manifest = {"step": step, "run": run_of(path), "variables": specs, "files": files}
    write_json(path + MANIFEST, {**manifest, "sha256": digest(manifest)})


def run_of(path: str) -> str | None:
    """Returns the identifier of the run in whose directory a checkpoint is, or None.

    Runs of earlier versions get one when they are continued.
    """
    folder = os.path.dirname(os.path.abspath(path))
    if os.path.basename(folder) == BEST:
        folder = os.path.dirname(folder)
    stored = read_cached_json(os.path.join(os.path.dirname(folder), "config.json"))
    return stored.get("run") if isinstance(stored, dict) else None


def _is_foreign(manifest, path):
    """Tells whether a manifest identifies another run than the one in whose directory its checkpoint is."""
    saved_by, here = manifest.get("run"), run_of(path)
    return None not in (saved_by, here) and saved_by != here


def digest(manifest: Mapping[str, Any]) -> str:
    """Returns the SHA-256 of a manifest without its own checksum."""
    content = {key: value for key, value in manifest.items() if key != "sha256"}
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def find_problem(path: str) -> str | None:
    """Returns the problem with the files of a checkpoint that has a manifest as text, or None."""
    manifest = read_cached_json(path + MANIFEST)
    if not isinstance(manifest, dict) or manifest.get("sha256") != digest(manifest):
        return "its manifest is damaged"
    if _is_foreign(manifest, path):
        return "another run saved it"
    if manifest["step"] != step_of(path):
        return f"it was renamed, and is of step {manifest['step']}"
    for name, expected in manifest["files"].items():
        file = os.path.join(os.path.dirname(path), name)
        if not os.path.exists(file):
            return f"{name} is missing"
        size = os.path.getsize(file)
        if size != expected["bytes"]:
            return f"{name} has {size} bytes instead of {expected['bytes']}"
        if sha256(file) != expected["sha256"]:
            return f"the checksum of {name} is wrong"
    return None


def step_of(path: str) -> int | None:
    """Returns the step in the name of a checkpoint (path without suffix), or None for another name."""
    match = re.search(rf"{PREFIX}-(\d+)$", path)
    return int(match[1]) if match else None


def stored_checkpoints(directory: str) -> list[StoredCheckpoint]:
    """Returns the finished checkpoints of a directory, latest first.

    A checkpoint that the manager lists was finished, whatever is missing of it now. So was one with a manifest and
    files, though the process may have been killed before the manager listed it.
    """
    try:
        state = tf.train.get_checkpoint_state(directory) if os.path.isdir(directory) else None
    except ValueError:  # The manager's list is damaged (not text): the manifests are enough.
        state = None
    paths = {os.path.join(directory, os.path.basename(p)) for p in state.all_model_checkpoint_paths} if state else set()
    for manifest in glob.glob(os.path.join(glob.escape(directory), f"*{MANIFEST}")):
        path = manifest[:-len(MANIFEST)]
        if os.path.exists(f"{path}.index") and glob.glob(f"{glob.escape(path)}.data-*"):
            paths.add(path)
    found = [StoredCheckpoint(path, step) for path in paths if (step := step_of(path)) is not None]
    return sorted(found, key=lambda c: -c.step)


def check_specs(stored: StoredCheckpoint, expected: Mapping[str, list]) -> None:
    """Raises UsageError if a checkpoint holds other variables than a state, naming the first difference.

    Args:
      stored: a good checkpoint.
      expected: TrainState.specs(), or some of its parts.
    """
    reasons = {"model": ("another model", "give the --model and --precision it was made with"),
               "optimizer": ("another optimizer", "give the --optimizer and --momentum it was made with"),
               "ema": ("another --ema_decay", "the moving average is kept from the start or never")}
    for part, wanted in expected.items():
        found, (what, remedy) = stored.specs[part], reasons[part]
        for old, new in zip(found, wanted, strict=False):
            if old[1:] != list(new[1:]):
                raise UsageError(f"{stored.path} is of {what}: {old[0]} is {old[2]} of shape {tuple(old[1])} there, "
                                 f"here {new[0]} is {new[2]} of shape {tuple(new[1])}; {remedy}")
        if len(found) != len(wanted):
            raise UsageError(f"{stored.path} is of {what}: it has {counted(len(found), 'variable')} of that kind, "
                             f"here there are {len(wanted)}; {remedy}")


def stems(directory: str) -> set[str]:
    """Returns the names ("ckpt-12") of checkpoints, finished or not, of which a directory has any file."""
    names = os.listdir(directory) if os.path.isdir(directory) else []
    return {match[1] for name in names if (match := re.match(rf"({PREFIX}-\d+)[._]", name))}


def remove(directory: str, stem: str) -> None:
    """Removes every file of a checkpoint, finished or not; the manifest first, so that the rest is no checkpoint."""
    names = [name for name in os.listdir(directory) if re.match(rf"{re.escape(stem)}[._]", name)]
    for name in sorted(names, key=lambda n: not n.endswith(MANIFEST)):
        path = os.path.join(directory, name)
        shutil.rmtree(path) if os.path.isdir(path) else os.remove(path)


def find_checkpoint(directory: str, name: str) -> StoredCheckpoint:
    """Returns the good checkpoint with a name.

    Args:
      directory: `checkpoints/` of a run.
      name: "latest", "best", a step ("270"), a name ("ckpt-270") or a path without suffix.

    Raises:
      UsageError: there is none of that name, or it is damaged.
    """
    name = local_path(name, "--checkpoint")
    name = "latest" if name == "newest" else name  # Its name in earlier versions.
    found = stored_checkpoints(os.path.join(directory, BEST) if name == "best" else directory)
    if name not in ("latest", "best"):
        stem = f"{PREFIX}-{name}" if name.isdigit() else os.path.basename(name)
        if os.path.dirname(name):
            found = stored_checkpoints(os.path.dirname(name))
        matches = [c for c in found if os.path.basename(c.path) == stem]
        if not matches:
            known = ", ".join(str(c.step) for c in found) or "none"
            guess = did_you_mean(name, ("latest", "best"))
            raise UsageError(f"no checkpoint '{name}' in {directory}{guess}; steps there: {known}; or latest, best, a "
                             "path")
        found = matches
    good = [c for c in found if not c.problem]
    if not good:
        reason = f"{found[0].path} cannot be used: {found[0].problem}" if found else f"no checkpoint in {directory} yet"
        raise UsageError(f"--checkpoint={name}: {reason}")
    return good[0]
