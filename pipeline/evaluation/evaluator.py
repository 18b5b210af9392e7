"""A trained model judged on a split: which weights, in which views, and what is known of the run that made it."""
import dataclasses
import datetime
import importlib.metadata
import os

from pipeline import config as configuration
from pipeline import run_directory
from pipeline.augmentation import augmentations

PLACE = ("workdir", "verbosity", "tensorboard")  # Options that say nothing about the model.


@dataclasses.dataclass(frozen=True)
class Run:
    """A run to judge.

    Attributes:
      directory: RunDirectory.
      stored: what its config.json holds.
      config: ExperimentConfig, with the options given for this evaluation.
    """

    directory: object
    stored: dict
    config: object

    @property
    def records(self):
        """An iterator over the records of its metrics.jsonl: it is as long as the run."""
        from pipeline.monitoring.metrics_log import read_records
        return read_records(self.directory.file("metrics.jsonl"))


@dataclasses.dataclass(frozen=True)
class Weights:
    """Which weights of a run are judged, and in how many views of each image.

    Attributes:
      checkpoint: "newest", "best", a step, or a path without suffix.
      ema: whether to take their moving average; None: where the run evaluates that.
      average: the mean of this many checkpoints, the named one and those before it.
      views: views of each image whose probabilities are averaged.
    """

    checkpoint: str
    ema: bool | None
    average: int
    views: int

    def find(self, run):
        """Returns the StoredCheckpoints, newest first; raises UsageError where there are none or too few."""
        from pipeline.stored_checkpoint import find_checkpoint
        from pipeline.training.stored_weights import newest_checkpoints
        folder = run.directory.file("checkpoints")
        return newest_checkpoints(find_checkpoint(folder, self.checkpoint), self.average)

    def average_of(self, run):
        """Tells whether it is the moving average of a run's weights."""
        return run_directory.evaluates_average(run.stored) if self.ema is None else self.ema

    def read(self, run, model):
        """Puts them into a model; returns their StoredCheckpoints."""
        from pipeline.training.stored_weights import load_weights
        return load_weights(model, run.directory.file("checkpoints"), self.checkpoint,
                            self.average_of(run), self.average)

    def describe(self, run, found):
        """Returns in words what they are, of the checkpoints found of a run."""
        from pipeline.training.stored_weights import described
        return described([checkpoint.step for checkpoint in found], self.average_of(run))


@dataclasses.dataclass(frozen=True, eq=False)
class Judgement:
    """What came of it.

    Attributes:
      experiment: Experiment with those weights.
      checkpoints: where they are from, newest first.
      views: tuple of views.View.
      evaluation: metrics.Evaluation.
      predictions: Predictions of the split, None where nobody asked.
      held_out: Predictions of the part held out of training, where that is another one and was asked for, or None.
    """

    experiment: object
    checkpoints: list
    views: tuple
    evaluation: object
    predictions: object = None
    held_out: object = None


def judge(run, weights, source, split, strategy, whole=True, held_out=False):
    """Judges a run's model on a split.

    Args:
      run: Run.
      weights: Weights.
      source: Source of its data.
      split: Split of it.
      strategy: the strategy of this process.
      whole: whether to keep what it says of each example.
      held_out: whether to look at the part held out of training too.

    Returns:
      A Judgement.

    Raises:
      UsageError: its checkpoints are not there or do not fit.
    """
    from pipeline.evaluation.probabilities import Predictions, averaged
    from pipeline.evaluation.stored_run import rebuild
    from pipeline.evaluation.views import seen, views
    # Where the examples lie changes nothing; views are made where the host reads them.
    config = run.config.replace(cache="host") if weights.views > 1 else run.config
    experiment = rebuild(config, run.stored, source, strategy)
    checkpoints = weights.read(run, experiment.state.model)
    chosen = views(weights.views, any(a.name == "flip" for a in augmentations(run.config.data)))

    several = len(chosen) > 1

    def predict(part):
        found = (experiment.outputs(seen(part, view)) for view in chosen)
        parts = (Predictions(outputs.logits, outputs.labels) for outputs in found)
        return averaged(parts) if several else next(parts)

    evaluation = None if several else experiment.evaluate(split)  # By the arithmetic of training, to the last digit.
    predictions = predict(split) if whole or several else None
    other = source.validation if held_out and source.validation is not split else None
    return Judgement(experiment, checkpoints, chosen, evaluation or predictions.evaluation(), predictions,
                     other and predict(other))


def nothing_to_say(run, judgement):
    """Returns the line about a model whose outputs are not numbers: there is no more to report about it."""
    return (f"no report: the model of {run.directory.path} at step {judgement.checkpoints[0].step} gives outputs that "
            "are not finite; --checkpoint=best may be one of before that")


def describe(run, weights, judgement, split, command):
    """Collects what report.json says of run and machine: {"created", "command", "run", "goodput", "cost"}."""
    from pipeline.distributed import machine
    from pipeline.evaluation.history import cost
    from pipeline.models.identity import weights_sha256
    from pipeline.monitoring.goodput import summarize
    experiment, newest, result = judgement.experiment, judgement.checkpoints[0], run.directory.result or {}
    values = run.stored["config"]
    default = {name: field.default for name, field in configuration.options().items()}
    goodput = result.get("goodput") or summarize(run.directory.file("launches.jsonl"))
    seen = result.get("examples_seen") or newest.step * values["batch_size"]
    return {
        "created": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"), "command": command,
        "run": {
            "workdir": run.directory.path, "dataset": run.stored["data"]["name"], "model": values["model"],
            "parameters": experiment.state.model.count_params(), "step": newest.step,
            "checkpoint": os.path.basename(newest.path), "asked_for": weights.checkpoint,
            "weights": weights.describe(run, judgement.checkpoints), "test_time_augmentation": len(judgement.views),
            "views": [str(view) for view in judgement.views], "split": split.name, "examples": split.num_examples,
            "seed": values["seed"], "weights_sha256": weights_sha256(experiment.state.model),
            "status": result.get("status", "not finished"), "selected_on": experiment.watched.name, "config": values,
            "changed": {name: value for name, value in values.items() if name not in PLACE
                        and value != (list(default[name]) if isinstance(default[name], tuple) else default[name])},
            "versions": {**machine.versions(), **{name: importlib.metadata.version(name)
                                                            for name in ("scipy", "scikit-learn")}},
            "trained_with": run.stored.get("versions"), "machine": machine.machine()},
        "goodput": goodput, "cost": cost(goodput, seen, run.stored.get("device"), forward_operations(experiment))}


def forward_operations(experiment):
    """Returns the floating-point operations of a forward pass for one example, None where they cannot be counted."""
    import tensorflow as tf

    from pipeline.monitoring import operations
    images = tf.TensorSpec((1, *experiment.source.image_shape), tf.uint8)
    return operations.count(experiment.steps.inference.logits.get_concrete_function(images).graph)
