"""A run from its configuration to its result: compose, restore, loop, finish."""
import contextlib
import dataclasses
import math
import time
from collections.abc import Iterator, Sequence
from typing import Any

import tensorflow as tf

from pipeline import interruption
from pipeline.activity import activity
from pipeline.callbacks import Callback, Ending, Evaluated, Restored, Window
from pipeline.config import MOVING_AVERAGE
from pipeline.console import STANDARD, Console
from pipeline.errors import RunFailure
from pipeline.files import write_json
from pipeline.metrics.evaluation import is_better
from pipeline.monitoring.built_in import create_callbacks, create_progress
from pipeline.monitoring.goodput import GoodputTracker, process_age, summarize
from pipeline.monitoring.launches import Launches
from pipeline.monitoring.recorder import Recorder
from pipeline.run_directory import RunDirectory
from pipeline.training.cadence import StepsPerLoopController
from pipeline.training.divergence import DivergenceGuard
from pipeline.training.experiment import Experiment
from pipeline.training.multi_worker_checkpoint import create_store
from pipeline.training.phase import RunPhase
from pipeline.training.preemption import StopRequest, in_main_thread
from pipeline.training.restore import restore_checkpoint, roll_back
from pipeline.training.run_records import RunResult, describe_result, record_start
from pipeline.training.self_test import reduction_name
from pipeline.training.skipped_files import SkippedFiles
from pipeline.training.step import TRAIN_COLUMNS
from pipeline.training.watchdog import Watchdog

WAIT = TRAIN_COLUMNS.index("input_wait")


