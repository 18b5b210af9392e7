"""Runs from Python: train, build, evaluate, report, load, predict, export. The commands call these functions."""
import dataclasses
import importlib.metadata
import json
import os
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from pipeline import arithmetic, extension, full_memory, onednn, run_directory
from pipeline.activity import activity
from pipeline.augmentation import check_place, check_strengths
from pipeline.callbacks import UserCallback
from pipeline.config import ExperimentConfig
from pipeline.config_checks import check_optimizer
from pipeline.console import Console
from pipeline.data import damage
from pipeline.dataset_name import located
from pipeline.distributed import auto_precision
from pipeline.distributed.cluster import Cluster
from pipeline.errors import UsageError
from pipeline.evaluation.selection import StoredRun, WeightSelection, open_runs
from pipeline.monitoring.launches import latest_saved
from pipeline.paths import local_path
from pipeline.run_directory import RunDirectory
from pipeline.training.cadence import plan

# Imports inside functions: configuration is checked before TensorFlow is loaded.

if TYPE_CHECKING:  # These import TensorFlow.
    from pipeline.evaluation.evaluator import Evaluator
    from pipeline.evaluation.prediction import Prediction
    from pipeline.evaluation.trained_model import TrainedModel
    from pipeline.export.run import Exported
    from pipeline.metrics.evaluation import Evaluation
    from pipeline.training.experiment import Experiment
    from pipeline.training.run_records import RunResult

HELD_OUT = 0.1  # Share of the training split held out for early stopping without another validation split.


@dataclasses.dataclass(frozen=True)
class Outcome:
    """The end of a training.

    Attributes:
      workdir: directory of the run.
      status: "finished", "early_stopped" or "preempted": saved, and the same call continues.
      result: contents of result.json: test_accuracy, test_loss, step, weights_sha256, ...; without a test split these
        are None, and validation_accuracy and validation_loss the final metrics.
      ended: the end of the loop; None if the run was finished before and nothing was left to do.
      total_steps: length of the run.
    """

    workdir: str
    status: str
    result: dict[str, Any]
    ended: "RunResult | None"
    total_steps: int


@damage.in_words()
def train(config: ExperimentConfig, console: Console | None = None) -> Outcome:
    """Trains a run in its directory, or continues it.

    `console`: for messages; default that of console_for.

    Raises:
      UsageError: wrong options, or a directory with another run; nothing was changed.
      RunFailure: training diverged, every checkpoint is damaged, the last one could not be written, or memory is full.
        PeerLost, a subclass, if another worker is missing or lost; this process is then of no more use.
    """
    given, config, cluster = config.runtime.precision, resolve(config), Cluster.of(os.environ)
    settings, shared = json.dumps(config.flat(), sort_keys=True), RunDirectory(str(config.runtime.workdir))
    if cluster and cluster.rank:  # Only the chief prints.
        config, console = config.replace(verbosity="quiet", tensorboard="scalars"), None
    console = console or console_for(config)
    stored = shared.config
    auto_precision.report(given, config, (stored or {}).get("config", {}), console)
    begun_with = tuple(stored["config"].get("augment", ())) if stored else ()
    check_strengths(config.data.augment, begun_with=begun_with)
    if not stored:
        check_place(config.data)
        check_optimizer(config.optimizer)
    shared.check(config)  # Before the seconds that TensorFlow and the data take.
    done = _finished(shared, config)
    if done:
        return done
    onednn.choose(config.runtime.onednn, console, stored, cluster is None, config.data.cache_dir)
    from pipeline.distributed.agreement import lost_peers  # These import TensorFlow.
    from pipeline.stored_checkpoint import stored_checkpoints
    from pipeline.training import compilation
    from pipeline.training.experiment import compose, start
    from pipeline.training.multi_worker_checkpoint import open_directory
    from pipeline.training.run_records import report_setup
    from pipeline.training.trainer import Trainer
    directory = open_directory(shared, cluster)
    strategy, source = start(arithmetic.same_threads(config, stored, console), console, cluster, settings, stored)
    replicas = strategy.num_replicas_in_sync
    begins = latest_saved(shared.file("launches.jsonl")) is None and not stored_checkpoints(shared.file("checkpoints"))
    with lost_peers(cluster), full_memory.in_words(config):
        directory.check(config, source.fingerprint_as, replicas)
        with activity("building the model", console):
            experiment = compose(config, source, strategy, directory.config, begins, begun_with)
        found = experiment.departures()
        with directory.claimed():
            # Checked again with all that is known now; another process may have used the directory in the meantime.
            accepted = directory.check(config, source.fingerprint_as, replicas, not found)
            done = _finished(directory, config)
            if done:
                return done
            report_setup(experiment, directory, console)
            compilation.choose(experiment, directory.config, console)
            callbacks = [UserCallback(name, experiment, directory.path) for name in config.training.callbacks]
            trainer = Trainer(experiment, directory, accepted, console, callbacks)
            for what, instead in found if replicas > 1 else ():
                trainer.console.warning(f"{replicas} replicas do not compute what one does: {what}; {instead}")
            ended, described = trainer.run()
    return Outcome(shared.path, ended.status, described, ended, experiment.plan.total_steps)


