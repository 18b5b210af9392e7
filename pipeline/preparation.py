"""What comes before a run trains or is judged: its settings complete, its data loaded, its experiment built."""
import contextlib
import dataclasses
import re

from pipeline import arithmetic, keras_import
from pipeline import extension as extensions
from pipeline.activity import Lines, activity
from pipeline.config import FOLDER, MOVING_AVERAGE, ExperimentConfig, located
from pipeline.data.splits import DATA_SET, TRAINING
from pipeline.errors import UsageError
from pipeline.quantities import counted, plural
from pipeline.training import run_directory
from pipeline.training.cadence import plan
from pipeline.workers import peers
from pipeline.workers.roll_call import PeerLost

STARTING = "starting TensorFlow"
HELD_OUT = 0.1  # Of the training split, where early stopping has no other validation split to look at.


@dataclasses.dataclass(frozen=True)
class Outcome:
    """How a training ended.

    Attributes:
      workdir: directory of the run.
      status: "finished", "early_stopped" or "preempted": saved, and the same call goes on.
      result: what result.json holds: test_accuracy, test_loss, step, weights_sha256, ...; without a test split these
        are None, and validation_accuracy and validation_loss the final figures.
      ended: pipeline.training.loop.RunResult; None where the run was finished before and nothing was left to do.
      total_steps: steps that were asked for.
    """

    workdir: str
    status: str
    result: dict
    ended: object
    total_steps: int


def teller(config):
    """Returns what takes lines for the user, one a call: printed, unless the configuration is for quiet."""
    if config.runtime.verbosity == "quiet":
        return lambda text: None
    return Lines()


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


def open_directory(config, cluster):
    """Returns the RunDirectory of this process: of several workers only the chief writes in the run's."""
    directory = run_directory.RunDirectory(config.runtime.workdir)
    if cluster and cluster.rank:
        from pipeline.training.following import FollowerDirectory
        return FollowerDirectory(directory, cluster.rank)
    return directory


@contextlib.contextmanager
def peers_may_leave(cluster):
    """Raises PeerLost where a collective fails because another worker is gone; tells the others of an end without."""
    import tensorflow as tf
    errors = tf.errors
    try:
        yield
        peers.leave()
    except (errors.UnavailableError, errors.AbortedError, errors.CancelledError, errors.DeadlineExceededError,
            errors.InternalError) as error:
        if not cluster:
            raise
        said = [line for line in str(error.message).splitlines() if line.strip()]
        told = (line for line in said if re.search("abort|peer|connect|unavailable", line, re.IGNORECASE))
        cause = next(told, said[0])
        raise PeerLost(f"worker {cluster.rank} lost another worker ({cause.strip()[:300]}); run the same command on "
                       "all of them again, they go on from the newest checkpoint") from error


def begins(directory):
    """Tells whether a run has had no checkpoint so far, so that it begins with the weights of --initialize_from."""
    from pipeline.monitoring.launches import newest_saved
    from pipeline.training.stored_checkpoint import stored_checkpoints
    return newest_saved(directory.file("launches.jsonl")) is None and (
        not stored_checkpoints(directory.file("checkpoints")))


def begun_with(directory):
    """Returns the augmentations that the run of a directory was begun with, () for a new run."""
    return tuple((directory.config or {}).get("config", {}).get("augment", ()))


def introduce(experiment, directory, echo):
    """Says what is going to be trained on what, and where it is written."""
    source, model = experiment.source, experiment.state.model
    replicas = experiment.strategy.num_replicas_in_sync
    shape = "x".join(map(str, source.image_shape))
    parts = [f"{split.num_examples:,} {name}" for name, split in (
        ("training", source.train), ("held out" if source.validation_from == TRAINING else "validation",
                                     source.validation), ("test", source.test)) if split]
    echo(f"data    {source.name}: {shape}, {counted(source.num_classes, 'class', 'classes')}, {', '.join(parts)} "
         "examples")
    for note in source.notes:
        echo(f"        {note}")
    echo(f"model   {experiment.config.model.model}: {counted(model.count_params(), 'parameter')}, "
         f"{experiment.config.runtime.precision}, {counted(replicas, 'replica')}")
    if experiment.frozen.names:
        echo(f"frozen  {experiment.frozen.text()}")
    if experiment.config.optimizer.ema_decay:
        which = MOVING_AVERAGE if experiment.evaluates_average else "weights as trained"
        echo(f"average evaluations, the best checkpoint and the final figures are of the {which}"
             + ("" if experiment.evaluates_average else ", as when this run was begun"))
    epochs = experiment.plan.epochs_text
    echo(f"run     {directory.path}: {counted(experiment.plan.total_steps, 'step')} of "
         f"{counted(experiment.plan.batch_size, 'example')} ({epochs} {plural(float(epochs), 'epoch')})")


