"""One run in its directory, from its claim to its result: the order in which its files are written."""
import contextlib
import dataclasses
import os
import sys

import keras
import numpy as np
import tensorflow as tf

from pipeline import arithmetic, extension, interruption
from pipeline.activity import activity
from pipeline.config import AS_TRAINED, MOVING_AVERAGE
from pipeline.errors import RunFailure
from pipeline.files import write_json
from pipeline.models.identity import weights_sha256
from pipeline.monitoring.alerts import Alerts, Circumstances
from pipeline.monitoring.board import create_board
from pipeline.monitoring.goodput import Ledger, lost_tail, process_age, summarize
from pipeline.monitoring.launches import Launches
from pipeline.monitoring.profile import create_profile
from pipeline.monitoring.progress import create_progress
from pipeline.monitoring.recorder import Recorder
from pipeline.monitoring.vitals import create_vitals
from pipeline.runtime import cpu_features
from pipeline.terminal import say
from pipeline.training import loop
from pipeline.training.divergence import DivergenceGuard
from pipeline.training.feeding import uses_gpus
from pipeline.training.following import create_store
from pipeline.training.preemption import StopRequest, in_main_thread
from pipeline.training.rollback import Rollback
from pipeline.training.run_directory import LENGTH
from pipeline.training.self_test import reduction_name
from pipeline.training.watchdog import Watchdog

INCOMPARABLE = {"best_metric", "validation_split"}  # Settings with which the best so far means nothing any more.


def run(experiment, directory, accepted=(), echo=print):
    """Trains in a directory that is claimed, and writes how it ended.

    Args:
      experiment: Experiment, freshly built.
      directory: RunDirectory, claimed.
      accepted: [(name, old, new)] settings that differ from those of the run so far.
      echo: where lines for the user go.

    Returns:
      (RunResult, what result.json holds).

    Raises:
      RunFailure: training diverged, every checkpoint is damaged, or the last one could not be written.
      UsageError: the checkpoint is of another architecture.
    """
    launches = Launches(directory.file("launches.jsonl"))
    progress = create_progress(experiment.plan, experiment.config.runtime.verbosity)
    if not in_main_thread():
        echo("signals do not save this run, which is not in the main thread of Python: checkpoints do")
    with StopRequest() as stop, guarded(experiment, directory, launches, progress) as watchdog:
        store = create_store(experiment.workers, directory.file("checkpoints"), experiment.state,
                             experiment.config.training.keep_checkpoints, warn,
                             saved=lambda step: (launches.note("saved", step), progress.saved(step)))
        step = begin(experiment, directory, store, launches, accepted, echo)
        with starting(experiment, step, progress, stop) as first:
            attendants = attend(experiment, directory, step, store, launches, progress, watchdog, stop, first.close)
            try:
                result = loop.train(experiment, step, attendants)
                result, described = describe_result(experiment, result, attendants)
                attendants.ledger.commit(result.step)
                if result.disk_full:
                    raise RunFailure(store.full_message)
                if result.status != "preempted":
                    result = show_end(directory, result, described, attendants, launches.path, stop)
            finally:
                progress.close()
                attendants.profile.close()
        attendants.ledger.commit(result.step)
        described.update(status=result.status, goodput=summarize(launches.path))
        write_json(directory.file("result.json"), described)
        launches.note("stop", result.step, status=result.status, seconds_to_first_step=result.seconds_to_first_step)
        attendants.recorder.close()
    return result, described


def show_end(directory, result, described, attendants, launches_path, asked_to_stop):
    """Writes what TensorBoard shows of a run's end, up to ten thousand forward passes.

    The figures are in result.json before, as of a run that was preempted: whatever comes in between, the same command
    does the rest.

    Args:
      directory: RunDirectory, claimed.
      result: RunResult.
      described: what result.json is going to hold, without the goodput.
      attendants: Attendants.
      launches_path: launches.jsonl.
      asked_to_stop: predicate of this process alone: of several workers the chief does this without the others.

    Returns:
      The RunResult, preempted where a stop came first.
    """
    at = attendants
    write_json(directory.file("result.json"), {**described, "status": "preempted", "goodput": summarize(launches_path)})
    at.recorder.progress.phase("writing for TensorBoard")
    with at.ledger.account("reporting"):
        done = at.board.finish(result.step, described, asked_to_stop, at.watchdog.beat)
    return result if done else dataclasses.replace(result, status="preempted")


