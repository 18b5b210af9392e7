"""mirrorline train: trains a model, evaluating along the way, and continues what is in the run's directory."""
import os
import sys
import time

from pipeline.config import ExperimentConfig
from pipeline.training import run_directory
from pipeline.training.cadence import plan

SUMMARY = "train a model; run the same command again to continue where it stopped"
GROUPS = ("data", "model", "optimizer", "training", "runtime")
EXIT_PREEMPTED = 75
HELD_OUT = 0.1  # Of the training split, where early stopping has nothing else to look at.


def define(flag_values):
    """train has no flags beyond the configuration's."""


def resolve(config):
    """Fills in what options decide for each other: the directory, and what early stopping looks at."""
    values = {"workdir": config.runtime.workdir or run_directory.default_path(config)}
    if config.training.early_stopping_patience and not config.data.validation_split:
        values["validation_split"] = HELD_OUT
    return config.replace(**values)


def finished(directory, config):
    """Returns the result of a run that has nothing left to do under this configuration, or None."""
    stored, result = directory.config, directory.result
    if not stored or not result or result["status"] == "preempted":
        return None
    length = plan(config, stored["data"]["num_train"]).total_steps
    if result["status"] == "early_stopped" and length == stored["plan"]["total_steps"]:
        return result
    return result if result["step"] >= length else None


def run(config: ExperimentConfig, flag_values):
    """Runs the command; returns the exit code."""
    config = resolve(config)
    quiet = config.runtime.verbosity == "quiet"

    def echo(text):
        if not quiet:
            print(text, flush=True)

    directory = run_directory.RunDirectory(config.runtime.workdir)
    directory.check(config)
    done = finished(directory, config)
    if done:
        echo(f"{directory.path} is finished: step {done['step']}, test accuracy {done['test_accuracy']:.2%}; "
             "train longer with more --epochs, or start another run with another --workdir")
        return 0

    from launch import runtime
    strategy = runtime.start(config.runtime, config.training, config.optimizer, echo)
    from pipeline import experiment as experiments
    from pipeline.data.load import load
    source = load(config.data, config.training.batch_size, config.training.seed, echo)
    accepted = directory.check(config, source.fingerprint)
    stored = directory.config
    experiment = experiments.build(config, source, strategy, stored)
    experiment.check_batches()
    directory.claim()
    introduce(experiment, directory, echo)
    for name, old, new in accepted:
        echo(f"--allow: {name} was {old}, is {new} from here on")
    return run_claimed(experiment, directory, accepted, echo)


def introduce(experiment, directory, echo):
    """Says what is going to be trained on what, and where it is written."""
    source, model = experiment.source, experiment.state.model
    replicas = experiment.strategy.num_replicas_in_sync
    shape = "x".join(map(str, source.image_shape))
    held = f", {source.validation.num_examples:,} held out" if source.validation else ""
    echo(f"data    {source.name}: {shape}, {source.num_classes} classes, {source.train.num_examples:,} training"
         f"{held}, {source.test.num_examples:,} test examples")
    for note in source.notes:
        echo(f"        {note}")
    echo(f"model   {experiment.config.model.model}: {model.count_params():,} parameters, "
         f"{experiment.config.runtime.precision}, {replicas} replica{'s' * (replicas > 1)}")
    echo(f"run     {directory.path}: {experiment.plan.total_steps:,} steps of {experiment.plan.batch_size} examples "
         f"({round(experiment.plan.epochs, 2):g} epochs)")


def run_claimed(experiment, directory, accepted, echo):
    """Trains in a directory that is ours, and writes how it ended."""
    from pipeline.monitoring.metrics_log import JsonLines
    from pipeline.monitoring.progress import create_progress
    from pipeline.monitoring.recorder import Recorder, tensorboard_command
    from pipeline.training import loop
    from pipeline.training.checkpoint import CheckpointStore
    from pipeline.training.files import write_json
    from pipeline.training.preemption import StopRequest
    progress = create_progress(experiment.plan, experiment.config.runtime.verbosity)
    store = CheckpointStore(directory.file("checkpoints"), experiment.state,
                            experiment.config.training.keep_checkpoints, lambda text: print(text, file=sys.stderr))
    with StopRequest() as stop:
        step = loop.resume(experiment.state, store)
        directory.write_config(describe(experiment))
        launches = JsonLines(directory.file("launches.jsonl"))
        recorder = Recorder(directory, experiment.plan.batch_size, progress)
        recorder.cut_after(step)
        if step:
            echo(f"resume  from the checkpoint of step {step}")
        launches.append([{"event": "start", "step": step, "wall_time": time.time(), "process": os.getpid(),
                          "replicas": experiment.strategy.num_replicas_in_sync, "allowed": accepted}])
        result = loop.train(experiment, step, store, recorder, stop)
        described = loop.describe_result(experiment, recorder, result)
        write_json(directory.file("result.json"), described)
        launches.append([{"event": "stop", "step": result.step, "wall_time": time.time(), "status": result.status,
                          "seconds_to_first_step": result.seconds_to_first_step}])
        launches.sync()
        recorder.close()
    if result.status == "preempted":
        print(f"stopped at step {result.step} of {experiment.plan.total_steps} and saved; run the same command again "
              "to continue", file=sys.stderr)
        return EXIT_PREEMPTED
    echo(f"{result.status.replace('_', ' ')}: test accuracy {described['test_accuracy']:.2%}, loss "
         f"{described['test_loss']:.4f} after {result.step} steps"
         + (f", {described['examples_per_second']:,.0f} examples/s" if described["examples_per_second"] else ""))
    echo(f"look    {tensorboard_command(directory)}")
    echo(f"        {directory.file('result.json')}")
    return 0


def describe(experiment):
    """Returns what config.json holds: everything needed to build this experiment again."""
    import keras
    import tensorflow as tf
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
        "normalization": normalization,
        "versions": {"tensorflow": tf.__version__, "keras": keras.__version__, "python": sys.version.split()[0]},
    }
