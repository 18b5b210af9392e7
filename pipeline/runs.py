"""Runs from Python: train, build, evaluate, load, export, predict. The commands go the same way, by these functions."""
import importlib.metadata
import json
import os

from pipeline import arithmetic, run_directory
from pipeline.activity import activity
from pipeline.callbacks import UserCallback
from pipeline.data import damage
from pipeline.distributed.cluster import Cluster
from pipeline.errors import UsageError, unknown_name
from pipeline.options import check_strengths
from pipeline.paths import local_path
from pipeline.run_directory import RunDirectory
from pipeline.training.start import Outcome, begins, begun_with, console_for, finished, introduce, resolve


@damage.in_words()
def train(config, console=None):
    """Trains in the directory of the run, or continues what is there, and evaluates along the way.

    Args:
      config: ExperimentConfig.
      console: where messages go; default: that of console_for.

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
        config, console = config.replace(verbosity="quiet", tensorboard="scalars"), None
    console = console or console_for(config)
    check_strengths(config.data.augment, begun_with=begun_with(shared))
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
    strategy, source = start(arithmetic.same_threads(config, shared.config, console), console, cluster, settings,
                             shared.config)
    replicas, fresh = strategy.num_replicas_in_sync, begins(shared)
    with lost_peers(cluster):
        directory.check(config, source.fingerprint, replicas)
        with activity("building the model", console):
            experiment = compose(config, source, strategy, directory.config, fresh, begun_with(directory))
        found = departures(experiment.state.model)
        with directory.claimed():
            # Everything is known now; another process may have had the directory in between.
            accepted = directory.check(config, source.fingerprint, replicas, not found)
            done = finished(directory, config)
            if done:
                return done
            introduce(experiment, directory, console)
            callbacks = tuple(UserCallback(name, experiment, directory.path)
                              for name in config.training.callbacks)
            trainer = Trainer(experiment, directory, accepted, console, callbacks)
            for what, instead in found if replicas > 1 else ():
                trainer.console.warning(f"{replicas} replicas do not compute what one does: {what}; {instead}")
            ended, described = trainer.run()
    return Outcome(config.runtime.workdir, ended.status, described, ended, experiment.plan.total_steps)


@damage.in_words()
def build(config, console=None):
    """Builds the experiment that `train` would train, without a directory: its step, streams and evaluation.

    Args:
      config: ExperimentConfig.
      console: where messages go; default: that of console_for.

    Returns:
      pipeline.training.experiment.Experiment, freshly initialized.

    Raises:
      UsageError: wrong settings, or a model and data that do not fit each other.
    """
    from pipeline.training.experiment import compose, start
    console = console or console_for(config)
    strategy, source = start(config, console)
    with activity("building the model", console):
        return compose(config, source, strategy)


@damage.in_words()
def evaluate(workdir, split=None, checkpoint="newest", ema=None, average_checkpoints=1, console=None, **options):
    """Judges the model of a run on a part of its data, every example exactly once.

    Args:
      workdir: directory of the run.
      split: "test", "validation" or "train"; default test, or validation where the data have no test split.
      checkpoint: "newest", "best", a step ("270"), or a path without suffix.
      ema: take the moving average of the weights; default: where the run evaluated that, as with --ema_decay.
      average_checkpoints: take the mean of the weights of this many checkpoints.
      console: where messages go; default: that of console_for.
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
    strategy, source = reopen_data(config, stored, console or console_for(config))
    judged = choose_split(source, split)
    experiment = rebuild(config, stored, source, strategy)
    ema = run_directory.evaluates_average(stored) if ema is None else ema
    load_weights(experiment.state.model, directory.file("checkpoints"), str(checkpoint), ema, average_checkpoints)
    return experiment.evaluate(judged)


def load(workdir, checkpoint="newest", ema=None, average_checkpoints=1, devices=(), batch_size=None, extension=None):
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
      unreadable: called with path and reason of each file that is no image; default: that is an error, but for those in
        folders that are not called like an image, which are left out.

    Returns:
      list of pipeline.evaluation.prediction.Prediction: file, classes ((name, probability), ...).

    Raises:
      UsageError: there is no such file, or it is no image.
    """
    from pipeline.evaluation import prediction

    def refuse(path, reason):
        if prediction.is_no_image(path, files):
            return
        raise UsageError(f"cannot read {path}: {reason}")

    found, problems = prediction.find_files(files)
    for path, reason in problems:
        (unreadable or refuse)(path, reason)
    return [one for batch in prediction.predict(model, found, unreadable or refuse, top, invert) for one in batch]


@damage.in_words()
def export(workdir, forms=("saved_model", "keras", "weights"), output=None, checkpoint="newest", ema=None,
           average_checkpoints=1, batch_sizes=(), console=None, **options):
    """Exports the model of a run, on the CPU and in float32, and proves each form in a fresh process.

    Args:
      workdir: directory of the run.
      forms: names of pipeline.export.formats.FORMS.
      output: folder of all its exports; default `export` in the run's directory.
      checkpoint, ema, average_checkpoints: as for `evaluate`.
      batch_sizes: for which latency is measured; none: not at all.
      console: where messages go; default: that of console_for.
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
    for name in forms:
        if name not in FORMS:
            raise unknown_name("form", name, FORMS)
        check_extra(FORMS[name])
    directory, stored = run_directory.stored_config(workdir)
    config = run_directory.evaluation_config(stored, {**options, "precision": "float32"})
    console = console or console_for(config)
    with tf.device("CPU:0"):  # GPUs round float32 otherwise by default, and forms are compared with this model.
        source = same_data(config, stored, console)
        trained = TrainedModel.load(directory, str(checkpoint), ema, average_checkpoints, "float32",
                                    extension=config.data.extension)
        about = metadata(trained, version=_version(), result=directory.result, weights=trained.weights)
        output = local_path(output or directory.file("export"), "--output")
        return export_model(trained, source, tuple(forms), output, about, tuple(batch_sizes), console)


def _version():
    """Returns the version of this product, "not installed" where it runs from a folder alone."""
    try:
        return importlib.metadata.version("mirrorline")
    except importlib.metadata.PackageNotFoundError:
        return "not installed"