def evaluation_config(stored, given):
    """Returns the configuration of a run with options given for an evaluation, {option name: value}.

    Evaluation computes the same whatever the training step was made of, and as many threads as trained do it.
    """
    return ExperimentConfig.from_flat({**stored["config"], "threads": arithmetic.stored_threads(stored), **given,
                                       "accumulate_steps": 1, "xla": "auto", "cross_device_reduction": "auto"})


def reopen_data(config, stored, echo=print):
    """Starts the devices and loads the data that a run was trained on.

    Args:
      config: ExperimentConfig, see `evaluation_config`.
      stored: what config.json of the run holds.
      echo: takes lines for the user, one a call.

    Returns:
      (strategy, Source).

    Raises:
      UsageError: devices or data are not what the run needs.
    """
    with activity(STARTING, echo):
        from pipeline import runtime
        strategy = runtime.start(config.runtime, config.training, config.optimizer, echo, share_batch=False)
    return strategy, same_data(config, stored, echo)


def choose_split(source, name):
    """Returns a split of a Source by its name, the final one for None; raises UsageError where there is none."""
    if name is None:
        return source.final
    found = {"test": source.test, "validation": source.validation, "train": source.train}
    if found.get(name) is None:
        raise UsageError(f"there is no split '{name}' of {source.name}: it has "
                         f"{', '.join(known for known, split in found.items() if split)}")
    return found[name]


def rebuild(config, stored, source, strategy):
    """Returns the Experiment of a run in its own precision, with fresh weights, to read others into."""
    from pipeline import experiment as experiments
    keras_import.set_precision(config.runtime.precision)  # Each run has its own.
    return experiments.build(config, source, strategy, stored)


def same_data(config, stored, echo):
    """Returns the Source that a run was trained on; raises UsageError where it is another one now."""
    from pipeline.data.load import load as load_data
    extensions.load(config.data.extension, stored.get("extensions"))
    source = load_data(config.data, stored["config"]["batch_size"], config.training.seed, echo,
                       own_validation(stored))
    known = stored["data"]["fingerprint"]
    if source.fingerprint != known:
        remedy = "--dataset=folder:PATH" if source.name.startswith(FOLDER) else "--data_dir"
        raise UsageError(f"the data of {source.name} is not what this run was trained on (fingerprint "
                         f"{source.fingerprint[:12]}, then {known[:12]}): give its {remedy}")
    return source


def same_threads(config, stored, echo):
    """Returns the configuration with the number of threads that a run on CPUs began with, where none is given."""
    number, here = config.runtime.threads or arithmetic.stored_threads(stored), arithmetic.default_threads()
    if not config.runtime.threads and number not in (0, here):
        echo(f"threads {number}, as this run began, for the same bits ({here} here by default: --threads={here})")
    return config.replace(threads=number)


def own_validation(stored):
    """Tells whether a run is to use a validation split of the data set's own: a new one is, one that goes on as begun.

    Args:
      stored: what config.json of the run holds, None for a new run.
    """
    return not stored or stored["data"].get("validation_from") == DATA_SET


def start(config, echo, cluster=None, settings="", stored=None):
    """Sets the process up and loads the data; returns (strategy, Source).

    Args:
      config: ExperimentConfig.
      echo: takes lines for the user, one a call.
      cluster: pipeline.workers.cluster.Cluster where several workers train together, or None.
      settings: text that has to be the same on every worker.
      stored: what config.json of a run that goes on holds, or None.
    """
    with activity(f"{STARTING} and meeting the other workers" if cluster else STARTING, echo):
        from pipeline import runtime
        strategy = runtime.start(config.runtime, config.training, config.optimizer, echo, cluster=cluster,
                                 settings=settings)
        from pipeline.data.load import load as load_data
    return strategy, load_data(config.data, config.training.batch_size, config.training.seed, echo,
                               own_validation(stored))


def assemble(config, source, strategy, stored=None, begins=None):
    """Returns the Experiment; its first weights are those of the seed, whatever a user's data set has drawn before."""
    import keras

    from pipeline import experiment as experiments
    keras.utils.set_random_seed(config.training.seed)
    return experiments.build(config, source, strategy, stored, begins)

