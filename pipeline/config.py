"""The configuration of an experiment: validated frozen dataclasses. Standard library only.

Every field is a flag of the same name (flags/ builds the command line from this table), so a field has all that a flag
needs: default, help, unit, range, choices, and whether a run may be resumed with another value.
"""
import dataclasses
import functools
import types
import typing
from collections.abc import Mapping
from typing import Any

from pipeline import extension
from pipeline.callbacks import CALLBACKS
from pipeline.choices import AUGMENTATIONS, DATASETS, LOSSES, METRICS, MODELS, OPTIMIZERS, OptimizerRow, defaults_of
from pipeline.config_checks import check_names, check_together
from pipeline.derived_options import default_momentum, with_last_size, with_momentum, with_one_clip, with_scaled_rate
from pipeline.errors import unknown_name
from pipeline.options import FREE, NEVER, Options, check_option, option, parse_fold

DEFAULT_EPOCHS = 10.0
PRECISIONS, AUTO = ("float32", "mixed_float16", "mixed_bfloat16", "float64"), "auto"
# The weights that evaluations, the best checkpoint and the final metrics of a run use.
AS_TRAINED, MOVING_AVERAGE = "as trained", "moving average of the weights"


@dataclasses.dataclass(frozen=True)
class DataConfig(Options):
    """Data and augmentation."""

    dataset: str = option("digits", "data set: a name of TensorFlow Datasets (mnist, cifar10, ...), or one of these or "
                                    "of an --extension", added=DATASETS, path=True)
    data_dir: str | None = option(None, "folder of prepared TensorFlow Datasets; default ~/tensorflow_datasets",
                           resume=FREE, path=True)
    columns: tuple[str, ...] = option((), "columns of a table, where they have none of their usual names: "
                                          "path:COLUMN,label:COLUMN,split:COLUMN,group:COLUMN", many=True)
    image_root: str | None = option(None, "folder that the paths in a table are relative to; default the table's own",
                                    resume=FREE, path=True)
    image_size: int | None = option(None, "height and width that images are resized to; needed where they differ in "
                                          "size", unit="pixels", low=1)
    image_sizes: tuple[str, ...] = option((), "sizes of training images, each from a part of the run on, ascending: "
                                              "160@0,192@0.6; everything else uses the last", many=True, unit="pixels")
    resize: str | None = option(None, "how images become square: stretch; crop[:PART], the centre, whose side is this "
                                      "part of the shorter one; pad, with black; default stretch, with "
                                      "--augment=resized_crop in evaluation crop:0.875")
    eval_image_size: int | None = option(None, "height and width of images in evaluation, prediction and exports; "
                                               "default as in training", unit="pixels", low=1)
    interpolation: str = option("bilinear", "how images are resized", choices=("bilinear", "bicubic"))
    validation_split: float = option(0.0, "part of the training split held out to select the checkpoint, if the "
                                          "data set has no validation split of its own",
                                     low=0.0, below=1.0)
    fold: str | None = option(None, "hold out one of equal parts of training instead: 2/5, the second of five")
    subset: int = option(0, "use only this many batches of each split, to try a run; 0: all", unit="batches", low=0)
    augment: tuple[str, ...] = option((), "augmentations in order of application, each name or name:strength (crop:3)",
                                      added=AUGMENTATIONS, many=True)
    augment_on: str = option("auto", "where images of a stream are augmented, with the same numbers: host (while the "
                                     "step computes), device (inside the step); auto: on GPUs inside the step",
                             choices=("auto", "host", "device"), resume=FREE)
    normalize: str = option("none", "images in [0, 1] (none), or normalized by the training split's mean and std "
                                    "(per_channel)", choices=("none", "per_channel"))
    class_weight: str = option("none", "weight of each class in the loss; balanced[:POWER]: inverse to its frequency")
    memory_budget: int = option(2048, "data sets up to this size are kept in memory, larger ones are streamed",
                                unit="MiB", low=0)
    skip_unreadable: bool = option(False, "continue without unreadable images, and report how many", resume=FREE)
    cache: str = option("host", "where a data set that fits into memory is kept: host (batches are made outside the "
                                "step) or device (inside it)", choices=("host", "device"), resume=FREE)
    cache_dir: str | None = option(None, "folder for indexes of data sets; default ~/.cache/mirrorline", resume=FREE,
                                   path=True)
    extension: tuple[str, ...] = option((), "Python files (my_models.py) or modules that register your own models, "
                                            "data sets and more; a run stores their checksums", many=True, resume=FREE)

    @property
    def held_out(self) -> float | tuple[int, int]:
        """What is held out of the training split: a share of it, 0 for nothing, or (number, parts) of a fold."""
        return parse_fold(self.fold) if self.fold else self.validation_split


