"""What a checkpoint on disk is: TensorFlow's files and a manifest that vouches for them.

The manifest, with the checksums of the files, is written when they are synced. What has no manifest was never finished;
what does not agree with its manifest is damaged.
"""
import dataclasses
import functools
import glob
import hashlib
import json
import os
import re
import shutil

import tensorflow as tf

from pipeline.errors import UsageError, did_you_mean
from pipeline.files import read_cached_json, read_json, sha256, sync, write_json
from pipeline.paths import local_path
from pipeline.quantities import counted

PREFIX = "ckpt"
MANIFEST = ".manifest.json"
BEST = "best"  # Folder inside of checkpoints/.


@dataclasses.dataclass(frozen=True)
class StoredCheckpoint:
    """A checkpoint on disk: its path without suffix, and its step."""

    path: str
    step: int

    @functools.cached_property
    def problem(self):
        """What is wrong with its files, in words; None for a good one. Reads them once, when it is asked."""
        return find_problem(self.path)

    @property
    def gone(self):
        """Whether it has been removed."""
        return not os.path.exists(self.path + MANIFEST)

    @property
    def specs(self):
        """What it holds, see TrainState.specs; raises FileNotFoundError where it was removed meanwhile."""
        manifest = read_json(self.path + MANIFEST, ("variables",))
        if manifest is None:
            raise FileNotFoundError(self.path + MANIFEST)
        return manifest["variables"]


def write_manifest(path, step, specs):
    """Syncs the files of a checkpoint and vouches for them.

    Args:
      path: path of the checkpoint without suffix.
      step: global step it was taken at.
      specs: TrainState.specs() of what is in it.
    """
    names = sorted(glob.glob(glob.escape(path) + ".index") + glob.glob(glob.escape(path) + ".data-*"))
    for name in names:
        sync(name)
    files = {os.path.basename(name): {"bytes": os.path.getsize(name), "sha256": sha256(name)} for name in names}
    manifest = {"step": step, "variables": specs, "files": files}
    write_json(path + MANIFEST, {**manifest, "sha256": digest(manifest)})


def digest(manifest):
    """Returns the SHA-256 of what a manifest says, its own checksum left out."""
    said = {key: value for key, value in manifest.items() if key != "sha256"}
    return hashlib.sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()


def find_problem(path):
    """Returns what is wrong with the files of a checkpoint that has a manifest, in words, or None."""
    manifest = read_cached_json(path + MANIFEST)
    if not isinstance(manifest, dict) or manifest.get("sha256") != digest(manifest):
        return "its manifest is damaged"
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


def step_of(path):
    """Returns the step in the name of a checkpoint (path without suffix), or None where it is none of ours."""
    match = re.search(rf"{PREFIX}-(\d+)$", path)
    return int(match[1]) if match else None


def stored_checkpoints(directory):
    """Returns the finished checkpoints of a directory as StoredCheckpoint, newest first.

    A checkpoint that the manager names was finished, whatever is missing of it now. One with a manifest and files was
    finished too, though the process may have been killed before the manager named it.
    """
    try:
        state = tf.train.get_checkpoint_state(directory) if os.path.isdir(directory) else None
    except ValueError:  # The manager's list is damaged (bytes that are no text): the manifests tell as well.
        state = None
    named = {os.path.join(directory, os.path.basename(p)) for p in state.all_model_checkpoint_paths} if state else set()
    vouched = {p[:-len(MANIFEST)] for p in glob.glob(os.path.join(glob.escape(directory), f"*{MANIFEST}"))}
    paths = named | {p for p in vouched if os.path.exists(f"{p}.index") and glob.glob(f"{glob.escape(p)}.data-*")}
    found = [StoredCheckpoint(p, step_of(p)) for p in paths if step_of(p) is not None]
    return sorted(found, key=lambda c: -c.step)


def check_specs(stored, expected):
    """Raises UsageError where a checkpoint holds other variables than a state, naming the first difference.

    Args:
      stored: StoredCheckpoint, a good one.
      expected: TrainState.specs(), or some of its parts.
    """
    blame = {"model": ("another model", "give the --model and --precision it was made with"),
             "optimizer": ("another optimizer", "give the --optimizer and --momentum it was made with"),
             "ema": ("another --ema_decay", "the moving average is kept from the start or never")}
    for part, wanted in expected.items():
        found, (what, remedy) = stored.specs[part], blame[part]
        for old, new in zip(found, wanted, strict=False):
            if old[1:] != list(new[1:]):
                raise UsageError(f"{stored.path} is of {what}: {old[0]} is {old[2]} of shape {tuple(old[1])} there, "
                                 f"here {new[0]} is {new[2]} of shape {tuple(new[1])}; {remedy}")
        if len(found) != len(wanted):
            raise UsageError(f"{stored.path} is of {what}: it has {counted(len(found), 'variable')} of that kind, "
                             f"here there are {len(wanted)}; {remedy}")


def stems(directory):
    """Returns the names ("ckpt-12") of which a directory has any files, finished checkpoints or not."""
    names = os.listdir(directory) if os.path.isdir(directory) else []
    return {match[1] for name in names if (match := re.match(rf"({PREFIX}-\d+)[._]", name))}


def remove(directory, stem):
    """Removes every file of a checkpoint, finished or not; the manifest first, so that what is left is none."""
    names = [name for name in os.listdir(directory) if re.match(rf"{re.escape(stem)}[._]", name)]
    for name in sorted(names, key=lambda n: not n.endswith(MANIFEST)):
        path = os.path.join(directory, name)
        shutil.rmtree(path) if os.path.isdir(path) else os.remove(path)


def find_checkpoint(directory, name):
    """Finds a checkpoint by what a user calls it.

    Args:
      directory: `checkpoints/` of a run.
      name: "newest", "best", a step ("270"), a name ("ckpt-270") or a path without suffix.

    Returns:
      A good StoredCheckpoint.

    Raises:
      UsageError: there is none of that name, or it is damaged.
    """
    name = local_path(name, "--checkpoint")
    found = stored_checkpoints(os.path.join(directory, BEST) if name == "best" else directory)
    if name not in ("newest", "best"):
        stem = f"{PREFIX}-{name}" if name.isdigit() else os.path.basename(name)
        if os.path.dirname(name):
            found = stored_checkpoints(os.path.dirname(name))
        matches = [c for c in found if os.path.basename(c.path) == stem]
        if not matches:
            known = ", ".join(str(c.step) for c in found) or "none"
            guess = did_you_mean(name, ("newest", "best"))
            raise UsageError(f"no checkpoint '{name}' in {directory}{guess}; steps there: {known}; or newest, best, a "
                             "path")
        found = matches
    good = [c for c in found if not c.problem]
    if not good:
        reason = f"{found[0].path} is damaged: {found[0].problem}" if found else f"no checkpoint in {directory} yet"
        raise UsageError(f"--checkpoint={name}: {reason}")
    return good[0]
