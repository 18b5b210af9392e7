"""Checkpoints that are good or not there: tf.train.CheckpointManager's files, each vouched for by a manifest.

A save writes the files, then syncs them, then writes the manifest with their checksums; only then does the manager name
the checkpoint. What has no manifest was never finished; what does not agree with its manifest is damaged.
"""
import dataclasses
import functools
import glob
import os
import re
import shutil

import tensorflow as tf

from pipeline.errors import RunFailure, UsageError
from pipeline.files import read_json, sha256, sync, write_json

PREFIX = "ckpt"


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
    def specs(self):
        """What it holds, see TrainState.specs."""
        return read_json(f"{self.path}.manifest.json")["variables"]


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
    write_json(f"{path}.manifest.json", {"step": step, "variables": specs, "files": files})


def find_problem(path):
    """Returns what is wrong with the files of a checkpoint that has a manifest, in words, or None."""
    manifest = read_json(f"{path}.manifest.json")
    if not manifest or "files" not in manifest:
        return "its manifest cannot be read"
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


def _step_of(path):
    match = re.search(rf"{PREFIX}-(\d+)$", path)
    return int(match[1]) if match else None


def stored_checkpoints(directory):
    """Returns the finished checkpoints of a directory as StoredCheckpoint, newest first.

    A checkpoint that the manager names was finished, whatever is missing of it now. One with a manifest and files was
    finished too, though the process may have been killed before the manager named it.
    """
    state = tf.train.get_checkpoint_state(directory) if os.path.isdir(directory) else None
    named = {os.path.join(directory, os.path.basename(p)) for p in state.all_model_checkpoint_paths} if state else set()
    vouched = {p[:-len(".manifest.json")] for p in glob.glob(os.path.join(glob.escape(directory), "*.manifest.json"))}
    paths = named | {p for p in vouched if os.path.exists(f"{p}.index") and glob.glob(f"{glob.escape(p)}.data-*")}
    found = [StoredCheckpoint(p, _step_of(p)) for p in paths if _step_of(p) is not None]
    return sorted(found, key=lambda c: -c.step)


def check_specs(stored, expected):
    """Raises UsageError where a checkpoint holds other variables than a state, naming the first difference.

    Args:
      stored: StoredCheckpoint, a good one.
      expected: TrainState.specs().
    """
    blame = {"model": ("another model", "give the --model and --precision it was made with"),
             "optimizer": ("another optimizer", "give the --optimizer and --momentum it was made with"),
             "ema": ("another --ema_decay", "the moving average is kept from the start or never")}
    for part, (what, remedy) in blame.items():
        found, wanted = stored.specs[part], expected[part]
        for old, new in zip(found, wanted, strict=False):
            if old[1:] != list(new[1:]):
                raise UsageError(f"{stored.path} is of {what}: {old[0]} is {old[2]} of shape {tuple(old[1])} there, "
                                 f"here {new[0]} is {new[2]} of shape {tuple(new[1])}; {remedy}")
        if len(found) != len(wanted):
            raise UsageError(f"{stored.path} is of {what}: it has {len(found)} variables of that kind, here there are "
                             f"{len(wanted)}; {remedy}")