@dataclasses.dataclass(frozen=True)
class ModelConfig(Options):
    """The network."""

    model: str = option("cnn", "model", added=MODELS, resume=NEVER)
    model_options: tuple[str, ...] = option((), "arguments of the model, each name=value", many=True, resume=NEVER)
    batch_norm_momentum: float = option(0.9, "momentum of the moving statistics, bias-corrected", above=0.0, below=1.0)
    sync_batch_norm: bool = option(True, "batch statistics over all replicas, so that N compute what one does; "
                                   "off: of each replica (faster)")
    freeze: tuple[str, ...] = option((), "layers and weights that are not trained, by patterns of their names: "
                                         "block1,*/norm; backbone: all but the last layer", many=True, resume=NEVER)
    unfreeze_at: tuple[str, ...] = option((), "when what --freeze froze begins to train: 2epochs or 300 (steps), or by "
                                              "patterns of names: block3@1epoch,all@3epochs", many=True, resume=NEVER,
                                          unit="steps or epochs")
    frozen_batch_norm: str = option("inference", "frozen batch normalization uses its moving statistics (inference), "
                                                 "or the batch's, and updates the moving ones (train)",
                                    choices=("inference", "train"))


@dataclasses.dataclass(frozen=True)
class OptimizerConfig(Options):
    """Loss, optimizer and regularization."""

    optimizer: str = option("adam", "optimizer", choices=OPTIMIZERS, resume=NEVER)
    loss: str = option("cross_entropy", "loss of an example: name or name:number", added=LOSSES)
    learning_rate: float = option(1e-3, "peak learning rate, for the global batch", above=0.0)
    base_learning_rate: float | None = option(None, "instead of --learning_rate: the rate for --base_batch_size, "
                                                    "scaled to --batch_size", above=0.0)
    base_batch_size: int = option(256, "batch size of --base_learning_rate", unit="examples", low=1)
    schedule: str = option("constant", "learning rate over the run",
                           choices=("constant", "cosine", "linear", "polynomial", "step", "one-cycle"))
    min_learning_rate: float = option(0.0, "schedule=cosine, linear or polynomial: the rate at the end", low=0.0)
    restarts: int = option(0, "schedule=cosine: restarts from the peak over the run", low=0, high=100)
    restart_growth: float = option(1.0, "schedule=cosine: length of a cycle over that of the one before", low=1.0)
    polynomial_power: float = option(2.0, "schedule=polynomial: power of the share of the run that is left", above=0.0)
    warmup: str = option("0", "linear warm-up from 0: steps (100) or epochs (1epoch)", unit="steps or epochs")
    rewarmup: str = option("0", "linear warm-up from 0 after each point of --unfreeze_at: steps (100) or epochs "
                                "(1epoch)", unit="steps or epochs")
    step_decay_at: tuple[str, ...] = option(("0.5", "0.75"), "schedule=step: parts of the run after which the rate "
                                                             "drops", many=True)
    step_decay_every: str = option("0", "schedule=step: a drop each so many steps (100) or epochs (2.4epochs), from "
                                        "the start of the run, in place of --step_decay_at", unit="steps or epochs")
    step_decay_factor: float = option(0.1, "schedule=step: factor of the rate at each drop", above=0.0, high=1.0)
    momentum: float | None = option(None, f"momentum; default {defaults_of('momentum')}", low=0.0, below=1.0)
    nesterov: bool = option(False, "Nesterov momentum for sgd")
    beta1: float | None = option(None, "decay of the mean of the gradients; default " + defaults_of("beta1"), low=0.0,
                                 below=1.0)
    beta2: float | None = option(None, "decay of the mean of their squares; default " + defaults_of("beta2"), low=0.0,
                                 below=1.0)
    epsilon: float | None = option(None, "bound of the divisor; default " + defaults_of("epsilon"), above=0.0)
    weight_decay: float = option(0.0, "decoupled weight decay; not on biases and normalization", low=0.0)
    decay_all: bool = option(False, "decay biases and normalization too")
    weight_decay_exclude: tuple[str, ...] = option((), "more weights without decay, by patterns of names: head,*/scale",
                                                   many=True)
    layer_decay: float = option(1.0, "factor of the learning rate from each block to the one before it; the head has "
                                     "the full rate", above=0.0, high=1.0)
    lr_multipliers: tuple[str, ...] = option((), "factors of the learning rate by patterns of names, the last match "
                                                 "counts: backbone=0.1,stem=0; 0 freezes", many=True, resume=NEVER)
    l2: float = option(0.0, "L2 penalty added to the loss: l2 * sum(w^2) over kernels", low=0.0)
    label_smoothing: float = option(0.0, "share of the label spread over all classes", low=0.0, below=1.0)
    clip: str | None = option(None, "clip the reduced gradients: norm:1, their global norm; agc:0.01, that of each "
                                    "output of a layer in proportion to its weights, without the last layer")
    clip_norm: float = option(0.0, "as --clip=norm:NUMBER; 0: off", low=0.0)
    ema_decay: float = option(0.0, "decay of an exponential moving average of the weights, which evaluations, the "
                              "best checkpoint, predictions and exports then use; 0: none", low=0.0,
                              below=1.0)
    average_last: int = option(0, "mean of the weights at the ends of the last epochs, which is then used like that of "
                                  "--ema_decay; until their first it is the weights; 0: none", low=0, unit="epochs")
    accumulate_steps: int = option(1, "micro-batches per step: the batch is computed in this many parts", low=1,
                                   unit="micro-batches")


