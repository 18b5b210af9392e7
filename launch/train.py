"""mirrorline train: trains a model, evaluating along the way, and continues what is in the run's directory."""
import sys

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
    if result["status"] == "early_stopped":
        patience = config.training.early_stopping_patience
        return result if patience == stored["config"]["early_stopping_patience"] else None
    return result if result["step"] >= plan(config, stored["data"]["num_train"]).total_steps else None


def say_finished(directory, result, echo):
    """Says that nothing is left to do, and what would be more; returns the exit code."""
    more = "train longer with more --epochs" if result["status"] == "finished" else (
        "it stopped early; go on with more --early_stopping_patience and --allow=early_stopping_patience")
    accuracy = "unknown" if result["test_accuracy"] is None else f"{result['test_accuracy']:.2%}"
    echo(f"{directory.path} is finished: step {result['step']}, test accuracy {accuracy}; {more}, or start another run "
         "with another --workdir")
    return 0


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
        return say_finished(directory, done, echo)

    from launch import runtime
    strategy = runtime.start(config.runtime, config.training, config.optimizer, echo)
    from pipeline import experiment as experiments
    from pipeline.data.load import load
    source = load(config.data, config.training.batch_size, config.training.seed, echo)
    directory.check(config, source.fingerprint, strategy.num_replicas_in_sync)
    experiment = experiments.build(config, source, strategy, directory.config)
    experiment.check_batches()
    directory.claim()
    # Another process may have had the directory since it was looked at.
    accepted = directory.check(config, source.fingerprint, strategy.num_replicas_in_sync)
    done = finished(directory, config)
    if done:
        return say_finished(directory, done, echo)
    introduce(experiment, directory, echo)
    return train(experiment, directory, accepted, echo)


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


def train(experiment, directory, accepted, echo):
    """Trains, and says how it ended and where to look; returns the exit code."""
    from pipeline.monitoring.recorder import tensorboard_command
    from pipeline.training.run import run as run_experiment
    result, described = run_experiment(experiment, directory, accepted, echo)
    if result.status == "preempted":
        saved = "saved" if result.saved_step == result.step else (
            f"not saved, since the loss is diverging: it goes on from step {result.saved_step or 0}")
        print(f"stopped at step {result.step} of {experiment.plan.total_steps} and {saved}; run the same command again "
              "to continue", file=sys.stderr)
        return EXIT_PREEMPTED
    speed = f", {described['examples_per_second']:,.0f} examples/s" if described["examples_per_second"] else ""
    echo(f"{result.status.replace('_', ' ')}: test accuracy {described['test_accuracy']:.2%}, loss "
         f"{described['test_loss']:.4f} after {result.step} steps{speed}")
    echo(f"look    {tensorboard_command(directory)}")
    echo(f"        {directory.file('result.json')}")
    return 0