class Trainer:
    """Trains an experiment in its run directory.

    Every decision about the course of the run is in this class; `callbacks` only observe.
    """

    def __init__(self, experiment: Experiment, directory: RunDirectory, accepted: Sequence[tuple] = (),
                 console: Console = STANDARD, callbacks: Sequence[Callback] = ()):
        """
        Args:
          experiment: with a fresh state.
          directory: claimed.
          accepted: [(name, old, new)] options that differ from those of the run so far.
          console: for messages.
          callbacks: called after the built-in ones, in this order.
        """
        self.experiment, self.directory, self.accepted, self.console = experiment, directory, accepted, console
        self.plan, self.state, self.config = experiment.plan, experiment.state, experiment.config
        self.launches = Launches(directory.file("launches.jsonl"))
        self.progress = create_progress(self.plan, self.config.runtime.verbosity)
        self.watchdog = Watchdog(self.config.runtime.hang_timeout, directory.file("hang.txt"),
                                 lambda: reduction_name(experiment.strategy), self._record_hang)
        self.store = create_store(experiment.workers, directory.file("checkpoints"), self.state,
                                  self.config.training.keep_checkpoints, console, saved=self._saved)
        self.tracker = GoodputTracker(self.launches, process_age())
        self.stop_request, self.skipped = StopRequest(), SkippedFiles(experiment, self.launches)
        self.callbacks: tuple[Callback, ...] = (self.progress, *callbacks)  # The others are created by `_restore`.
        self._user_callbacks = callbacks
        self._phase: RunPhase | None = None  # Of the window before.

    def run(self) -> tuple[RunResult, dict]:
        """Trains to the end of the plan, or until asked to stop, and writes the result.

        Returns:
          (RunResult, contents of result.json).

        Raises:
          RunFailure: training diverged, every checkpoint is damaged, or the last one could not be written.
          UsageError: the checkpoint is of another architecture.
        """
        if not in_main_thread():
            self.console.info("signals do not save this run, which is not in the main thread of Python: checkpoints do")
        with self.stop_request, self.watchdog, contextlib.ExitStack() as closing:
            closing.callback(self._close)
            restored = self._restore()
            with self._starting(restored.step) as self._until_first_step:
                result = self._loop(restored)
            return self._finish(result)

    def _starting(self, step: int) -> contextlib.ExitStack:
        """Returns a context until the end of the first window, which compiles the step: a signal ends the command.

        It does not end a Python program of a user, nor one of several workers: these stop after the first window.
        """
        def end():  # Runs in another thread, as a kill: of the callbacks only the display is closed.
            self.progress.close()
            again = f"continues from step {step}" if step else "starts again"
            self.console.warning(f"{interruption.command()}: interrupted while compiling the step; no step was "
                                 f"trained, the same command {again}")

        stack = contextlib.ExitStack()
        stack.enter_context(activity("compiling the step", self.progress.activity_console))
        if interruption.command() and self.experiment.workers.count == 1:
            stack.enter_context(self.stop_request.at_once(end))
        return stack

    # Restore: the state that the run continues from.

    def _restore(self) -> Restored:
        """Restores the latest checkpoint, records the start, cuts later records, and creates the callbacks."""
        step = restore_checkpoint(self.experiment, self.store, self.launches.latest_saved())
        record_start(self, step)
        self.guard = DivergenceGuard(self.config.training, self.state)
        self.recorder = Recorder(self.directory, self.plan.batch_size, self.store.disk,
                                 self.experiment.source.class_names, self.experiment.settings.scale_loss)
        restored = self.recorder.cut_after(step, int(self.state.evaluated_step.numpy()))
        if step == 0 and self.config.training.on_divergence == "rollback":
            self.store.save(0)  # For a rollback from the first steps.
        self.callbacks = (*create_callbacks(self.experiment, self.directory, step, self.recorder, self.progress,
                                            self.tracker, self.launches, self.watchdog, self.console),
                          *self._user_callbacks)
        return restored

    # Loop: evaluate if due, save if due, run a window, record it, look for divergence.

    def _loop(self, restored: Restored) -> RunResult:
        """Trains from the restored step on.

        The order of every iteration: an evaluation belongs to the state before the next steps, so it comes first and is
        saved with it; everything recorded up to a step is on disk before the checkpoint of that step (`_save`); after
        a rollback, later records are cut before the next step.
        """
        plan, step, began, first_step = self.plan, restored.step, time.monotonic(), None
        # A call as long as the timeout of the watchdog would look like a hang.
        pace = StepsPerLoopController(self.config.training.steps_per_loop,
                                      self.config.runtime.hang_timeout / 4 or math.inf)
        self._saved_at = time.monotonic()
        iterator = self.experiment.train_iterator(step) if step < plan.total_steps else iter(())
        self._notify("on_start", restored)
        while not self.should_stop():
            improved = self.experiment.evaluation_due(step) and self._evaluate(step)
            if improved is None:
                break  # Stopped during the evaluation; a resume evaluates first.
            if self._save_due(step) or improved or step >= plan.total_steps:
                self._save(step, best=improved, last=step >= plan.total_steps)
                self._saved_at = time.monotonic()
            if step >= plan.total_steps or self._early_stop():
                break
            iterator = self.experiment.train_iterator(step) if step in plan.resized_at else iterator
            window = self._run_window(iterator, step, pace)
            step, first_step = window.step, first_step or time.monotonic() - began
            self._record_window(window, iterator, pace)
            diverged = self.guard.look(step, TRAIN_COLUMNS, window.rows)
            if diverged:
                restored = roll_back(self, diverged, step)
                self._notify("on_rollback", restored)
                step, iterator = restored.step, self.experiment.train_iterator(restored.step)
        return self._last_save(step, first_step)

    def should_stop(self) -> bool:
        """Tells whether this or another worker was asked to stop."""
        return self.experiment.workers.any(self.stop_request())

    def _run_window(self, iterator: Iterator, step: int, pace: StepsPerLoopController) -> Window:
        """Runs the steps of about a second in one call, all of one phase of the run."""
        last, self._phase = self._phase, self.experiment.enter_phase(step)
        if change := self._phase.change(last, step):
            self.console.info(change)
            self._until_first_step.enter_context(activity("compiling the step", self.progress.activity_console))
            pace.restart()
        count = int(self.experiment.workers.first(pace.next(self.plan.steps_to_boundary(step))))
        compiled, started, before = not pace.calls, time.time(), time.monotonic()
        with tf.profiler.experimental.Trace("train_steps", step_num=step, _r=1):
            rows = self.experiment.steps.train_steps(iterator, tf.constant(count)).numpy()
        seconds = time.monotonic() - before
        self._until_first_step.close()
        pace.finished(count, seconds)
        step += count
        steady = not compiled and not self.plan.is_profiled(step)
        return Window(step, TRAIN_COLUMNS, rows, started, seconds, compiled, steady)

    def _record_window(self, window: Window, iterator: Iterator, pace: StepsPerLoopController) -> None:
        """Records the time of a window and calls the callbacks."""
        self.watchdog.beat(f"step {window.step}")
        self.tracker.window(len(window.rows), window.seconds, window.rows[:, WAIT].sum(), window.compiled)
        self._notify("on_window", window)
        if window.compiled:
            with self.tracker.measure("reporting"):
                self.experiment.count_operations(iterator)
        if pace.calls == len(pace.FIRST):
            self.tracker.commit(window.step)  # A kill from here on leaves a record of the time of the start.

    def _evaluate(self, step: int) -> bool | None:
        """Evaluates the watched split and updates the best evaluation.

        Returns:
          Whether it is the best so far, or None if it was stopped.
        """
        state, split = self.state, self.experiment.watched
        self.progress.phase(f"evaluating the {split.name} split")
        with self.tracker.measure("evaluating"), self.experiment.evaluated_weights():
            evaluation = self.experiment.evaluate(split, self.should_stop, self.watchdog.beat)
        if evaluation is None:
            return None
        weights = MOVING_AVERAGE if self.experiment.evaluates_average else ""
        self._notify("on_evaluation", Evaluated(step, split, evaluation, time.time(), weights))
        metric = self.config.training.best_metric
        value = getattr(evaluation, metric)
        improved = is_better(metric, value, float(state.best_value.numpy()))
        state.evaluated_step.assign(step)
        if improved:
            state.best_value.assign(value)
            state.best_step.assign(step)
            state.evaluations_since_best.assign(0)
        else:
            state.evaluations_since_best.assign_add(1)
        return improved

    def _save_due(self, step: int) -> bool:
        every = self.plan.checkpoint_every
        if every.unit == "seconds":
            passed = time.monotonic() - self._saved_at >= every.amount
            return step > 0 and self.experiment.workers.first(passed) > 0
        return self.plan.is_boundary(every, step)

    def _save(self, step: int, best: bool = False, last: bool = False) -> bool:
        """Saves a checkpoint of `step`, after everything recorded up to it; returns whether one is due.

        Waits until the previous checkpoint is written, at most --save_timeout seconds.

        A state in the middle of a divergence is not saved: it would displace the good ones, and a run that is stopped
        there continues from one of them to the same end. The best and the last checkpoint are saved in any case.
        """
        if self.guard.suspicious and not (best or last):
            return False
        self.tracker.commit(step)
        self.skipped.record(step)
        with self.tracker.measure("saving"), self.watchdog.within(self.config.runtime.save_timeout):
            if self.recorder.sync():
                self.store.save(step, best=bool(best))
        self.watchdog.beat(f"the checkpoint of step {step}")
        return True

    def _early_stop(self) -> bool:
        """Tells whether the last --early_stopping_patience evaluations brought no improvement."""
        patience = self.config.training.early_stopping_patience
        return patience > 0 and int(self.state.evaluations_since_best.numpy()) >= patience

    def _last_save(self, step: int, first_step: float | None) -> RunResult:
        """Saves the last step and waits until it is on disk."""
        complete = int(self.state.evaluated_step.numpy()) == step
        status = "preempted"
        if complete and step >= self.plan.total_steps:
            status = "finished"
        elif complete and self._early_stop():
            status = "early_stopped"
        due = step > 0 and self._save(step, last=status != "preempted")
        with self.tracker.measure("saving"), self.watchdog.within(self.config.runtime.save_timeout):
            disk_full = not self.store.sync() or (due and self.store.last_step != step)
        self.watchdog.beat("the last checkpoint")
        return RunResult(status, step, first_step, self.store.last_step, disk_full)

    # Result: metrics of the final split, the end of the callbacks, result.json.

    def _finish(self, result: RunResult) -> tuple[RunResult, dict]:
        """Computes what result.json holds and writes it."""
        epoch = min(result.step, self.plan.steps_per_epoch)
        described = {**describe_result(self.experiment, result.status, result.step),
                     "train_loss": self.recorder.mean_loss(result.step - epoch + 1),
                     **self.recorder.speeds(self.plan.image_sizes)}
        figures = None if result.status == "preempted" else self._final_figures(result.step)
        if figures is None:
            result = dataclasses.replace(result, status="preempted")
        else:
            described.update(self._final_entries(result.step, figures))
        self.skipped.record(result.step)
        described.update(self.skipped.describe(result.step), status=result.status)
        self.tracker.commit(result.step)
        if result.disk_full:
            raise RunFailure(self.store.full_message)
        if result.status != "preempted" and not self._end(result, described):
            result = dataclasses.replace(result, status="preempted")
        self._close()
        self.tracker.commit(result.step)
        described.update(status=result.status, goodput=summarize(self.launches.path))
        write_json(self.directory.file("result.json"), described)
        self.launches.record("stop", result.step, status=result.status,
                           seconds_to_first_step=result.seconds_to_first_step)
        return result, described

    def _final_figures(self, step: int) -> dict | None:
        """Returns the metrics of the final split (Source.final) at the end, or None if stopped before."""
        split = self.experiment.source.final
        figures: dict | None = self.recorder.last_evaluation(step, split.name) or {}
        if self.experiment.workers.first(not figures):
            with self.tracker.measure("evaluating"), self.experiment.evaluated_weights():
                evaluation = self.experiment.evaluate(split, self.should_stop, self.watchdog.beat)
            figures = evaluation.figures if evaluation else None
        return figures

    def _final_entries(self, step: int, figures: dict) -> dict:
        """Returns the metrics of the splits for result.json: test_accuracy, test_loss, validation_accuracy, ...

        None for a split that the data set does not have, or that was not evaluated at the last step.
        """
        source = self.experiment.source
        found = {"test": None, "validation": None, source.final.name: figures}
        if source.test and source.validation:
            found["validation"] = self.recorder.last_evaluation(step, "validation")
        return {f"{split}_{name}": of and of.get(name) for split, of in found.items()
                for name in ("loss", "accuracy", "examples", *self.config.training.metrics)}

    def _end(self, result: RunResult, described: dict) -> bool:
        """Calls `on_end` of the callbacks; returns whether all have completed.

        The metrics are in result.json before, as those of a preempted run: if it is interrupted here, the same command
        does the rest.
        """
        write_json(self.directory.file("result.json"),
                   {**described, "status": "preempted", "goodput": summarize(self.launches.path)})
        self.progress.phase("writing for TensorBoard")
        # The chief of several workers does this without the others, so only its own signal counts.
        ending = Ending(result.step, described, self.stop_request, self.watchdog.beat)
        self._notify("on_end", ending)
        return ending.complete

    # Shared by all of the above.

    def _notify(self, event: str, argument: Any) -> None:
        """Calls one method of every callback in order; the time is recorded as "reporting"."""
        with self.tracker.measure("reporting"):
            for callback in self.callbacks:
                getattr(callback, event)(argument)

    def _saved(self, step: int) -> None:
        """Called by the store once a checkpoint is on the disk."""
        self.launches.record("saved", step)
        for callback in self.callbacks:
            callback.on_checkpoint(step)

    def _record_hang(self, record: dict) -> None:
        self.progress.close()  # The terminal gets its cursor back.
        self.launches.append([record])
        self.launches.sync()

    def _close(self) -> None:
        """Closes the callbacks, in reverse order."""
        closing, self.callbacks = self.callbacks, ()
        with contextlib.ExitStack() as stack:
            for callback in closing:
                stack.callback(callback.close)
