"""Checkpoints of tf.train.CheckpointManager, each with a manifest that holds the checksums of its files.

A save writes the files, syncs them, and writes the manifest; only then does the manager list the checkpoint. All of
this, and the copy of the best checkpoint, happens in TensorFlow's writer thread while training continues.
"""
import contextlib
import errno
import glob
import itertools
import os
from collections.abc import Callable

import tensorflow as tf

from pipeline.console import STANDARD, Console
from pipeline.errors import RunFailure, UsageError
from pipeline.files import no_room, sync
from pipeline.internals.tensorflow_internals import take_writer_error, trace_copies
from pipeline.monitoring.full_disk import FullDisk
from pipeline.paths import literal
from pipeline.stored_checkpoint import (
    MANIFEST,
    PREFIX,
    StoredCheckpoint,
    check_specs,
    remove,
    stems,
    step_of,
    stored_checkpoints,
    write_manifest,
)
from pipeline.training.best_checkpoint import BestCheckpoint
from pipeline.training.state import TrainState

UNTRACED_SAVES = 8  # Of a process; only runs that save more often gain by what tracing the copy takes.


class CheckpointStore:
    """The checkpoints of one run.

    A full disk does not end the run: a save without room is undone, the latest good checkpoint is kept, older ones are
    removed to free space, and the next save retries.

    Attributes:
      last_step: step of the latest checkpoint, saved or being saved; None without any.
    """

    def __init__(self, directory: str, state: TrainState, keep: int, console: Console = STANDARD,
                 disk: FullDisk | None = None, saved: Callable[[int], None] = lambda step: None):
        """
        Args:
          directory: `checkpoints/` of the run; created by the first save.
          keep: number of latest checkpoints to keep.
          console: for warnings.
          disk: shared with the records of the run; default a new one.
          saved: called with the step of a checkpoint once it is on the disk.
        """
        self.directory, self.state, self.keep, self.console = directory, state, keep, console
        self.disk = disk or FullDisk(console)
        self.disk.make_room = self._make_room
        self._best, self._saved = BestCheckpoint(directory), saved
        self._checkpoint = state.checkpoint()
        _ = self._checkpoint.save_counter  # Created on first use; the manager saves it, so a restore must find it.
        self._manager: tf.train.CheckpointManager | None = None
        self._best_due: int | None = None
        self._best_problem: OSError | None = None
        self._folder = contextlib.ExitStack()  # Keeps the path under which the manager knows the directory.
        self.last_step: int | None = None
        self._saving: int | None = None
        self._wanted: int | None = None
        self._removed = False
        self._saves = 0

    def restore(self, known: int | None = None) -> int:
        """Restores the latest good checkpoint and removes damaged and unfinished ones.

        Args:
          known: step of a checkpoint that was saved before, or None.

        Returns:
          The restored step, or 0 without a checkpoint.

        Raises:
          RunFailure: every checkpoint is damaged, or they are missing.
          UsageError: the checkpoint is of another architecture, or one in the directory is of another run.
        """
        self._settle()
        found = stored_checkpoints(self.directory)
        foreign = next((checkpoint for checkpoint in found if checkpoint.foreign), None)
        if foreign:
            raise UsageError(f"another run saved {foreign.path}, and continuing would mix two runs: move that "
                             "checkpoint away, or start a new run from its weights with --initialize_from and another "
                             "--workdir")
        damaged = list(itertools.takewhile(lambda checkpoint: checkpoint.problem, found))
        good = found[len(damaged):]
        for checkpoint in damaged:
            self.console.warning(f"damaged checkpoint {checkpoint.path}: {checkpoint.problem}"
                                 + (f"; going back to step {good[0].step}" if good else ""))
        if found and not good:
            raise RunFailure(f"every checkpoint in {self.directory} is damaged; to start again give another --workdir")
        if not found and known is not None:
            raise RunFailure(f"the checkpoints in {self.directory} or their manifests are missing (there was one of "
                             f"step {known}): restore the files, or start again with another --workdir")
        if good:
            self.read(good[0])
        self.last_step, self._wanted = good[0].step if good else None, None
        self._keep_only(good)
        self._best.forget_after(self.last_step or 0)  # Later steps are computed again, perhaps with other settings.
        return self.last_step or 0

    def latest_good(self, wanted: Callable[[int], bool]) -> int | None:
        """Returns the latest step of a good checkpoint for which wanted(step) is true, or None."""
        self._settle()
        return next((c.step for c in stored_checkpoints(self.directory) if wanted(c.step) and not c.problem), None)

    def read(self, stored: StoredCheckpoint) -> None:
        """Reads a checkpoint into the state; raises UsageError if it does not fit."""
        check_specs(stored, self.state.specs())
        with literal(stored.path) as path:
            self._checkpoint.read(path).assert_consumed()

    def _keep_only(self, checkpoints):
        """Sets the manager's list to these checkpoints, latest first, and removes the files of all others."""
        if not os.path.isdir(self.directory):
            return
        kept = [c for c in checkpoints if os.path.exists(f"{c.path}.index")]
        self._name(kept)
        for stem in sorted(stems(self.directory) - {os.path.basename(c.path) for c in kept}, key=step_of, reverse=True):
            remove(self.directory, stem)

    def _name(self, checkpoints):
        """Writes these checkpoints, latest first, to the file that the manager reads when it is created."""
        self._manager = None
        names = [os.path.basename(c.path) for c in reversed(checkpoints)]
        try:
            if names:
                # The manager ignores paths whose time is not after last_preserved_timestamp.
                tf.compat.v1.train.update_checkpoint_state(
                    os.path.abspath(self.directory), names[-1], all_model_checkpoint_paths=names,
                    all_model_checkpoint_timestamps=[1.0] * len(names), last_preserved_timestamp=0.0)
                return
        except (OSError, tf.errors.OpError) as error:
            if not no_room(error):
                raise
            self._remove_torn_lists()
        with contextlib.suppress(FileNotFoundError):
            os.remove(os.path.join(self.directory, "checkpoint"))  # The manifests are enough to find the checkpoints.

    def _remove_torn_lists(self):
        for path in glob.glob(os.path.join(glob.escape(self.directory), "checkpoint.tmp*")):
            os.remove(path)

    def save(self, step: int, best: bool = False) -> None:
        """Starts writing a checkpoint of `step`; training may continue.

        Args:
          step: global step of the state.
          best: whether it becomes the best checkpoint once it is written; the previous best is kept until then.

        Raises:
          RunFailure: this or the last save failed for another reason than a full disk.
        """
        self._settle()
        self._wanted = step
        if step == self.last_step:
            if best:
                self.keep_best(step)
            return
        specs = self.state.specs()
        # New options each time: the manager appends its own callback to the list.
        options = tf.train.CheckpointOptions(
            enable_async=True, experimental_write_callbacks=[lambda _: self._finish(step, specs, best)])
        try:
            self._opened_manager().save(checkpoint_number=step, options=options)
            self._saves += 1
            trace_copies(self._checkpoint, self._saves > UNTRACED_SAVES)
        except (OSError, tf.errors.OpError) as error:
            if not no_room(error):
                raise self._failure(error) from error
            self._give_up(step, error)
            return
        self.last_step = self._saving = step

    def _opened_manager(self):
        if self._manager is None:
            os.makedirs(self.directory, exist_ok=True)
            self._name(stored_checkpoints(self.directory))
            self._folder.close()
            folder = self._folder.enter_context(literal(self.directory))
            self._manager = tf.train.CheckpointManager(self._checkpoint, folder, self.keep, checkpoint_name=PREFIX)
        return self._manager

    def _failure(self, error):
        reason = str(error).splitlines()[0]
        return RunFailure(f"a checkpoint could not be written to {self.directory}: {reason}; the previous one is "
                          "complete, run the same command again once this is fixed")

    def _finish(self, step, specs, best):
        """Runs in the writer thread after the files are written and before the manager lists them."""
        write_manifest(os.path.join(self.directory, f"{PREFIX}-{step}"), step, specs)
        self._remove_stale_manifests()
        if best:
            self._best_due = step
        self._try_best()

    def _remove_stale_manifests(self):
        """Removes the manifests of checkpoints that the manager has removed."""
        for manifest in glob.glob(os.path.join(glob.escape(self.directory), f"*{MANIFEST}")):
            if not os.path.exists(manifest[:-len(MANIFEST)] + ".index"):
                os.remove(manifest)

    def _settle(self):
        """Waits for the writer and handles the outcome of the last save; RunFailure as in `save`."""
        self._checkpoint.sync()
        error = take_writer_error(self._checkpoint)
        step, self._saving = self._saving, None
        if step is None:
            return
        written = os.path.exists(os.path.join(self.directory, f"{PREFIX}-{step}{MANIFEST}"))
        if not written:
            self.last_step = self._latest()
        if not (written and error is None) and not no_room(error):
            raise self._failure(error or "the files are missing")
        if written:
            self._succeed(step, error)
        else:
            self._give_up(step, error)

    def _latest(self):
        return next((c.step for c in stored_checkpoints(self.directory)), None)

    def _succeed(self, step, error):
        """Records a good checkpoint, though the disk may have been too full for the manager's list."""
        listed = {os.path.basename(path) for path in self._manager.checkpoints}
        if error is not None or listed != {os.path.basename(c.path) for c in stored_checkpoints(self.directory)}:
            self._manager = None
            self._remove_torn_lists()
        if not self._report_best_problem():
            self.disk.over(f"there is room on the disk again: the checkpoint of step {step} is saved{self._gone()}")
            self._removed = False
        self._saved(step)

    def _give_up(self, step, error):
        """Undoes a save for which there was no room, and frees space for the next one."""
        self._make_room(no_room(error))
        latest = self._latest()
        good = "there is none yet" if latest is None else f"the last good one is of step {latest}"
        self.disk.failed(
            f"the disk of {self.directory} is full ({os.strerror(no_room(error))}): the checkpoint of step {step} "
            f"could not be written; training continues and retries at the next one; {good}{self._gone()}")

    def _make_room(self, number):
        """Removes unfinished checkpoints and those older than the latest good one.

        Args:
          number: errno; with a limit on the size of a file (EFBIG) removing other files does not help.
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
    def full_message(self) -> str:
        """One line for a run that ends because the disk is still full: what is saved, and what to do."""
        latest = self._latest()
        safe = "nothing is saved yet" if latest is None else f"the last checkpoint is of step {latest}"
        return (f"the disk of {self.directory} is full and the last steps could not be saved: {safe}; make room and "
                "run the same command again to continue from there")

    def sync(self) -> bool:
        """Waits until the last save is on disk.

        Returns:
          False if it could not be written because the disk is full.

        Raises:
          RunFailure: it could not be written for another reason.
        """
        self._settle()
        self._remove_stale_manifests()
        return self._wanted in (None, self.last_step)

    def keep_best(self, step: int) -> None:
        """Makes the saved checkpoint of `step` the best one; the previous best is kept until this one is complete."""
        self._settle()
        self._best_due = step
        self._try_best()
        self._report_best_problem()

    def _try_best(self):
        """Copies the checkpoint that is due to `best/`; without room it stays due until the next save."""
        if self._best_due is None:
            return
        try:
            self._best.keep(self._best_due)
            self._best_due = self._best_problem = None
        except OSError as error:
            if not no_room(error):
                raise
            self._best_problem = error

    def _report_best_problem(self):
        """Reports that there was no room for the best checkpoint; returns whether that is so."""
        if self._best_problem:
            self.disk.failed(f"the disk of {self.directory} is full ({self._best_problem.strerror}): the best "
                             "checkpoint is still the previous one; training continues and retries")
        return bool(self._best_problem)

    def has_best(self, step: int) -> bool:
        """Tells whether the best checkpoint is that of `step`, undamaged."""
        return self._best.has(step)

    def forget_after(self, step: int) -> None:
        """Removes every checkpoint of a later step, the latest first, including the best one.

        A kill in the middle leaves the older ones complete.
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
