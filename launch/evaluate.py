"""mirrorline evaluate: judges the model of a run on the test split, every example counted exactly once."""
import json

from absl import flags as absl_flags

import flags
from pipeline.config import ExperimentConfig
from pipeline.errors import UsageError
from pipeline.training import run_directory

READS = 5  # Of checkpoints that a training beside replaces faster than they are read.
SUMMARY = "evaluate a trained model on the test split"
GROUPS = ()
ONLY = ("workdir", "dataset", "model", "data_dir", "batch_size", "replicas", "devices", "force", "verbosity")


def define(flag_values):
    """Defines the flags that only evaluation has."""
    absl_flags.DEFINE_string("checkpoint", "newest", "newest, best, a step (270), or a path without suffix",
                             flag_values=flag_values)
    absl_flags.DEFINE_enum("split", "test", ["test", "validation", "train"], "part of the data",
                           flag_values=flag_values)
    absl_flags.DEFINE_bool("ema", False, "evaluate the moving average of the weights (--ema_decay in training)",
                           flag_values=flag_values)


def merged(stored, given):
    """Returns the run's configuration with the options given for this evaluation.

    Raises:
      UsageError: an option that only training can set was given another value.
    """
    values = dict(stored["config"])
    for name, value in given.items():
        if name in ("dataset", "model") and value != values[name]:
            raise UsageError(f"--{name}={value}: the run in this workdir was trained with {values[name]}")
        values[name] = value
    # Evaluation computes the same whatever the training step was made of.
    return ExperimentConfig.from_flat({**values, "accumulate_steps": 1, "xla": "auto",
                                       "cross_device_reduction": "auto"})


def read_checkpoint(store, directory, name):
    """Reads a checkpoint into the store's state; returns it. A training beside may remove one as it is read."""
    from pipeline.training.stored_checkpoint import find_checkpoint
    for attempt in range(READS):
        checkpoint = find_checkpoint(directory, name)
        try:
            store.read(checkpoint)
            return checkpoint
        except Exception:
            if attempt + 1 == READS or not checkpoint.gone:
                raise


def run(config, flag_values):
    """Runs the command; returns the exit code."""
    given = flags.given_options(flag_values)
    workdir = config.runtime.workdir or run_directory.default_path(config)
    directory, stored = run_directory.stored_config(workdir)
    config = merged(stored, given)
    if flag_values.ema and not config.optimizer.ema_decay:
        raise UsageError("--ema: this run kept no moving average of the weights; train with --ema_decay=0.999")

    from launch import runtime
    from pipeline.training.stored_checkpoint import find_checkpoint
    find_checkpoint(directory.file("checkpoints"), flag_values.checkpoint)  # Before the long way to its use.
    echo = print if config.runtime.verbosity != "quiet" else (lambda text: None)
    strategy = runtime.start(config.runtime, config.training, config.optimizer, echo, share_batch=False)
    from pipeline import experiment as experiments
    from pipeline.data.load import load
    from pipeline.training.checkpoint import CheckpointStore
    source = load(config.data, stored["config"]["batch_size"], config.training.seed, echo)
    if source.fingerprint != stored["data"]["fingerprint"]:
        raise UsageError(f"the data of {source.name} is not what this run was trained on (fingerprint "
                         f"{source.fingerprint[:12]}, then {stored['data']['fingerprint'][:12]}): give its --data_dir")
    split = {"test": source.test, "validation": source.validation, "train": source.train}[flag_values.split]
    if split is None:
        raise UsageError("--split=validation: this run held nothing out (--validation_split); use --split=test")
    experiment = experiments.build(config, source, strategy, stored)
    store = CheckpointStore(directory.file("checkpoints"), experiment.state, 1)
    checkpoint = read_checkpoint(store, directory.file("checkpoints"), flag_values.checkpoint)
    if flag_values.ema:
        experiment.state.use_ema()
    figures = experiment.evaluate(split)
    echo(f"{directory.path} at step {checkpoint.step} on {split.name}: accuracy {figures['accuracy']:.4%}, loss "
         f"{figures['loss']:.6f}, {figures['examples']:,} examples")
    if config.runtime.verbosity == "quiet":
        print(json.dumps({"step": checkpoint.step, "split": split.name, **figures}))
    return 0