def warn(text):
    """Prints a line that is worth reading even where --verbosity=quiet silences the rest."""
    say(text, sys.stderr)


def guarded(experiment, directory, launches, progress):
    """Returns the Watchdog of a run."""
    def record_hang(record):
        progress.close()  # The terminal gets its cursor back.
        launches.append([record])
        launches.sync()

    return Watchdog(experiment.config.runtime.hang_timeout, directory.file("hang.txt"),
                    lambda: reduction_name(experiment.strategy), record_hang)


def begin(experiment, directory, store, launches, accepted, echo):
    """Restores what is there, puts the start on record, and returns the step to go on from."""
    step = loop.resume(experiment, store, launches.newest_saved())
    # A process that was killed before it saved leaves a checkpoint that does not know what it was allowed.
    if experiment.workers.first(bool(INCOMPARABLE & ({name for name, *_ in accepted} | launches.allowed(step)))):
        experiment.state.forget_best()
    if step:
        echo(f"resume  from the checkpoint of step {step}")
    taken = experiment.initialization if store.last_step is None else None
    for line in taken.lines() if taken else ():
        echo(line)
    for name, old, new in accepted:
        more = f"; the learning rate of step {step + 1} is {learning_rate(experiment, step):.4g}"
        echo(f"--allow: {name} was {old}, is {new} from here on{more if name in LENGTH else ''}")
    reached, seconds = lost_tail(launches.path, directory.file("metrics.jsonl"))
    if seconds:
        launches.note("lost", step, to_step=reached, seconds=round(seconds, 4))
    # What was accepted is on record before config.json forgets how it was.
    launches.note("start", step, process=os.getpid(), replicas=experiment.strategy.num_replicas_in_sync,
                  allowed=accepted, age=round(process_age(), 4),
                  **({"initialized_from": taken.file, "sha256": taken.sha256} if taken else {}))
    described = describe(experiment)
    for line in arithmetic.changes((directory.config or {}).get("device") or {}, described["device"]) if step else ():
        warn(f"note    {line}")
    directory.write_config(described)
    directory.forget_result()
    return step


def attend(experiment, directory, step, store, launches, progress, watchdog, stop, started):
    """Brings together who attends the run from a step on; returns Attendants."""
    training, state = experiment.config.training, experiment.state
    ledger, guard = Ledger(launches, process_age()), DivergenceGuard(training, state)
    recorder = Recorder(directory, experiment.plan.batch_size, progress, store.disk,
                        create_vitals(experiment, ledger, launches.path), Alerts(Circumstances.of(experiment)),
                        experiment.source.class_names)
    recorder.cut_after(step, int(state.evaluated_step.numpy()))
    if step == 0 and training.on_divergence == "rollback":
        store.save(0)  # Something to go back to from the first steps.
    profile = create_profile(experiment.plan, step, directory, ledger, progress.note, warn, watchdog.beat)
    board = create_board(experiment, directory, recorder)
    return loop.Attendants(store, recorder, ledger, guard, watchdog, profile, board,
                           lambda: experiment.workers.any(stop()),
                           Rollback(experiment, store, recorder, ledger, guard, launches, warn),
                           started)


def starting(experiment, step, progress, stop):
    """Says what is done up to the end of the first steps, which are compiled; a signal ends a command there at once.

    Args:
      experiment: Experiment.
      step: that training goes on from.
      progress: the display.
      stop: StopRequest.

    Returns:
      contextlib.ExitStack, to be closed when they are done.
    """
    def end():
        progress.close()
        warn(f"{interruption.command()}: interrupted while compiling the step; no step was trained, the same command "
             f"{f'goes on from step {step}' if step else 'begins again'}")

    stack = contextlib.ExitStack()
    stack.enter_context(activity("compiling the step", progress.aside))
    # A user's own Python is not ended, nor one of several workers: there what was begun comes to its end first.
    if interruption.command() and experiment.workers.count == 1:
        stack.enter_context(stop.at_once(end))
    return stack


def learning_rate(experiment, step):
    """Returns the learning rate that the step after `step` steps will have."""
    factor = float(experiment.state.learning_rate_factor.numpy())
    return float(experiment.steps.schedule(tf.constant(step, tf.int64))) * factor


