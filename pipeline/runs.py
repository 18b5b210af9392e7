"""Runs from Python: train, build, evaluate, load, export, predict. The commands go the same way, by these functions."""
import dataclasses
import importlib.metadata
import json
import os

from pipeline import extension as extensions
from pipeline import run_directory
from pipeline.callbacks import UserCallback
from pipeline.config import located
from pipeline.distributed.cluster import Cluster
from pipeline.errors import UsageError, unknown_name
from pipeline.monitoring.launches import newest_saved
from pipeline.run_directory import RunDirectory
from pipeline.training.cadence import plan

HELD_OUT = 0.1  # Of the training split, where early stopping has nothing else to look at.


@dataclasses.dataclass(frozen=True)
class Outcome:
    """How a training ended.

    Attributes:
      workdir: directory of the run.
      status: "finished", "early_stopped" or "preempted": saved, and the same call goes on.
      result: what result.json holds: test_accuracy, test_loss, step, weights_sha256, ...
      ended: pipeline.training.trainer.RunResult; None where the run was finished before and nothing was left to do.
      total_steps: steps that were asked for.
    """

    workdir: str
    status: str
    result: dict
    ended: object
    total_steps: int


def console_for(config):
    """Returns what takes lines for the user, one a call: printed, unless the configuration is for quiet."""
    if config.runtime.verbosity == "quiet":
        return lambda text: None
    return lambda text: print(text, flush=True)


def train(config, echo=None):
    """Trains in the directory of the run, or continues what is there, and evaluates along the way.

    Args:
      config: ExperimentConfig.
      echo: takes lines for the user, one a call; default: they are printed, unless verbosity is "quiet".

    Returns:
      Outcome.

    Raises:
      UsageError: wrong settings, or a directory with another run; nothing was touched.
      RunFailure: training diverged, every checkpoint is damaged, or the last one could not be written. PeerLost, one of
        these, where another worker did not come or is gone; this process is then of no more use.
    """
    config, cluster = resolve(config), Cluster.of(os.environ)
    settings, shared = json.dumps(config.flat(), sort_keys=True), RunDirectory(config.runtime.workdir)
    if cluster and cluster.rank:  # The chief speaks for all.
        config, echo = config.replace(verbosity="quiet", tensorboard="scalars"), None
    echo = echo or console_for(config)
    shared.check(config)  # Before the seconds that TensorFlow and the data take.
    done = finished(shared, config)
    if done:
        return done
    from pipeline.distributed.agreement import lost_peers  # TensorFlow is loaded from here on.
    from pipeline.models.model_checks import departures
    from pipeline.training.experiment import compose, start
    from pipeline.training.multi_worker_checkpoint import open_directory
    from pipeline.training.trainer import Trainer
    directory = open_directory(shared, cluster)
    strategy, source = start(config, echo, cluster, settings)
    replicas, fresh = strategy.num_replicas_in_sync, begins(shared)
    with lost_peers(cluster):
        directory.check(config, source.fingerprint, replicas)
        experiment = compose(config, source, strategy, directory.config, fresh)
        found = departures(experiment.state.model)
        with directory.claimed():
            # Everything is known now; another process may have had the directory in between.
            accepted = directory.check(config, source.fingerprint, replicas, not found)
            done = finished(directory, config)
            if done:
                return done
            introduce(experiment, directory, echo)
            callbacks = tuple(UserCallback(name, experiment, directory.path)
                              for name in config.training.callbacks)
            trainer = Trainer(experiment, directory, accepted, echo, callbacks)
            for what, instead in found if replicas > 1 else ():
                trainer.warn(f"{replicas} replicas do not compute what one does: {what}; {instead}")
            ended, described = trainer.run()
    return Outcome(config.runtime.workdir, ended.status, described, ended, experiment.plan.total_steps)


def resolve(config):
    """Fills in what options decide for each other: the directory, what early stopping looks at, where extensions lie.

    A run that goes on has the extensions it was begun with, where none are given.
    """
    directory = RunDirectory(config.runtime.workdir or run_directory.default_path(config))
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
    if experiment.frozen.names:
        echo(f"frozen  {experiment.frozen.text()}")
    epochs = round(experiment.plan.epochs, 2)
    echo(f"run     {directory.path}: {experiment.plan.total_steps:,} steps of {experiment.plan.batch_size} examples "
         f"({epochs:g} epoch{'s' * (epochs != 1)})")


def build(config, echo=None):
    """Builds the experiment that `train` would train, without a directory: its step, streams and evaluation.

    Args:
      config: ExperimentConfig.
      echo: takes lines for the user, one a call; default: they are printed, unless verbosity is "quiet".

    Returns:
      pipeline.training.experiment.Experiment, freshly initialized.

    Raises:
      UsageError: wrong settings, or a model and data that do not fit each other.
    """
    from pipeline.training.experiment import compose, start
    strategy, source = start(config, echo or console_for(config))
    return compose(config, source, strategy)


