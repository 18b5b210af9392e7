"""The training loop: while steps remain and nobody asks to stop, evaluate if due, save if due, run a window, report."""
import dataclasses
import math
import time

import tensorflow as tf

from pipeline.errors import RunFailure
from pipeline.evaluation.metrics import is_better
from pipeline.monitoring.goodput import Ledger
from pipeline.monitoring.recorder import Recorder
from pipeline.training.cadence import Pace
from pipeline.training.checkpoint import CheckpointStore
from pipeline.training.divergence import DivergenceGuard
from pipeline.training.step import TRAIN_COLUMNS
from pipeline.training.watchdog import Watchdog

WAIT = TRAIN_COLUMNS.index("input_wait")


@dataclasses.dataclass(frozen=True)
class RunResult:
    """How a run ended.

    Attributes:
      status: "finished", "early_stopped" or "preempted".
      step: global step reached.
      seconds_to_first_step: from the start of the loop to the end of the first step.
      saved_step: step of the newest checkpoint, None without any; before `step` where training is diverging.
      disk_full: whether the last checkpoint could not be written.
    """

    status: str
    step: int
    seconds_to_first_step: float
    saved_step: int | None
    disk_full: bool


@dataclasses.dataclass
class Attendants:
    """Who attends a run: what is written, watched and counted beside the steps.

    Attributes:
      store: CheckpointStore.
      recorder: Recorder.
      ledger: Ledger of where the time goes.
      guard: DivergenceGuard.
      watchdog: Watchdog.
      profile: Profile or NoProfile.
      board: Board or NoBoard.
      should_stop: predicate, looked at between windows and between the parts of an evaluation.
      started: called once the first steps are done; what comes before is interrupted at once.
      roll_back: function of a Divergence and the step reached, called when training has diverged: brings the state back
        and returns its step, or raises RunFailure.
    """

    store: CheckpointStore
    recorder: Recorder
    ledger: Ledger
    guard: DivergenceGuard
    watchdog: Watchdog
    profile: object
    board: object
    should_stop: object
    roll_back: object
    started: object


def train(experiment, step, attendants):
    """Trains from a step to the end of the plan, or until asked to stop.

    Args:
      experiment: Experiment, its state restored to `step`.
      step: steps done before, see `resume`.
      attendants: Attendants.

    Returns:
      A RunResult.

    Raises:
      RunFailure: training diverged, or a checkpoint could not be written.
    """
    plan, at, config, began = experiment.plan, attendants, experiment.config, time.monotonic()
    # A call as long as the watchdog's patience would look like a hang.
    pace = Pace(config.training.steps_per_loop, config.runtime.hang_timeout / 4 or math.inf)
    saved_at, first_step = time.monotonic(), None
    iterator = experiment.train_iterator(step) if step < plan.total_steps else None
    at.recorder.progress.start(step)
    with at.ledger.account("reporting"):
        at.board.begin(step)
    while not at.should_stop():
        improved = evaluation_due(experiment, step) and evaluate(experiment, step, at)
        if improved is None:
            break  # Asked to stop in the middle; a resume evaluates first.
        if save_due(experiment, step, saved_at) or improved or step >= plan.total_steps:
            save(step, at, config.runtime.save_timeout, best=improved, last=step >= plan.total_steps)
            saved_at = time.monotonic()
        if step >= plan.total_steps or early_stop(experiment):
            break
        count = int(experiment.workers.first(pace.next(plan.steps_to_boundary(step))))
        with at.profile.window(step, compiles=not pace.calls):
            started, before = time.time(), time.monotonic()
            rows = experiment.steps.train_steps(iterator, tf.constant(count)).numpy()
            seconds = time.monotonic() - before
        at.started()
        pace.finished(count, seconds)
        first_step = first_step or time.monotonic() - began
        step += count
        at.watchdog.beat(f"step {step}")
        at.ledger.window(count, seconds, rows[:, WAIT].sum())
        with at.ledger.account("reporting"):
            at.recorder.window(step, TRAIN_COLUMNS, rows, started, seconds, experiment.settings.scale_loss,
                               steady=pace.calls > 1 and not at.profile.active)
        at.profile.reached(step, rows[:, WAIT].sum())
        with at.ledger.account("reporting"):
            at.board.window(step)
        if pace.calls == 1:
            at.recorder.vitals.count(experiment.steps.train_steps, iterator, tf.constant(count))
        if pace.calls == len(pace.FIRST):
            at.ledger.commit(step)  # From here on a kill leaves on record what the start has cost.
        diverged = at.guard.look(step, TRAIN_COLUMNS, rows)
        if diverged:
            at.profile.pause()
            step = at.roll_back(diverged, step)
            iterator = experiment.train_iterator(step)
    return finish(experiment, step, first_step, at)