@dataclasses.dataclass(frozen=True)
class TrainingConfig(Options):
    """Length, intervals, checkpoints and divergence."""

    epochs: float | None = option(None, "length of the run; default 10 if --steps is not given", unit="epochs",
                                  above=0.0)
    steps: int | None = option(None, "length of the run, instead of --epochs", unit="steps", low=1)
    batch_size: int = option(64, "examples of one optimizer step, over all replicas and micro-batches",
                             unit="examples", low=1, resume=NEVER)
    early_stopping_patience: int = option(0, "stop after this many evaluations without a better one; 0: never; "
                                             "holds out 10% of training if no validation split", low=0,
                                          unit="evaluations")
    initialize_from: str | None = option(None, "weights to start from: imagenet for those that Keras publishes, a "
                                               ".keras or .h5 file, a SavedModel's folder or a run's directory; the "
                                               "last layer may have another number of classes", path=True)
    best_metric: str = option("accuracy", "metric that selects the best checkpoint", choices=("accuracy", "loss"))
    metrics: tuple[str, ...] = option((), "more metrics that evaluations compute, of an --extension", many=True,
                                      choices=METRICS, resume=FREE)
    callbacks: tuple[str, ...] = option((), "callbacks of an --extension, called after the built-in ones in this order",
                                        many=True, choices=CALLBACKS, resume=FREE)
    evaluate_every: str = option("1epoch", "interval of evaluations: 100 (steps), 1epoch", unit="steps or epochs")
    checkpoint_every: str = option("1epoch", "interval of checkpoints: 100 (steps), 1epoch, 30s",
                                   unit="steps, epochs or seconds", resume=FREE)
    keep_checkpoints: int = option(3, "number of latest checkpoints to keep", low=1, unit="checkpoints",
                                   resume=FREE)
    steps_per_loop: int = option(0, "steps per host call; 0: adapts to about a second", low=0, unit="steps",
                                 resume=FREE)
    seed: int = option(0, "seed of weights, order, augmentation and dropout", low=0, high=2**31 - 1)
    on_divergence: str = option("rollback", "when the loss has diverged: stop, roll back to the last good "
                                            "checkpoint with a lower learning rate, or ignore it",
                                choices=("stop", "rollback", "ignore"), resume=FREE)
    loss_limit: float = option(0.0, "a step with a loss above this has diverged; 0: only a non-finite one",
                               low=0.0, resume=FREE)
    divergence_steps: int = option(10, "diverged steps in a row after which --on_divergence acts", low=1, unit="steps",
                                   resume=FREE)
    rollback_factor: float = option(0.5, "factor of the learning rate at a rollback", above=0.0, high=1.0,
                                    resume=FREE)
    max_rollbacks: int = option(3, "rollbacks after which a divergence ends the run", low=0, unit="rollbacks",
                                resume=FREE)