def evaluate(workdir, split="test", checkpoint="newest", ema=False, average_checkpoints=1, echo=None, **options):
    """Judges the model of a run on a part of its data, every example exactly once.

    Args:
      workdir: directory of the run.
      split: "test", "validation" or "train".
      checkpoint: "newest", "best", a step ("270"), or a path without suffix.
      ema: take the moving average of the weights.
      average_checkpoints: take the mean of the weights of this many checkpoints.
      echo: takes lines for the user, one a call; default: they are printed, unless verbosity is "quiet".
      options: of the configuration that are to be others than in training: batch_size, replicas, data_dir, ...

    Returns:
      pipeline.metrics.evaluation.Evaluation: accuracy, loss, and more.

    Raises:
      UsageError: there is no such run, checkpoint or split, or its data are not there.
    """
    from pipeline.evaluation.stored_run import choose_split, rebuild, reopen_data
    from pipeline.training.stored_weights import load_weights
    directory, stored = run_directory.stored_config(workdir)
    config = run_directory.evaluation_config(stored, options)
    strategy, source = reopen_data(config, stored, echo or console_for(config))
    judged = choose_split(source, split)
    experiment = rebuild(config, stored, source, strategy)
    load_weights(experiment.state.model, directory.file("checkpoints"), str(checkpoint), ema, average_checkpoints)
    return experiment.evaluate(judged)


def load(workdir, checkpoint="newest", ema=False, average_checkpoints=1, devices=(), batch_size=None, extension=None):
    """Loads the model of a run, for predictions; on one GPU where there is one. Its data are not needed.

    Args:
      workdir: directory of the run.
      checkpoint, ema, average_checkpoints: as for `evaluate`.
      devices: index of the GPU to use, as a tuple of one str; default the first.
      batch_size: most images computed at once; default that of training.
      extension: where the files of its own code lie now, if not where they were.

    Returns:
      pipeline.evaluation.trained_model.TrainedModel: probabilities(images), logits(images), class_names, ...

    Raises:
      UsageError: there is no such run or checkpoint.
    """
    import tensorflow as tf

    from pipeline.distributed.devices import choose_devices, open_strategy
    from pipeline.evaluation.trained_model import TrainedModel
    directory, stored = run_directory.stored_config(workdir)
    kind, indices = choose_devices(len(tf.config.list_physical_devices("GPU")), tuple(devices), 1)
    if kind == "GPU":
        open_strategy(kind, indices)
    precision = stored["config"]["precision"]
    if kind == "CPU" and precision == "mixed_float16":
        precision = "float32"  # Emulated it would take many times as long.
    return TrainedModel.load(directory, str(checkpoint), ema, average_checkpoints, precision, batch_size, extension)


def predict(model, files, top=3, invert=False, unreadable=None):
    """Names the classes of image files, and of all files in folders.

    Args:
      model: TrainedModel, see `load`.
      files: list of paths.
      top: how many classes are told of each, the most probable first; 0 for all.
      invert: exchange light and dark first.
      unreadable: called with path and reason of each file that is no image; default: that is an error.

    Returns:
      list of pipeline.evaluation.prediction.Prediction: file, classes ((name, probability), ...).

    Raises:
      UsageError: there is no such file, or it is no image.
    """
    from pipeline.evaluation import prediction

    def refuse(path, reason):
        raise UsageError(f"cannot read {path}: {reason}")

    found, problems = prediction.find_files(files)
    for path, reason in problems:
        (unreadable or refuse)(path, reason)
    return [one for batch in prediction.predict(model, found, unreadable or refuse, top, invert) for one in batch]


def export(workdir, forms=("saved_model", "keras", "weights"), output=None, checkpoint="newest", ema=False,
           average_checkpoints=1, batch_sizes=(), echo=None, **options):
    """Exports the model of a run, on the CPU and in float32, and proves each form in a fresh process.

    Args:
      workdir: directory of the run.
      forms: names of pipeline.export.formats.FORMS.
      output: folder of all its exports; default `export` in the run's directory.
      checkpoint, ema, average_checkpoints: as for `evaluate`.
      batch_sizes: for which latency is measured; none: not at all.
      echo: takes lines for the user, one a call; default: they are printed, unless verbosity is "quiet".
      options: of the configuration that are to be others than in training: data_dir, extension.

    Returns:
      pipeline.export.run.Exported; what is beyond the bound of its form is in `failed`, and not published.

    Raises:
      UsageError: there is no such run, checkpoint or form, or its data are not there.
    """
    import tensorflow as tf

    from pipeline.evaluation.stored_run import same_data
    from pipeline.evaluation.trained_model import TrainedModel
    from pipeline.export.extras import check_extra
    from pipeline.export.formats import FORMS
    from pipeline.export.metadata import metadata
    from pipeline.export.run import export as export_model
    from pipeline.training.stored_weights import described
    for name in forms:
        if name not in FORMS:
            raise unknown_name("form", name, FORMS)
        check_extra(FORMS[name])
    directory, stored = run_directory.stored_config(workdir)
    config = run_directory.evaluation_config(stored, {**options, "precision": "float32"})
    echo = echo or console_for(config)
    with tf.device("CPU:0"):  # GPUs round float32 otherwise by default, and forms are compared with this model.
        source = same_data(config, stored, echo)
        trained = TrainedModel.load(directory, str(checkpoint), ema, average_checkpoints, "float32",
                                    extension=config.data.extension)
        about = metadata(trained, version=_version(), result=directory.result, weights=described(trained.steps, ema))
        return export_model(trained, source, tuple(forms), output or directory.file("export"), about,
                            tuple(batch_sizes), echo)


def _version():
    """Returns the version of this product, "not installed" where it runs from a folder alone."""
    try:
        return importlib.metadata.version("mirrorline")
    except importlib.metadata.PackageNotFoundError:
        return "not installed"