def finish(experiment, step, first_step, at):
    """Saves the last step and waits for the disk; returns the RunResult."""
    complete = int(experiment.state.evaluated_step.numpy()) == step
    status = "preempted"
    if complete and step >= experiment.plan.total_steps:
        status = "finished"
    elif complete and early_stop(experiment):
        status = "early_stopped"
    wanted = step > 0 and save(step, at, experiment.config.runtime.save_timeout, last=status != "preempted")
    with at.ledger.account("saving"), at.watchdog.within(experiment.config.runtime.save_timeout):
        disk_full = not at.store.sync() or (wanted and at.store.last_step != step)
    at.watchdog.beat("the last checkpoint")
    return RunResult(status, step, first_step, at.store.last_step, disk_full)


def save(step, at, save_timeout, best=False, last=False):
    """Saves a checkpoint of `step`, after everything recorded up to it; returns whether it is wanted.

    It waits for the checkpoint before this one to be written, at most `save_timeout` seconds.

    A state in the middle of a divergence is not: it would push the good ones out, and a run that is stopped there goes
    on from one of them to the same end. The best one and that of a run's end are wanted all the same.
    """
    if at.guard.suspicious and not (best or last):
        return False
    at.ledger.commit(step)
    with at.ledger.account("saving"), at.watchdog.within(save_timeout):
        if at.recorder.sync():
            at.store.save(step, best=bool(best))
    at.watchdog.beat(f"the checkpoint of step {step}")
    return True


def resume(experiment, store, known):
    """Restores the newest good checkpoint; returns its step, 0 for a fresh start.

    Args:
      experiment: Experiment, its state fresh.
      store: CheckpointStore.
      known: a step of which there was a checkpoint once, or None.

    Raises:
      RunFailure: there is no good checkpoint any more, or its position in the stream is not that of its step.
    """
    state, batch_size = experiment.state, experiment.plan.batch_size
    step = store.restore(known)
    state.fit_precision(experiment.settings.scale_loss)
    position = int(state.position.numpy())
    if position != step * batch_size:
        raise RunFailure(f"the checkpoint of step {step} stands at example {position} of the stream, not at "
                         f"{step * batch_size}: it was made with another --batch_size")
    best = int(state.best_step.numpy())
    if best > 0 and not store.has_best(best):
        store.keep_best(best)  # Killed between saving this checkpoint and keeping it.
    return step


def save_due(experiment, step, saved_at):
    """Tells whether a checkpoint is due at a step; saved_at in seconds of time.monotonic()."""
    plan = experiment.plan
    if plan.checkpoint_every.unit == "seconds":
        passed = time.monotonic() - saved_at >= plan.checkpoint_every.amount
        return step > 0 and experiment.workers.first(passed) > 0
    return plan.is_boundary(plan.checkpoint_every, step)


def early_stop(experiment):
    """Tells whether the evaluations have not become better for as long as the user has patience."""
    patience = experiment.config.training.early_stopping_patience
    return patience > 0 and int(experiment.state.evaluations_since_best.numpy()) >= patience


def evaluation_due(experiment, step):
    """Tells whether a step wants an evaluation that it has not had."""
    plan = experiment.plan
    due = step > 0 and (step >= plan.total_steps or plan.is_boundary(plan.evaluate_every, step))
    return due and int(experiment.state.evaluated_step.numpy()) != step


def evaluate(experiment, step, at):
    """Evaluates the watched split, records it, and keeps count of the best.

    Returns:
      Whether it is the best so far, or None where it was stopped.
    """
    state, split = experiment.state, experiment.watched
    at.profile.pause()
    at.recorder.progress.phase(f"evaluating the {split.name} split")
    with at.ledger.account("evaluating"), experiment.evaluated_weights():
        judged = experiment.evaluate(split, at.should_stop, at.watchdog.beat)
    if judged is None:
        return None
    with at.ledger.account("reporting"):
        now = time.time()
        at.recorder.evaluation(step, split.name, judged, now, experiment.evaluates_average)
        at.board.evaluation(step, split, judged, now)
    metric = experiment.config.training.best_metric
    value = getattr(judged, metric)
    improved = is_better(metric, value, float(state.best_value.numpy()))
    state.evaluated_step.assign(step)
    if improved:
        state.best_value.assign(value)
        state.best_step.assign(step)
        state.evaluations_since_best.assign(0)
    else:
        state.evaluations_since_best.assign_add(1)
    return improved
