"""How a run ended, and what its config.json and result.json hold."""
import dataclasses
import os
import sys

import keras
import numpy as np
import tensorflow as tf

from pipeline import arithmetic, extension
from pipeline.config import AS_TRAINED, MOVING_AVERAGE
from pipeline.distributed.devices import cpu_features
from pipeline.distributed.input_distribution import uses_gpus
from pipeline.models.identity import weights_sha256
from pipeline.training.experiment import Experiment


@dataclasses.dataclass(frozen=True)
class RunResult:
    """How the loop of a run ended.

    Attributes:
      status: "finished", "early_stopped" or "preempted".
      step: global step reached.
      seconds_to_first_step: from the start of the loop to the end of the first step.
      saved_step: step of the newest checkpoint, None without any; before `step` where training is diverging.
      disk_full: whether the last checkpoint could not be written.
    """

    status: str
    step: int
    seconds_to_first_step: float | None
    saved_step: int | None
    disk_full: bool


def describe(experiment: Experiment) -> dict:
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


def describe_result(experiment: Experiment, status: str, step: int) -> dict:
    """Returns what result.json holds of the state at the end of a run; figures and times are added to it."""
    state, plan = experiment.state, experiment.plan
    described = {
        "status": status, "step": step, "examples_seen": step * plan.batch_size,
        "epochs": round(plan.epoch(step), 4), "skipped_steps": int(state.skipped_steps.numpy()),
        "rollbacks": int(state.rollbacks.numpy()),
        "learning_rate_factor": float(state.learning_rate_factor.numpy()),
        "weights_sha256": weights_sha256(state.model), "selected_on": experiment.watched.name,
        "evaluated_weights": MOVING_AVERAGE if experiment.evaluates_average else AS_TRAINED,
    }
    if state.ema:
        with state.moving_average():
            described["ema_weights_sha256"] = weights_sha256(state.model)
    if np.isfinite(state.best_value.numpy()):
        described["best"] = {"step": int(state.best_step.numpy()),
                             experiment.config.training.best_metric: float(state.best_value.numpy())}
    return described
