"""Profiles a few steps of a run (--profile=from:to): a trace for TensorBoard, and a table of what the steps cost."""
import glob
import os
import shutil
from collections.abc import Callable
from typing import Any

import tensorflow as tf
from google.protobuf.message import DecodeError

from pipeline.callbacks import Callback, Evaluated, Restored, Window
from pipeline.files import write_json, write_text
from pipeline.internals.tensorflow_internals import read_trace
from pipeline.monitoring.goodput import GoodputTracker
from pipeline.monitoring.operations_table import OperationsTable, render
from pipeline.monitoring.trace_operations import operations
from pipeline.run_directory import RunDirectory

MARKER = "train_steps"  # Name of the events in the trace that span the calls of steps.
HOW_TO_SEE = "TensorBoard shows the trace in its tab Profile, after `pip install 'mirrorline[profiler]'`"


class Profile(Callback):
    """Profiles one range of steps.

    Evaluations and rollbacks between the steps are not profiled: each part of the range has a trace of its own, and the
    table adds up the parts. Where the profile cannot be written, the run continues.
    """

    def __init__(self, steps: tuple[int, int], directory: RunDirectory, tracker: GoodputTracker,
                 info: Callable[[str], None], warning: Callable[[str], None], beat: Callable[[str], object],
                 evaluation_due: Callable[[int], bool] = lambda step: False):
        """
        Args:
          steps: (first, last): the range is from step first + 1 to step last.
          directory: claimed.
          tracker: of the run; reading and writing traces counts as "profiling".
          info: called with the table, a str of several lines.
          warning: called with a line if the profile fails.
          beat: called with a text after each part of the work.
          evaluation_due: tells whether an evaluation comes before the next steps.
        """
        (self._first, self._last), self._directory, self._tracker = steps, directory, tracker
        self._info, self._warning, self._beat, self._evaluation_due = info, warning, beat, evaluation_due
        self._running = self._done = False
        self._forget(self._first)

    def _forget(self, step: int) -> None:
        """Starts again after a step."""
        self._table, self._waited, self._compiled = OperationsTable(), 0.0, False
        self._begin = self._reached = step

    def on_start(self, restored: Restored) -> None:
        """Starts the trace if the first steps are profiled."""
        self._continue(restored.step)

    def on_rollback(self, restored: Restored) -> None:
        """Ends the trace; after a rollback into the range it starts again."""
        self.pause()
        self._continue(restored.step)

    def on_evaluation(self, evaluated: Evaluated) -> None:
        """Continues after an evaluation inside the range."""
        self._continue(evaluated.step, evaluated=True)

    def on_window(self, window: Window) -> None:
        """Adds a window; starts, interrupts or ends the trace."""
        if not self._running:
            self._continue(window.step)
            return
        self._compiled |= window.compiled
        self._reached = window.step
        if "input_wait" in window.columns:
            self._waited += float(window.column("input_wait").sum())
        if window.step >= self._last:
            self.close()
        elif self._evaluation_due(window.step):
            self.pause()

    def _continue(self, step: int, evaluated: bool = False) -> None:
        """Starts a trace if the next steps are to be profiled and nothing comes before them."""
        if self._done or self._running or not self._first <= step < self._last:
            return
        if self._evaluation_due(step) and not evaluated:
            return
        if step != self._reached:
            self._forget(step)  # After a restore or a rollback into the range.
        self._attempt(self._start, step)

    def pause(self) -> None:
        """Ends the trace."""
        if self._running:
            self._running = False
            self._attempt(self._stop)

    def close(self) -> None:
        """Ends the profile, wherever it is, and shows it."""
        self.pause()
        if not self._done and self._table.devices:
            self._done = True
            self._attempt(self._show)

    def _attempt(self, work: Callable, *arguments: Any) -> None:
        """Does a part of the work; if it fails the run continues without a profile."""
        try:
            with self._tracker.measure("profiling"):
                work(*arguments)
        except (tf.errors.OpError, OSError, DecodeError) as error:
            self._done, self._running = True, False
            self._warning(f"--profile={self._first}:{self._last}: the profile could not be written "
                          f"({str(error).splitlines()[0]}); training continues without it")
        finally:
            if not self._running:
                shutil.rmtree(self._temporary, ignore_errors=True)
        self._beat("a part of the profile")

    @property
    def _temporary(self) -> str:
        return self._directory.file("profile.tmp")

    def _start(self, step: int) -> None:
        self._from = step
        shutil.rmtree(self._temporary, ignore_errors=True)
        tf.profiler.experimental.start(self._temporary)
        self._running = True

    def _stop(self) -> None:
        empty = self._reached == self._from  # The run stopped, or rolled back, before the next steps.
        tf.profiler.experimental.stop(save=not empty)
        if empty:
            return
        self._beat("the trace of the profile")
        # The profiler names a trace by the second: two traces of one second would have one name.
        (path,) = glob.glob(os.path.join(glob.escape(self._temporary), "plugins", "profile", "*", "*.xplane.pb"))
        with open(path, "rb") as file:
            space = read_trace(file.read())
        self._table.add(operations(space, MARKER, lambda: self._beat("a part of the profile")))
        folder = self._directory.file("tensorboard", "train", "plugins", "profile")
        os.makedirs(folder, exist_ok=True)
        target = os.path.join(folder, f"steps_{self._from + 1}_to_{self._reached}")
        shutil.rmtree(target, ignore_errors=True)  # Left by a killed process.
        os.replace(os.path.dirname(path), target)

    def _show(self) -> None:
        count = self._reached - self._begin
        summary = {"steps": [self._begin + 1, self._reached], **self._table.summary(count, self._waited)}
        notes = []
        if self._compiled:
            notes.append("The first of these steps was traced and compiled, which counts as idle: profile later ones.")
        if tf.config.list_logical_devices("GPU") and "CPU" in summary["devices"]:
            notes.append("The profiler recorded no kernels of the GPU (it needs the library CUPTI and the right to use "
                         "it): these are the operations of the CPU.")
        text = "\n".join([render(summary, f"profile of steps {self._begin + 1} to {self._reached}"), *notes])
        self._info(f"{text}\n{HOW_TO_SEE}; this table is in {self._directory.file('profile.txt')}")
        write_text(self._directory.file("profile.txt"), f"{text}\n")
        write_json(self._directory.file("profile.json"), {**summary, "notes": notes})


def create_profile(plan: Any, step: int, directory: RunDirectory, tracker: GoodputTracker,
                   info: Callable[[str], None], warning: Callable[[str], None], beat: Callable[[str], object],
                   evaluation_due: Callable[[int], bool] = lambda step: False) -> Profile | None:
    """Returns the Profile of the range in `plan`, as far as it lies after `step`; None without one, after a warning.

    The other arguments are those of Profile.
    """
    if not plan.profiled:
        return None
    (first, last), total = plan.profiled, plan.total_steps
    if first < total and step < min(last, total):
        return Profile((first, min(last, total)), directory, tracker, info, warning, beat, evaluation_due)
    why = f"ends at step {total}" if first >= total else f"continues from step {step}"
    warning(f"--profile={first}:{last}: nothing is profiled, since the run {why}")
    return None
