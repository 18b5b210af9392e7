"""What a run reports of itself: at its start, in config.json and in result.json."""
import dataclasses
import os
import secrets
import sys
from typing import TYPE_CHECKING, Any

import keras
import numpy as np
import tensorflow as tf

from pipeline import arithmetic, extension
from pipeline.config import AS_TRAINED, MOVING_AVERAGE, keeps_average
from pipeline.console import Console
from pipeline.data.splits import TRAINING
from pipeline.data.unused_options import warn_unused
from pipeline.distributed.input_distribution import uses_gpus
from pipeline.files import write_json
from pipeline.models.identity import weights_sha256
from pipeline.monitoring.goodput import lost_tail, process_age
from pipeline.processor import cpu_features
from pipeline.quantities import counted, plural
from pipeline.run_directory import LENGTH, RunDirectory
from pipeline.training.experiment import Experiment

if TYPE_CHECKING:
    from pipeline.training.trainer import Trainer

INCOMPARABLE = {"best_metric", "validation_split", "fold"}  # Options whose change makes the best so far meaningless.


@dataclasses.dataclass(frozen=True)
class RunResult:
    """The end of the loop of a run.

    Attributes:
      status: "finished", "early_stopped" or "preempted".
      step: global step reached.
      seconds_to_first_step: from the start of the loop to the end of the first step.
      saved_step: step of the latest checkpoint, None without any; before `step` if training is diverging.
      disk_full: whether the last checkpoint could not be written.
    """

    status: str
    step: int
    seconds_to_first_step: float | None
    saved_step: int | None
    disk_full: bool


def report_setup(experiment: Experiment, directory: RunDirectory, console: Console) -> None:
    """Reports data, model and length of the training that is about to start."""
    source, plan, config = experiment.source, experiment.plan, experiment.config
    shape = "x".join(map(str, source.image_shape))
    validation = "held out" if source.validation_from == TRAINING else "validation"
    splits = {"training": source.train, validation: source.validation, "test": source.test}
    sizes = ", ".join(f"{split.num_examples:,} {name}" for name, split in splits.items() if split)
    console.info(f"data    {source.name}: {shape}, {counted(source.num_classes, 'class', 'classes')}, {sizes} examples")
    if plan.image_sizes:
        each = [f"{size}x{size}" + f" after step {step}" * (step > 0) for step, size in plan.image_sizes]
        console.info(f"images  {', '.join(each)}; evaluations at {source.preprocessing.image_shape[0]}")
    for note in source.notes:
        console.info(f"        {note}")
    warn_unused(config.data, source, console)
    console.info(f"model   {config.model.model}: {counted(experiment.state.model.count_params(), 'parameter')}, "
                 f"{config.runtime.precision}, {counted(experiment.strategy.num_replicas_in_sync, 'replica')}")
    for number, line in enumerate(experiment.freezing.lines()):
        console.info(f"{'' if number else 'frozen':7} {line}")
    if experiment.config.model.freeze and not config.training.initialize_from:
        console.warning("what is frozen was never trained: give the weights to start from, --initialize_from=FILE")
    factors = [experiment.trained.factors[name] for name in experiment.freezing.since]
    if set(factors) != {1.0}:
        console.info(f"rates   weights train with x{min(factors):.3g} to x{max(factors):.3g} of the learning rate; "
                     "'mirrorline inspect' shows each")
    if keeps_average(config.optimizer):
        weights = MOVING_AVERAGE if experiment.evaluates_average else "weights as trained"
        console.info(f"average evaluations, the best checkpoint and the final metrics are of the {weights}"
                     + ("" if experiment.evaluates_average else ", as when this run was started"))
    console.info(f"run     {directory.path}: {counted(plan.total_steps, 'step')} of "
                 f"{counted(plan.batch_size, 'example')} ({plan.epochs_text} "
                 f"{plural(float(plan.epochs_text), 'epoch')})")