def describe(experiment):
    """Returns what config.json holds: everything needed to build this experiment again."""
    source, settings = experiment.source, experiment.settings
    normalization = None if settings.image_mean is None else {"mean": settings.image_mean,
                                                              "deviation": settings.image_deviation}
    return {
        "config": experiment.config.flat(),
        "data": {"name": source.name, "fingerprint": source.fingerprint, "class_names": source.class_names,
                 "image_shape": source.image_shape, "num_train": source.train.num_examples,
                 "num_validation": source.validation.num_examples if source.validation else 0,
                 "num_test": source.test.num_examples if source.test else 0,
                 "validation_from": source.validation_from},
        "extensions": extension.records(),
        "plan": {"total_steps": experiment.plan.total_steps, "steps_per_epoch": experiment.plan.steps_per_epoch},
        "initialization": experiment.initialization and dataclasses.asdict(experiment.initialization),
        "frozen": experiment.frozen.describe(),
        "evaluated_weights": MOVING_AVERAGE if experiment.evaluates_average else AS_TRAINED,
        "normalization": normalization, "num_replicas": experiment.strategy.num_replicas_in_sync,
        "num_workers": experiment.workers.count,
        "device": {"kind": "GPU" if uses_gpus(experiment.strategy) else "CPU",
                   "count": experiment.strategy.num_replicas_in_sync, "cores": len(os.sched_getaffinity(0)),
                   **arithmetic.describe(cpu_features())},
        "versions": {"tensorflow": tf.__version__, "keras": keras.__version__, "python": sys.version.split()[0]},
    }


def describe_result(experiment, result, attendants):
    """Collects what result.json holds at the end of a run.

    Args:
      experiment: Experiment in its final state.
      result: RunResult.
      attendants: Attendants.

    Returns:
      (the RunResult, preempted where the final split was not evaluated to the end, and a dict, see the design of a
      run's directory); figures that a preempted run does not have are left out.
    """
    state, plan, step, recorder = experiment.state, experiment.plan, result.step, attendants.recorder
    described = {
        "status": result.status, "step": step, "examples_seen": step * plan.batch_size,
        "epochs": round(plan.epoch(step), 4), "skipped_steps": int(state.skipped_steps.numpy()),
        "rollbacks": int(state.rollbacks.numpy()),
        "learning_rate_factor": float(state.learning_rate_factor.numpy()),
        "train_loss": recorder.mean_loss(step - min(step, plan.steps_per_epoch) + 1),
        "examples_per_second": recorder.examples_per_second(), "weights_sha256": weights_sha256(state.model),
        "selected_on": experiment.watched.name,
        "evaluated_weights": MOVING_AVERAGE if experiment.evaluates_average else AS_TRAINED,
    }
    if state.ema:
        with state.moving_average():
            described["ema_weights_sha256"] = weights_sha256(state.model)
    if np.isfinite(state.best_value.numpy()):
        described["best"] = {"step": int(state.best_step.numpy()), experiment.config.training.best_metric:
                             float(state.best_value.numpy())}
    figures = None
    if result.status != "preempted":
        figures = final_figures(experiment, step, attendants)
        if figures is None:
            result = dataclasses.replace(result, status="preempted")
            described["status"] = result.status
    if figures:
        described.update(final_entries(experiment, step, figures, recorder))
    return result, described


def final_entries(experiment, step, figures, recorder):
    """Returns what result.json holds of the splits at the end: test_accuracy, test_loss, test_examples, validation_...

    Those of a split that the data set does not have, or that was not evaluated at the last step, are None.

    Args:
      experiment: Experiment.
      step: the last step.
      figures: see `final_figures`.
      recorder: Recorder.
    """
    found = {"test": None, "validation": None, experiment.source.final.name: figures}
    if experiment.source.test and experiment.source.validation:
        found["validation"] = recorder.last_evaluation(step, "validation")
    return {f"{split}_{name}": of and of[name] for split, of in found.items()
            for name in ("loss", "accuracy", "examples")}


def final_figures(experiment, step, attendants):
    """Returns the figures of the final split (Source.final) at the end of a run, or None where a stop came first."""
    split = experiment.source.final
    figures = attendants.recorder.last_evaluation(step, split.name) or {}
    if experiment.workers.first(not figures):
        with attendants.ledger.account("evaluating"), experiment.evaluated_weights():
            judged = experiment.evaluate(split, attendants.should_stop, attendants.watchdog.beat)
        figures = judged and judged.figures
    return figures