def console_for(config: ExperimentConfig) -> Console:
    """Returns the console of a run, which drops information with verbosity "quiet"."""
    return Console(quiet=config.runtime.verbosity == "quiet")


def resolve(config: ExperimentConfig) -> ExperimentConfig:
    """Fills in options that follow from others: the directory, the split of early stopping, paths, the precision.

    A run that continues has the extensions with which it was started if none are given.
    """
    directory = RunDirectory(config.runtime.workdir or run_directory.default_path(config))
    stored = (directory.config or {}).get("config", {})
    names = config.data.extension or tuple(stored.get("extension", ()))
    values: dict[str, Any] = {"workdir": directory.path, "extension": extension.absolute(names),
              "dataset": located(config.data.dataset, bool(names)),
              "precision": auto_precision.resolved(config, stored)}
    if config.training.early_stopping_patience and not config.data.held_out:
        values["validation_split"] = HELD_OUT
    return config.replace(**values)


def _finished(directory: RunDirectory, config: ExperimentConfig) -> Outcome | None:
    """Returns the Outcome of a run that has nothing left to do with this configuration, or None."""
    stored, result = directory.config, directory.result
    if not stored or not result or result["status"] == "preempted":
        return None
    total = plan(config, stored["data"]["num_train"]).total_steps
    if result["status"] == "early_stopped":
        done = config.training.early_stopping_patience == stored["config"]["early_stopping_patience"]
    else:
        done = result["step"] >= total
    return Outcome(directory.path, result["status"], result, None, total) if done else None


@damage.in_words()
def build(config: ExperimentConfig, console: Console | None = None) -> "Experiment":
    """Builds the experiment that `train` would train, without a directory: its step, streams and evaluation.

    `console`: for messages; default that of console_for.

    Raises:
      UsageError: wrong options, or a model and data that do not fit each other.
    """
    from pipeline.training.experiment import compose, start
    console = console or console_for(config)
    strategy, source = start(config, console)
    with activity("building the model", console):
        return compose(config, source, strategy)


@damage.in_words()
def evaluate(workdir: str, split: str | None = None, checkpoint: str = "latest", ema: bool | None = None,
             average_checkpoints: int = 1, console: Console | None = None, tta: int = 1, **options: Any
             ) -> "Evaluation":
    """Evaluates the model of a run on a split, every example exactly once.

    Args:
      workdir: directory of the run.
      split: "test", "validation" or "train"; default test, or validation if the data have no test split.
      checkpoint: "latest", "best", a step ("270"), or a path without suffix.
      ema: use the moving average of the weights; default: if the run evaluated it, as with --ema_decay.
      average_checkpoints: use the mean of the weights of this many checkpoints.
      console: for messages; default that of console_for.
      tta: test-time augmentation: the mean of the probabilities over this many views of each image (1 to 16).
      options: of the configuration that differ from the training: batch_size, replicas, data_dir, ...

    Returns:
      Evaluation: accuracy, loss, and more.

    Raises:
      UsageError: there is no such run, checkpoint or split, or its data are missing.
    """
    weights = WeightSelection(str(checkpoint), ema, average_checkpoints, tta)
    evaluator = _evaluator(open_runs(workdir, weights, split, options=options), weights, split, console)
    return evaluator.evaluate(evaluator.runs[0], per_example=False).evaluation


@damage.in_words()
def report(workdir: str, compare: Sequence[str] = (), split: str | None = None, checkpoint: str = "latest",
           ema: bool | None = None, average_checkpoints: int = 1, tta: int = 1, output: str | None = None,
           console: Console | None = None, **options: Any) -> dict[str, Any]:
    """Evaluates the model of a run as `mirrorline evaluate` does; writes report.json and index.html.

    Args:
      workdir: directory of the run.
      compare: directories of other runs, evaluated on the same examples and compared.
      split, checkpoint, ema, average_checkpoints, tta, console, options: as for `evaluate`.
      output: folder of the files; default `report` in the directory of the run.

    Returns:
      Content of report.json.

    Raises:
      UsageError: there is no such run, checkpoint or split, its data are missing, or a run has other data.
      RunFailure: the outputs of a model are not finite.
    """
    from pipeline.evaluation.run_report import report_runs, write_report
    weights = WeightSelection(str(checkpoint), ema, average_checkpoints, tta)
    evaluator = _evaluator(open_runs(workdir, weights, split, compare, options), weights, split, console)
    first = evaluator.runs[0]
    made = report_runs(evaluator, evaluator.evaluate(first, held_out=True), f"pipeline.runs.report({workdir!r})")
    write_report(made, evaluator.split, local_path(output or first.directory.file("report"), "output"))
    return made