def record_start(trainer: "Trainer", step: int) -> None:
    """Reports what a run continues from, and records the start in launches.jsonl and config.json.

    Args:
      trainer: its checkpoint restored.
      step: of that checkpoint.
    """
    experiment, launches, directory, console = trainer.experiment, trainer.launches, trainer.directory, trainer.console
    # The checkpoint of a process that was killed before it saved does not know what --allow has accepted.
    changed = {name for name, *_ in trainer.accepted} | launches.allowed(step)
    if experiment.workers.first(bool(INCOMPARABLE & changed)):
        experiment.state.forget_best()
    if step:
        console.info(f"resume  from the checkpoint of step {step}")
    initialization = experiment.initialization if trainer.store.last_step is None else None
    for line in initialization.lines() if initialization else ():
        console.info(line)
    for name, old, new in trainer.accepted:
        rate = f"; the learning rate of step {step + 1} is {experiment.learning_rate(step):.4g}"
        console.info(f"--allow: {name} was {old}, is {new} from here on{rate if name in LENGTH else ''}")
    reached, seconds = lost_tail(launches.path, directory.file("metrics.jsonl"))
    if seconds:
        launches.record("lost", step, to_step=reached, seconds=round(seconds, 4))
    launches.record("start", step, process=os.getpid(), replicas=experiment.strategy.num_replicas_in_sync,
                  allowed=trainer.accepted, age=round(process_age(), 4),
                  **({"initialized_from": initialization.file, "sha256": initialization.sha256}
                     if initialization else {}))
    described = describe(experiment)
    before = (directory.config or {}).get("device") or {}
    for line in arithmetic.changes(before, described["device"]) if step else ():
        console.warning(f"note    {line}")
    write_config(directory, described)
    directory.forget_result()


def _evaluated_weights(experiment: Experiment) -> str:
    return MOVING_AVERAGE if experiment.evaluates_average else AS_TRAINED


def describe(experiment: Experiment) -> dict[str, Any]:
    """Returns the contents of config.json: everything needed to build this experiment again."""
    source, settings = experiment.source, experiment.settings
    replicas = experiment.strategy.num_replicas_in_sync
    normalization = None if settings.image_mean is None else {"mean": settings.image_mean,
                                                              "deviation": settings.image_std}
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
        "frozen": experiment.freezing.describe(),
        "evaluated_weights": _evaluated_weights(experiment),
        "preprocessing": dataclasses.replace(source.preprocessing, input_range=settings.input_range).stored(),
        "normalization": normalization,
        "compiled": settings.xla, "num_replicas": replicas, "num_workers": experiment.workers.count,
        "device": {"kind": "GPU" if uses_gpus(experiment.strategy) else "CPU", "count": replicas,
                   "cores": len(os.sched_getaffinity(0)), **arithmetic.describe(cpu_features())},
        "versions": {"tensorflow": tf.__version__, "keras": keras.__version__, "python": sys.version.split()[0]},
    }


def describe_result(experiment: Experiment, status: str, step: int) -> dict[str, Any]:
    """Returns the part of result.json that follows from the state at the end of a run; metrics and times are added."""
    state, plan = experiment.state, experiment.plan
    described = {
        "status": status, "step": step, "examples_seen": step * plan.batch_size,
        "epochs": round(plan.epoch(step), 4), "skipped_steps": int(state.skipped_steps.numpy()),
        "rollbacks": int(state.rollbacks.numpy()),
        "learning_rate_factor": float(state.learning_rate_factor.numpy()),
        "weights_sha256": weights_sha256(state.model), "selected_on": experiment.watched.name,
        "evaluated_weights": _evaluated_weights(experiment),
    }
    if state.ema:
        with state.moving_average():
            described["ema_weights_sha256"] = weights_sha256(state.model)
    if np.isfinite(state.best_value.numpy()):
        described["best"] = {"step": int(state.best_step.numpy()),
                             experiment.config.training.best_metric: float(state.best_value.numpy())}
    return described


def write_config(directory: RunDirectory, described: dict) -> None:
    """Writes config.json, with an identifier of the run that never changes; see stored_checkpoint.run_of."""
    run = (directory.config or {}).get("run") or secrets.token_hex(8)
    write_json(directory.file("config.json"), {**described, "run": run})