@dataclasses.dataclass(frozen=True)
class RuntimeConfig(Options):
    """Hardware, output and logging."""

    workdir: str | None = option(None, "directory of the run; default runs/<dataset>-<model>", resume=FREE, path=True)
    precision: str = option("float32", "arithmetic; float64 is for tests; auto: as the run began, at first "
                                       "mixed_bfloat16 on GPUs of compute capability 8.0 and later, mixed_float16 on "
                                       "7.0 and 7.5, else float32", choices=(*PRECISIONS, AUTO))
    tf32: bool = option(True, "float32 products and convolutions in TensorFloat-32 on GPUs of compute capability 8.0 "
                              "and later: faster, with 10 bits of 23; on, as TensorFlow's default")
    replicas: int = option(0, "replicas; 0: every GPU, or one CPU", low=0, high=64, unit="replicas", resume=FREE)
    threads: int = option(0, "threads of an operation on the CPU: the same number gives the same bits; 0: as the run "
                             "began, at first the cores of this process",
                          unit="threads", low=0, high=4096, resume=FREE)
    onednn: str = option("auto", "oneDNN on CPUs, with other bits; auto: as the run began, at first where it is faster "
                                 "(measured once a machine)", choices=("auto", "on", "off"),
                         resume=FREE)
    devices: tuple[str, ...] = option((), "indices of the GPUs to use, e.g. 0,2; default all", many=True, resume=FREE)
    cross_device_reduction: str = option("auto", "how gradients are summed over replicas; auto: TensorFlow's choice",
                                         choices=("auto", "nccl", "hierarchical", "tree"), resume=FREE)
    reduction_bucket_mb: float = option(0.0, "gradients are reduced in buckets of this size, which on several GPUs "
                                             "may overlap with the backward pass; 0: all at once", unit="MiB", low=0.0,
                                        resume=FREE)
    hang_timeout: float = option(1800.0, "without a finished step for this long the run writes the stacks of its "
                                         "threads and ends; 0: never", unit="seconds", low=0.0, resume=FREE)
    save_timeout: float = option(600.0, "if writing a checkpoint takes longer than this, the run ends as with "
                                        "--hang_timeout; 0: never", unit="seconds", low=0.0, resume=FREE)
    listen: str = option("address", "several workers: TensorFlow listens at the worker's own address or on all "
                                    "interfaces of its machine", choices=("address", "all"), resume=FREE)
    start_timeout: float = option(600.0, "several workers: without all others for this long a worker gives up (exit "
                                         "code 76) and names the missing ones; 0: never", unit="seconds",
                                  low=0.0, resume=FREE)
    gpu_thread_mode: str = option("global", "threads that start the operations of GPUs: TensorFlow's common ones "
                                            "(global), some of each GPU's own (private) or some for all GPUs (shared)",
                                  choices=("global", "private", "shared"), resume=FREE)
    prefetch_to_device: int = option(1, "batches that are sent to each GPU ahead", unit="batches", low=1, high=1000,
                                     resume=FREE)
    deterministic: bool = option(False, "deterministic operations on GPUs (on CPUs they always are)", resume=FREE)
    xla: str = option("auto", "compile the step's core with XLA; auto: as the run began, at first on GPUs where it "
                              "is faster (measured), on CPUs off", choices=("auto", "on", "off"))
    profile: str | None = option(None, "range of steps to profile, from:to (100:120): a trace for TensorBoard's "
                                       "profiler and a table of the most expensive operations", resume=FREE)
    histograms_every: str = option("0", "interval of histograms of weights and gradients for TensorBoard: 100 (steps), "
                                        "1epoch; 0: none", unit="steps or epochs", resume=FREE)
    tensorboard: str = option("full", "what is written for TensorBoard: full (images, graph, embeddings too) or "
                                      "scalars", choices=("full", "scalars"), resume=FREE)
    force: bool = option(False, "continue where a warning would stop the run", resume=FREE)
    allow: tuple[str, ...] = option((), "settings that may differ from those of the run in the workdir", many=True,
                                    resume=FREE)
    verbosity: str = option("normal", "log verbosity", choices=("quiet", "normal", "debug"), resume=FREE)