def _evaluator(runs: Sequence[StoredRun], weights: WeightSelection, split: str | None, console: Console | None
               ) -> "Evaluator":
    """Returns the Evaluator of runs, with devices started and data loaded."""
    from pipeline.evaluation.evaluator import Evaluator
    evaluator = Evaluator(runs, weights)
    evaluator.open(split, console or console_for(runs[0].config))
    return evaluator


def load(workdir: str, checkpoint: str = "latest", ema: bool | None = None, average_checkpoints: int = 1,
         devices: Sequence[str] = (), batch_size: int | None = None,
         extension: Sequence[str] | None = None) -> "TrainedModel":
    """Loads the model of a run for predictions, on one GPU if there is one; the data of the run are not needed.

    Args:
      workdir: directory of the run.
      checkpoint, ema, average_checkpoints: as for `evaluate`.
      devices: index of the GPU to use, as a tuple of one str; default the first.
      batch_size: maximum number of images computed at once; default that of training.
      extension: new paths of the extensions of the run, if they were moved.

    Returns:
      TrainedModel: probabilities(images), logits(images), class_names, ...

    Raises:
      UsageError: there is no such run or checkpoint.
    """
    directory, stored = run_directory.stored_config(workdir)
    onednn.choose_as_begun(stored)
    import tensorflow as tf

    from pipeline.distributed.devices import choose_devices, open_strategy
    from pipeline.evaluation.trained_model import TrainedModel
    kind, indices = choose_devices(len(tf.config.list_physical_devices("GPU")), tuple(devices), 1)
    if kind == "GPU":
        open_strategy(kind, indices)
    precision = stored["config"]["precision"]
    if kind == "CPU" and precision == "mixed_float16":
        precision = "float32"  # mixed_float16 is emulated there, many times slower.
    return TrainedModel.load(directory, str(checkpoint), ema, average_checkpoints, precision, batch_size, extension)


def predict(model: "TrainedModel", files: Sequence[str], top: int = 3, invert: bool = False,
            unreadable: Callable[[str, Any], Any] | None = None) -> list["Prediction"]:
    """Classifies image files, and all files in folders.

    Args:
      model: see `load`.
      files: paths.
      top: number of classes to return, the most probable first; 0 for all.
      invert: swap light and dark first.
      unreadable: called with path and reason of each file that is not an image; default: an error, except for files in
        folders without the name of an image, which are skipped.

    Returns:
      Predictions: file, classes ((name, probability), ...).

    Raises:
      UsageError: there is no such file, or it is not an image.
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
def export(workdir: str, forms: Sequence[str] = ("saved_model", "keras", "weights"), output: str | None = None,
           checkpoint: str = "latest", ema: bool | None = None, average_checkpoints: int = 1,
           batch_sizes: Sequence[int] = (), console: Console | None = None, **options: Any) -> "Exported":
    """Exports the model of a run, on the CPU and in float32, and verifies each format in a fresh process.

    Args:
      workdir: directory of the run.
      forms: names of export formats, those of pipeline.choices.EXPORT_FORMATS.
      output: folder of all exports; default `export` in the directory of the run.
      checkpoint, ema, average_checkpoints: as for `evaluate`.
      batch_sizes: for which latency is measured.
      console: for messages; default that of console_for.
      options: of the configuration that differ from the training: data_dir, extension.

    Returns:
      Exported; formats outside their tolerance are in `failed`, and not published.

    Raises:
      UsageError: there is no such run, checkpoint or format, or its data are missing.
    """
    directory, stored = run_directory.stored_config(workdir)
    onednn.choose_as_begun(stored)
    import tensorflow as tf

    from pipeline.evaluation.stored_run import same_data
    from pipeline.evaluation.trained_model import TrainedModel
    from pipeline.export.export_format import find_formats
    from pipeline.export.metadata import metadata
    from pipeline.export.run import export as export_model
    from pipeline.stored_checkpoint import find_checkpoint
    from pipeline.training.stored_weights import latest_checkpoints
    config = run_directory.evaluation_config(stored, {"allow": (), **options, "precision": "float32"})
    extension.load(config.data.extension)
    find_formats(forms)  # Before the data are loaded, as the checkpoints.
    latest_checkpoints(find_checkpoint(directory.file("checkpoints"), str(checkpoint)), average_checkpoints)
    console = console or console_for(config)
    with tf.device("CPU:0"):  # GPUs round float32 otherwise by default, and formats are compared with this model.
        source = same_data(config, stored, console)
        trained = TrainedModel.load(directory, str(checkpoint), ema, average_checkpoints, "float32",
                                    extension=config.data.extension)
        about = metadata(trained, version=_version(), result=directory.result, weights=trained.weights)
        output = local_path(output or directory.file("export"), "--output")
        return export_model(trained, source, tuple(forms), output, about, tuple(batch_sizes), console)


def _version():
    """Returns the version of this package, "not installed" if it runs from a source folder."""
    try:
        return importlib.metadata.version("mirrorline")
    except importlib.metadata.PackageNotFoundError:
        return "not installed"
