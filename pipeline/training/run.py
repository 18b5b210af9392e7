"""One run in its directory, from its claim to its result: the order in which its files are written."""
import os
import sys
import time

import keras
import tensorflow as tf

from pipeline.files import write_json
from pipeline.monitoring.metrics_log import JsonLines
from pipeline.monitoring.progress import create_progress
from pipeline.monitoring.recorder import Recorder
from pipeline.training import loop
from pipeline.training.checkpoint import CheckpointStore
from pipeline.training.preemption import StopRequest


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
      RunFailure: every checkpoint is damaged, or one could not be written.
      UsageError: the checkpoint is of another architecture.
    """
    config = experiment.config
    store = CheckpointStore(directory.file("checkpoints"), experiment.state, config.training.keep_checkpoints,
                            lambda text: print(text, file=sys.stderr))
    with StopRequest() as stop:
        step = loop.resume(experiment.state, store, experiment.plan.batch_size)
        if step:
            echo(f"resume  from the checkpoint of step {step}")
        launches = JsonLines(directory.file("launches.jsonl"))
        launches.append([{"event": "start", "step": step, "wall_time": time.time(), "process": os.getpid(),
                          "replicas": experiment.strategy.num_replicas_in_sync, "allowed": accepted}])
        launches.sync()  # What was accepted is on record before config.json forgets how it was.
        directory.write_config(describe(experiment))
        directory.forget_result()
        recorder = Recorder(directory, experiment.plan.batch_size,
                            create_progress(experiment.plan, config.runtime.verbosity))
        recorder.cut_after(step)
        try:
            result = loop.train(experiment, step, store, recorder, stop)
        finally:
            recorder.progress.close()
        described = loop.describe_result(experiment, recorder, result)
        write_json(directory.file("result.json"), described)
        launches.append([{"event": "stop", "step": result.step, "wall_time": time.time(), "status": result.status,
                          "seconds_to_first_step": result.seconds_to_first_step}])
        launches.sync()
        recorder.close()
    return result, described


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
                 "num_test": source.test.num_examples},
        "plan": {"total_steps": experiment.plan.total_steps, "steps_per_epoch": experiment.plan.steps_per_epoch},
        "normalization": normalization, "num_replicas": experiment.strategy.num_replicas_in_sync,
        "versions": {"tensorflow": tf.__version__, "keras": keras.__version__, "python": sys.version.split()[0]},
    }