class CheckpointStore:
    """The checkpoints of one run."""

    def __init__(self, directory, state, keep, echo=print):
        """
        Args:
          directory: `checkpoints/` of the run; made on the first save.
          state: TrainState.
          keep: how many of the newest are kept.
          echo: where lines for the user go.
        """
        self.directory, self.state, self.keep, self.echo = directory, state, keep, echo
        self.best_directory = os.path.join(directory, "best")
        self._checkpoint = state.checkpoint()
        _ = self._checkpoint.save_counter  # Made on first use, and the manager saves it: a restore must find it.
        self._manager = self._error = None
        self.last_step = None

    def restore(self):
        """Restores the newest good checkpoint and takes away what is not one.

        Returns:
          The step restored to, or 0 with nothing to restore.

        Raises:
          RunFailure: checkpoints are there and every one of them is damaged.
          UsageError: the checkpoint is of another architecture.
        """
        found = stored_checkpoints(self.directory)
        good = next((i for i, checkpoint in enumerate(found) if not checkpoint.problem), None)
        for damaged in found[:good]:
            self.echo(f"damaged checkpoint {damaged.path}: {damaged.problem}"
                      + (f"; going back to step {found[good].step}" if good is not None else ""))
        if found and good is None:
            raise RunFailure(f"every checkpoint in {self.directory} is damaged; to start anew give another --workdir")
        if found:
            self.read(found[good])
            self.last_step = found[good].step
        self._keep_only(found[good:] if found else [])
        return self.last_step or 0

    def read(self, stored):
        """Reads one StoredCheckpoint into the state; raises UsageError where it does not fit."""
        check_specs(stored, self.state.specs())
        self._checkpoint.read(stored.path).assert_consumed()

    def _keep_only(self, checkpoints):
        """Makes the manager's list these checkpoints, newest first, and removes the files of all others."""
        if not os.path.isdir(self.directory):
            return
        paths = [c.path for c in reversed(checkpoints) if os.path.exists(f"{c.path}.index")]
        if paths:
            # The manager ignores paths that are not younger than what it was told to preserve.
            tf.compat.v1.train.update_checkpoint_state(
                self.directory, paths[-1], all_model_checkpoint_paths=paths,
                all_model_checkpoint_timestamps=[1.0] * len(paths), last_preserved_timestamp=0.0)
        elif os.path.exists(os.path.join(self.directory, "checkpoint")):
            os.remove(os.path.join(self.directory, "checkpoint"))
        keep = {os.path.basename(path) for path in paths}
        for name in os.listdir(self.directory):
            stem = re.match(rf"({PREFIX}-\d+)[._]", name)
            if stem and stem[1] not in keep:
                path = os.path.join(self.directory, name)
                shutil.rmtree(path) if os.path.isdir(path) else os.remove(path)

    def save(self, step):
        """Starts writing a checkpoint of `step`; training may go on. An error of the last save is raised here."""
        if step == self.last_step:
            return
        if self._manager is None:
            os.makedirs(self.directory, exist_ok=True)
            self._manager = tf.train.CheckpointManager(self._checkpoint, self.directory, self.keep,
                                                       checkpoint_name=PREFIX)
        specs = self.state.specs()
        # New options each time: the manager appends its own callback to the list it is given.
        options = tf.train.CheckpointOptions(
            enable_async=True, experimental_write_callbacks=[lambda path: self._finish(path, step, specs)])
        try:
            self._manager.save(checkpoint_number=step, options=options)
        except (OSError, tf.errors.OpError) as error:
            raise self._failure(error) from error
        self.last_step = step

    def _failure(self, error):
        """Returns the RunFailure for an error of the writer, which is then told once and not again at exit."""
        writer = getattr(self._checkpoint, "_async_checkpointer_impl", None)
        cause = error or self._error or getattr(writer, "_async_error", None) or "the files are not there"
        if writer is not None:
            writer._async_error = None
        reason = str(cause).splitlines()[0]
        return RunFailure(f"a checkpoint could not be written to {self.directory}: {reason}; the one before it is "
                          "whole, run the same command again once this is mended")

    def _finish(self, path, step, specs):
        """Runs in the writer's thread after the files are written and before the manager names them."""
        try:
            write_manifest(path, step, specs)
        except OSError as error:
            self._error = error
            raise
        self._sweep_manifests()

    def _sweep_manifests(self):
        """Removes the manifests of checkpoints that the manager has swept away."""
        for manifest in glob.glob(os.path.join(glob.escape(self.directory), "*.manifest.json")):
            if not os.path.exists(manifest[:-len(".manifest.json")] + ".index"):
                os.remove(manifest)

    def sync(self):
        """Waits until the last save is on disk; raises RunFailure where it could not be written."""
        self._checkpoint.sync()
        if self._manager is None:
            return
        # TensorFlow tells of the writer's error at the next save only, which may never come.
        if not os.path.exists(os.path.join(self.directory, f"{PREFIX}-{self.last_step}.manifest.json")):
            raise self._failure(None)
        self._sweep_manifests()

    def keep_best(self, step):
        """Makes the checkpoint of `step`, saved before, the best one; the one before stays until this one is whole."""
        self.sync()
        os.makedirs(self.best_directory, exist_ok=True)
        stem = f"{PREFIX}-{step}"
        names = [n for n in os.listdir(self.directory) if n.startswith(f"{stem}.")]
        for name in sorted(names, key=lambda n: n.endswith(".manifest.json")):  # The manifest last.
            target = os.path.join(self.best_directory, name)
            shutil.copyfile(os.path.join(self.directory, name), f"{target}.tmp")
            sync(f"{target}.tmp")
            os.replace(f"{target}.tmp", target)
        sync(self.best_directory)
        for name in os.listdir(self.best_directory):
            if not name.startswith(f"{stem}."):
                os.remove(os.path.join(self.best_directory, name))

    def has_best(self, step):
        """Tells whether the best checkpoint is the one of `step`, whole."""
        return any(c.step == step and not c.problem for c in stored_checkpoints(self.best_directory))


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
    found = stored_checkpoints(os.path.join(directory, "best") if name == "best" else directory)
    if name not in ("newest", "best"):
        stem = f"{PREFIX}-{name}" if name.isdigit() else os.path.basename(name)
        if os.path.dirname(name):
            found = stored_checkpoints(os.path.dirname(name))
        matches = [c for c in found if os.path.basename(c.path) == stem]
        if not matches:
            known = ", ".join(str(c.step) for c in found) or "none"
            raise UsageError(f"no checkpoint '{name}' in {directory}; steps there: {known}; or newest, best, a path")
        found = matches
    good = [c for c in found if not c.problem]
    if not good:
        reason = f"{found[0].path} is damaged: {found[0].problem}" if found else f"no checkpoint in {directory} yet"
        raise UsageError(f"--checkpoint={name}: {reason}")
    return good[0]
