"""The training loop: restore; while steps remain and nobody asks to stop, run a window, report, evaluate, save."""
import dataclasses
import time

import numpy as np
import tensorflow as tf

from pipeline.errors import RunFailure
from pipeline.evaluation.metrics import is_better
from pipeline.training.state import weights_sha256
from pipeline.training.step import TRAIN_COLUMNS

WINDOW_SECONDS = 1.0  # Short enough to stop soon when asked to, long enough that the host's part is small.
FIRST_WINDOWS = (1, 4)  # The first step is traced and compiled; the second window measures the speed.


@dataclasses.dataclass(frozen=True)
class RunResult:
    """How a run ended.

    Attributes:
      status: "finished", "early_stopped" or "preempted".
      step: global step reached.
      seconds_to_first_step: from the start of the loop to the end of the first step.
    """

    status: str
    step: int
    seconds_to_first_step: float


class Windows:
    """How many steps the next host call runs: about a second's worth, never over a boundary."""

    def __init__(self, experiment):
        self.plan, self.fixed = experiment.plan, experiment.config.training.steps_per_loop
        self._rate, self._run = None, 0

    def next(self, step):
        """Returns the number of steps of the next window that starts after `step`."""
        if self.fixed:
            wanted = self.fixed
        elif self._run < len(FIRST_WINDOWS):
            wanted = FIRST_WINDOWS[self._run]
        else:
            wanted = max(1, int(self._rate * WINDOW_SECONDS))
        ends = [self.plan.total_steps] + [self.plan.next_boundary(interval, step) for interval in
                                          (self.plan.evaluate_every, self.plan.checkpoint_every)
                                          if interval.unit != "seconds"]
        return max(1, min(wanted, min(ends) - step))

    def finished(self, count, seconds):
        """Takes note of a window of `count` steps in `seconds`; returns whether its speed is that of training."""
        self._run += 1
        self._rate = count / max(seconds, 1e-9)
        return self._run > 1


def train(experiment, step, store, recorder, should_stop):
    """Trains from a step to the end of the plan, or until asked to stop.

    Args:
      experiment: Experiment, its state restored to `step`.
      step: steps done before, see `resume`.
      store: CheckpointStore of the run.
      recorder: Recorder of the run.
      should_stop: predicate, looked at between windows.

    Returns:
      A RunResult. The checkpoint of its step, if any was done, is on disk.
    """
    plan, progress, began = experiment.plan, recorder.progress, time.monotonic()
    windows, saved_at, first_step = Windows(experiment), time.monotonic(), None
    iterator = experiment.train_iterator(step) if step < plan.total_steps else None
    progress.start(step)
    while step < plan.total_steps and not should_stop() and not early_stop(experiment):
        count, started, before = windows.next(step), time.time(), time.monotonic()
        rows = experiment.steps.train_steps(iterator, tf.constant(count)).numpy()
        seconds = time.monotonic() - before
        steady = windows.finished(count, seconds)
        first_step = first_step or time.monotonic() - began
        step += count
        recorder.window(step, TRAIN_COLUMNS, rows, started, seconds, experiment.settings.scale_loss,
                        steady)

        improved = False
        if step == plan.total_steps or plan.is_boundary(plan.evaluate_every, step):
            improved = evaluate(experiment, recorder, step)
        if improved or step == plan.total_steps or save_due(plan, step, saved_at):
            recorder.sync()
            store.save(step)
            saved_at = time.monotonic()
        if improved:
            store.keep_best(step)
    recorder.sync()
    if step:
        store.save(step)
        store.sync()
    status = "finished" if step >= plan.total_steps else (
        "early_stopped" if early_stop(experiment) else "preempted")
    return RunResult(status, step, first_step)


def resume(state, store, batch_size):
    """Restores the newest good checkpoint; returns its step, 0 for a fresh start.

    Raises:
      RunFailure: the checkpoint's position in the stream is not that of its step.
    """
    step = store.restore()
    position = int(state.position.numpy())
    if position != step * batch_size:
        raise RunFailure(f"the checkpoint of step {step} stands at example {position} of the stream, not at "
                         f"{step * batch_size}: it was made with another --batch_size")
    if step and int(state.best_step.numpy()) == step and not store.has_best(step):
        store.keep_best(step)  # Killed between saving this checkpoint and keeping it.
    return step


def save_due(plan, step, saved_at):
    """Tells whether a checkpoint is due at a step; saved_at in seconds of time.monotonic()."""
    if plan.checkpoint_every.unit == "seconds":
        return time.monotonic() - saved_at >= plan.checkpoint_every.amount
    return plan.is_boundary(plan.checkpoint_every, step)


def early_stop(experiment):
    """Tells whether the evaluations have not become better for as long as the user has patience."""
    patience = experiment.config.training.early_stopping_patience
    return patience > 0 and int(experiment.state.evaluations_since_best.numpy()) >= patience


def evaluate(experiment, recorder, step):
    """Evaluates the watched split, records it, and keeps count of the best; returns whether it is the best so far."""
    state, split = experiment.state, experiment.watched
    figures = experiment.evaluate(split)
    recorder.evaluation(step, split.name, figures, time.time())
    metric = experiment.config.training.best_metric
    improved = is_better(metric, figures[metric], float(state.best_value.numpy()))
    if improved:
        state.best_value.assign(figures[metric])
        state.best_step.assign(step)
        state.evaluations_since_best.assign(0)
    else:
        state.evaluations_since_best.assign_add(1)
    return improved


def describe_result(experiment, recorder, result):
    """Collects what result.json holds at the end of a run.

    Args:
      experiment: Experiment in its final state.
      recorder: Recorder of the run.
      result: RunResult.

    Returns:
      A dict, see the design of a run's directory; figures that a preempted run does not have are left out.
    """
    state, plan, step = experiment.state, experiment.plan, result.step
    described = {
        "status": result.status, "step": step, "examples_seen": step * plan.batch_size,
        "epochs": round(plan.epoch(step), 4), "skipped_steps": int(state.skipped_steps.numpy()),
        "train_loss": recorder.mean_loss(step - min(step, plan.steps_per_epoch) + 1),
        "examples_per_second": recorder.examples_per_second(), "weights_sha256": weights_sha256(state.model),
        "selected_on": experiment.watched.name,
    }
    if np.isfinite(state.best_value.numpy()):
        described["best"] = {"step": int(state.best_step.numpy()), experiment.config.training.best_metric:
                             float(state.best_value.numpy())}
    if result.status != "preempted":
        test = experiment.source.test
        figures = recorder.last_evaluation(step, test.name) or experiment.evaluate(test)
        described.update(test_loss=figures["loss"], test_accuracy=figures["accuracy"],
                         test_examples=figures["examples"])
    return described
