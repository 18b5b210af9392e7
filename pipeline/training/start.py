"""What comes before a run trains: its settings complete, its directory looked at, its introduction."""
import dataclasses

from pipeline import extension as extensions
from pipeline import run_directory
from pipeline.config import MOVING_AVERAGE, located
from pipeline.console import Console
from pipeline.data.splits import TRAINING
from pipeline.monitoring.launches import newest_saved
from pipeline.quantities import counted, plural
from pipeline.training.cadence import plan

HELD_OUT = 0.1  # Of the training split, where early stopping has no other validation split to look at.


@dataclasses.dataclass(frozen=True)
class Outcome:
    """How a training ended.

    Attributes:
      workdir: directory of the run.
      status: "finished", "early_stopped" or "preempted": saved, and the same call goes on.
      result: what result.json holds: test_accuracy, test_loss, step, weights_sha256, ...; without a test split these
        are None, and validation_accuracy and validation_loss the final figures.
      ended: pipeline.training.run_records.RunResult; None where the run was finished before and nothing was left to do.
      total_steps: steps that were asked for.
    """

    workdir: str
    status: str
    result: dict
    ended: object
    total_steps: int


def console_for(config) -> Console:
    """Returns the Console of a run, which drops information where verbosity is "quiet"."""
    return Console(quiet=config.runtime.verbosity == "quiet")


def resolve(config):
    """Fills in what options decide for each other: the directory, what early stopping looks at, where extensions lie.

    A run that goes on has the extensions it was begun with, where none are given.
    """
    directory = run_directory.RunDirectory(config.runtime.workdir or run_directory.default_path(config))
    stored = (directory.config or {}).get("config", {})
    names = config.data.extension or tuple(stored.get("extension", ()))
    values = {"workdir": directory.path, "extension": extensions.absolute(names),
              "dataset": located(config.data.dataset)}
    if config.training.early_stopping_patience and not config.data.validation_split:
        values["validation_split"] = HELD_OUT
    return config.replace(**values)


def finished(directory, config):
    """Returns the Outcome of a run that has nothing left to do under this configuration, or None."""
    stored, result = directory.config, directory.result
    if not stored or not result or result["status"] == "preempted":
        return None
    total = plan(config, stored["data"]["num_train"]).total_steps
    if result["status"] == "early_stopped":
        done = config.training.early_stopping_patience == stored["config"]["early_stopping_patience"]
    else:
        done = result["step"] >= total
    return Outcome(directory.path, result["status"], result, None, total) if done else None


def begins(directory):
    """Tells whether a run has had no checkpoint so far, so that it begins with the weights of --initialize_from."""
    from pipeline.stored_checkpoint import stored_checkpoints
    return newest_saved(directory.file("launches.jsonl")) is None and (
        not stored_checkpoints(directory.file("checkpoints")))


def begun_with(directory):
    """Returns the augmentations that the run of a directory was begun with, () for a new run."""
    return tuple((directory.config or {}).get("config", {}).get("augment", ()))


def introduce(experiment, directory, console):
    """Says what is going to be trained on what, and where it is written."""
    source, model = experiment.source, experiment.state.model
    replicas = experiment.strategy.num_replicas_in_sync
    shape = "x".join(map(str, source.image_shape))
    parts = [f"{split.num_examples:,} {name}" for name, split in (
        ("training", source.train), ("held out" if source.validation_from == TRAINING else "validation",
                                     source.validation), ("test", source.test)) if split]
    console.info(f"data    {source.name}: {shape}, {counted(source.num_classes, 'class', 'classes')}, "
                 f"{', '.join(parts)} examples")
    for note in source.notes:
        console.info(f"        {note}")
    console.info(f"model   {experiment.config.model.model}: {counted(model.count_params(), 'parameter')}, "
                 f"{experiment.config.runtime.precision}, {counted(replicas, 'replica')}")
    if experiment.frozen.names:
        console.info(f"frozen  {experiment.frozen.text()}")
    if experiment.config.optimizer.ema_decay:
        which = MOVING_AVERAGE if experiment.evaluates_average else "weights as trained"
        console.info(f"average evaluations, the best checkpoint and the final figures are of the {which}"
                     + ("" if experiment.evaluates_average else ", as when this run was begun"))
    epochs = experiment.plan.epochs_text
    console.info(f"run     {directory.path}: {counted(experiment.plan.total_steps, 'step')} of "
                 f"{counted(experiment.plan.batch_size, 'example')} ({epochs} {plural(float(epochs), 'epoch')})")