@dataclasses.dataclass(frozen=True)
class ExperimentConfig:
    """All settings of a run, validated when it is made: a UsageError names the flag, the value and what would work."""

    data: DataConfig = DataConfig()
    model: ModelConfig = ModelConfig()
    optimizer: OptimizerConfig = OptimizerConfig()
    training: TrainingConfig = TrainingConfig()
    runtime: RuntimeConfig = RuntimeConfig()

    def __post_init__(self) -> None:
        object.__setattr__(self, "data", with_last_size(self.data))
        object.__setattr__(self, "optimizer", with_one_clip(with_momentum(with_scaled_rate(
            self.optimizer, self.training.batch_size, OptimizerConfig.learning_rate))))
        for group in self.groups():
            for field in dataclasses.fields(group):
                check_option(field, getattr(group, field.name))
        if not (self.data.extension or extension.is_offered()):  # Else names are checked after it is loaded.
            check_names(self.flat(), options())
        check_together(self)

    def groups(self) -> list[Any]:
        """Returns the groups in the order of --help."""
        return [getattr(self, field.name) for field in dataclasses.fields(self)]

    def flat(self) -> dict[str, Any]:
        """Returns {option name: value} over all groups: JSON types and tuples."""
        return {field.name: getattr(group, field.name) for group in self.groups()
                for field in dataclasses.fields(group)}

    @classmethod
    def from_flat(cls, values: Mapping[str, Any]) -> "ExperimentConfig":
        """Builds a configuration from {option name: value}; names left out keep their defaults.

        Raises:
          UsageError: an unknown name, or a value out of its range.
        """
        known = {f.name for group in GROUPS.values() for f in dataclasses.fields(group)}
        for name in values:
            if name not in known:
                raise unknown_name("option", name, known)
        parts = {}
        for group_name, group in GROUPS.items():
            given = {f.name: values[f.name] for f in dataclasses.fields(group) if f.name in values}
            for f in dataclasses.fields(group):
                if f.name in given:
                    given[f.name] = _as_kept(f, given[f.name])
            parts[group_name] = group(**given)
        return cls(**parts)

    def replace(self, **values: Any) -> "ExperimentConfig":
        """Returns a copy with options replaced by name."""
        before = self.flat()
        if before["base_learning_rate"] is not None:
            before.pop("learning_rate")  # It follows from the others.
        if before["image_sizes"]:
            before.pop("image_size")  # It is the last of them.
        if before["momentum"] == default_momentum(before["optimizer"]):
            before.pop("momentum")  # It follows from the optimizer.
        for name, other in (("clip", "clip_norm"), ("clip_norm", "clip")):
            if name in values and other not in values:
                before.pop(other)
        return ExperimentConfig.from_flat({**before, **values})


GROUPS = {"data": DataConfig, "model": ModelConfig, "optimizer": OptimizerConfig, "training": TrainingConfig,
          "runtime": RuntimeConfig}


def _as_kept(field: dataclasses.Field, value: Any) -> Any:
    """Returns a value as config.json stores it: from Python a list may be any sequence, and an interval a number."""
    if field.metadata["many"]:
        return tuple(value)
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    return str(value) if number and value_type(field) is str else value


@functools.cache  # Every command asks hundreds of times.
def options() -> Mapping[str, dataclasses.Field]:
    """Returns {option name: dataclasses.Field} over all groups, in order."""
    return types.MappingProxyType({f.name: f for group in GROUPS.values() for f in dataclasses.fields(group)})


def defaults() -> dict[str, Any]:
    """Returns {option name: its value in a run without flags}; of one that follows from others it is what follows."""
    return ExperimentConfig().flat()


def value_type(field: dataclasses.Field) -> Any:
    """Returns the Python type of an option: str, int, float, bool, or tuple for a list."""
    hint = _hints()[field]
    if isinstance(hint, types.UnionType):  # Of a type with None.
        hint, _ = typing.get_args(hint)
    return typing.get_origin(hint) or hint


@functools.cache
def _hints() -> dict[dataclasses.Field, Any]:
    """Returns {field of an option: its annotation, evaluated}."""
    return {field: hints[field.name] for group in GROUPS.values() for hints in [typing.get_type_hints(group)]
            for field in dataclasses.fields(group)}


def keeps_average(optimizer: OptimizerConfig) -> bool:
    """Tells whether a run keeps an average of the weights beside them."""
    row = OPTIMIZERS.get(optimizer.optimizer)
    return bool(optimizer.ema_decay or optimizer.average_last or (isinstance(row, OptimizerRow) and row.averages))
