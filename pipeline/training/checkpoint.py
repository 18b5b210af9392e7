"""Checkpoints that are good or not there: tf.train.CheckpointManager's files, each vouched for by a manifest.

A save writes the files, then syncs them, then writes the manifest with their checksums; only then does the manager name
the checkpoint. All of this, and the copy of the best one, is done by TensorFlow's writer thread while training goes on.
"""
import contextlib
import errno
import glob
import os

import tensorflow as tf

from pipeline.console import STANDARD
from pipeline.errors import RunFailure
from pipeline.files import no_room, sync
from pipeline.internals.tensorflow_internals import take_writer_error
from pipeline.monitoring.full_disk import FullDisk
from pipeline.paths import literal
from pipeline.stored_checkpoint import (
    MANIFEST,
    PREFIX,
    check_specs,
    remove,
    stems,
    step_of,
    stored_checkpoints,
    write_manifest,
)
from pipeline.training.best_checkpoint import BestCheckpoint


class CheckpointStore:
    """The checkpoints of one run.

    A full disk ends nothing: a save that finds no room is taken back, the newest good checkpoint stays, older ones make
    room, and the next save tries again.

    Attributes:
      last_step: step of the newest checkpoint, saved or being saved; None without any.
    """

    def __init__(self, directory, state, keep, console=STANDARD, disk=None, saved=lambda step: None):
        """
        Args:
          directory: `checkpoints/` of the run; made on the first save.
          state: TrainState.
          keep: how many of the newest are kept.
          console: where warnings go.
          disk: FullDisk that the run's records share; default one of its own.
          saved: called with the step of a checkpoint once it is known to be on the disk.
        """
        self.directory, self.state, self.keep, self.console = directory, state, keep, console
        self.disk = disk or FullDisk(console)
        self.disk.make_room = self._make_room
        self._best, self._saved = BestCheckpoint(directory), saved
        self._checkpoint = state.checkpoint()
        _ = self._checkpoint.save_counter  # Made on first use, and the manager saves it: a restore must find it.
        self._manager = self._best_due = self._best_problem = None
        self._folder = contextlib.ExitStack()  # Holds the path that the manager knows the directory by.
        self.last_step = self._saving = self._wanted = None
        self._removed = False

    def restore(self, known=None):
        """Restores the newest good checkpoint and takes away what is not one.

        Args:
          known: a step of which there was a checkpoint once, or None.

        Returns:
          The step restored to, or 0 with nothing to restore.

        Raises:
          RunFailure: every checkpoint is damaged, or they are gone.
          UsageError: the checkpoint is of another architecture.
        """
        self._settle()
        found = stored_checkpoints(self.directory)
        good = next((i for i, checkpoint in enumerate(found) if not checkpoint.problem), None)
        for damaged in found[:good]:
            self.console.warning(f"damaged checkpoint {damaged.path}: {damaged.problem}"
                                 + (f"; going back to step {found[good].step}" if good is not None else ""))
        if found and good is None:
            raise RunFailure(f"every checkpoint in {self.directory} is damaged; to start anew give another --workdir")
        if not found and known is not None:
            raise RunFailure(f"the checkpoints in {self.directory} are gone or have lost their manifests (there was "
                             f"one of step {known}): bring them back, or start anew with another --workdir")
        if found:
            self.read(found[good])
        self.last_step, self._wanted = found[good].step if found else None, None
        self._keep_only(found[good:] if found else [])
        self._best.forget_after(self.last_step or 0)  # Of a future that is computed anew, perhaps with other settings.
        return self.last_step or 0

    def newest_good(self, wanted):
        """Returns the newest step of a good checkpoint for which wanted(step) holds, or None."""
        self._settle()
        return next((c.step for c in stored_checkpoints(self.directory) if wanted(c.step) and not c.problem), None)

    def read(self, stored):
        """Reads one StoredCheckpoint into the state; raises UsageError where it does not fit."""
        check_specs(stored, self.state.specs())
        with literal(stored.path) as path:
            self._checkpoint.read(path).assert_consumed()

    def _keep_only(self, checkpoints):
        """Makes the manager's list these checkpoints, newest first, and removes the files of all others."""
        if not os.path.isdir(self.directory):
            return
        kept = [c for c in checkpoints if os.path.exists(f"{c.path}.index")]
        self._name(kept)
        for stem in sorted(stems(self.directory) - {os.path.basename(c.path) for c in kept}, key=step_of, reverse=True):
            remove(self.directory, stem)

    def _name(self, checkpoints):
        """Writes these checkpoints, newest first, into the file that the manager reads when it is made."""
        self._manager = None
        names = [os.path.basename(c.path) for c in reversed(checkpoints)]
        try:
            if names:
                # The manager ignores paths that are not younger than what it was told to preserve.
                tf.compat.v1.train.update_checkpoint_state(
                    os.path.abspath(self.directory), names[-1], all_model_checkpoint_paths=names,
                    all_model_checkpoint_timestamps=[1.0] * len(names), last_preserved_timestamp=0.0)
                return
        except (OSError, tf.errors.OpError) as error:
            if not no_room(error):
                raise
            self._remove_torn_lists()
        with contextlib.suppress(FileNotFoundError):
            os.remove(os.path.join(self.directory, "checkpoint"))  # Manifests alone tell what is there as well.

    def _remove_torn_lists(self):
        for path in glob.glob(os.path.join(glob.escape(self.directory), "checkpoint.tmp*")):
            os.remove(path)

    def save(self, step, best=False):
        """Starts writing a checkpoint of `step`; training may go on.

        Args:
          step: global step of the state.
          best: whether it becomes the best one once it is written; the best one before stays until then.

        Raises:
          RunFailure: this or the last save could not be written, and not because the disk is full.
        """
        self._settle()
        self._wanted = step
        if step == self.last_step:
            if best:
                self.keep_best(step)
            return
        specs = self.state.specs()
        # New options each time: the manager appends its own callback to the list it is given.
        options = tf.train.CheckpointOptions(
            enable_async=True, experimental_write_callbacks=[lambda _: self._finish(step, specs, best)])
        try:
            self._make_manager()
            self._manager.save(checkpoint_number=step, options=options)
        except (OSError, tf.errors.OpError) as error:
            if not no_room(error):
                raise self._failure(error) from error
            self._give_up(step, error)
            return
        self.last_step = self._saving = step

    def _make_manager(self):
        if self._manager is None:
            os.makedirs(self.directory, exist_ok=True)
            self._name(stored_checkpoints(self.directory))
            self._folder.close()
            folder = self._folder.enter_context(literal(self.directory))
            self._manager = tf.train.CheckpointManager(self._checkpoint, folder, self.keep, checkpoint_name=PREFIX)

    def _failure(self, error):
        reason = str(error).splitlines()[0]
        return RunFailure(f"a checkpoint could not be written to {self.directory}: {reason}; the one before it is "
                          "whole, run the same command again once this is mended")

    def _finish(self, step, specs, best):
        """Runs in the writer's thread after the files are written and before the manager names them."""
        write_manifest(os.path.join(self.directory, f"{PREFIX}-{step}"), step, specs)
        self._sweep_manifests()
        if best:
            self._best_due = step
        self._try_best()

    def _sweep_manifests(self):
        """Removes the manifests of checkpoints that the manager has swept away."""
        for manifest in glob.glob(os.path.join(glob.escape(self.directory), f"*{MANIFEST}")):
            if not os.path.exists(manifest[:-len(MANIFEST)] + ".index"):
                os.remove(manifest)

    def _settle(self):
        """Waits for the writer and takes note of how the last save went; RunFailure as in `save`."""
        self._checkpoint.sync()
        error = take_writer_error(self._checkpoint)
        step, self._saving = self._saving, None
        if step is None:
            return
        written = os.path.exists(os.path.join(self.directory, f"{PREFIX}-{step}{MANIFEST}"))
        if not written:
            self.last_step = self._newest()
        if not (written and error is None) and not no_room(error):
            raise self._failure(error or "the files are not there")
        if written:
            self._succeed(step, error)
        else:
            self._give_up(step, error)

    def _newest(self):
        return next((c.step for c in stored_checkpoints(self.directory)), None)

    def _succeed(self, step, error):
        """Takes note of a checkpoint that is good, though the disk may have been full for the manager's list."""
        listed = {os.path.basename(path) for path in self._manager.checkpoints}
        if error is not None or listed != {os.path.basename(c.path) for c in stored_checkpoints(self.directory)}:
            self._manager = None
            self._remove_torn_lists()
        if not self._tell_of_best():
            self.disk.over(f"there is room on the disk again: the checkpoint of step {step} is saved{self._gone()}")
            self._removed = False
        self._saved(step)

    def _give_up(self, step, error):
        """Takes back a save for which there was no room, and makes room for the next one."""
        self._make_room(no_room(error))
        newest = self._newest()
        good = "there is none yet" if newest is None else f"the last good one is of step {newest}"
        self.disk.failed(
            f"the disk of {self.directory} is full ({os.strerror(no_room(error))}): the checkpoint of step {step} "
            f"could not be written; training goes on and tries again at the next one; {good}{self._gone()}")

    def _make_room(self, number):
        """Removes what was not finished, and what is older than the newest good checkpoint.

        Args:
          number: errno; a limit on the size of one file (EFBIG) is not helped by removing others.
        """
        self._settle()
        stored, good = stored_checkpoints(self.directory), None
        if number != errno.EFBIG and len(stored) > 1:
            good = next((c for c in stored if not c.problem), None)
        kept = [c for c in stored if good is None or c.step >= good.step]
        self._keep_only(kept)
        self._removed = self._removed or len(kept) < len(stored)

    def _gone(self):
        return ", older ones were removed to make room" if self._removed else ""

    @property
    def full_message(self):
        """What a run says that ends because the disk is still full: what is safe, and what to do. One line."""
        newest = self._newest()
        safe = "nothing is saved yet" if newest is None else f"the last checkpoint is of step {newest}"
        return (f"the disk of {self.directory} is full and the last steps could not be saved: {safe}; make room and "
                "run the same command again, it goes on from there")

    def sync(self):
        """Waits until the last save is on disk.

        Returns:
          False where it could not be written because the disk is full.

        Raises:
          RunFailure: it could not be written for another reason.
        """
        self._settle()
        self._sweep_manifests()
        return self._wanted in (None, self.last_step)

    def keep_best(self, step):
        """Makes the checkpoint of `step`, saved before, the best one; the one before stays until this one is whole."""
        self._settle()
        self._best_due = step
        self._try_best()
        self._tell_of_best()

    def _try_best(self):
        """Keeps the checkpoint that is due as the best one; without room it stays due until the next save."""
        if self._best_due is None:
            return
        try:
            self._best.keep(self._best_due)
            self._best_due = self._best_problem = None
        except OSError as error:
            if not no_room(error):
                raise
            self._best_problem = error

    def _tell_of_best(self):
        """Says that there was no room for the best checkpoint; returns whether it was so."""
        if self._best_problem:
            self.disk.failed(f"the disk of {self.directory} is full ({self._best_problem.strerror}): the best "
                             "checkpoint is still the one before; training goes on and tries again")
        return bool(self._best_problem)

    def has_best(self, step):
        """Tells whether the best checkpoint is the one of `step`, whole."""
        return self._best.has(step)

    def forget_after(self, step):
        """Removes every checkpoint of a later step, newest first, the best one too if it is of a later step.

        A kill in the middle leaves the older ones, each whole.
        """
        self._settle()
        stay = [c for c in stored_checkpoints(self.directory) if c.step <= step]
        self._best.forget_after(step)
        self._keep_only(stay)
        if os.path.isdir(self.directory):
            sync(self.directory)
        if self._best_due is not None and self._best_due > step:
            self._best_due = self._best_problem = None
        self.last_step, self._wanted = stay[0].step if stay else None, None
