"""Checks of a configuration that concern several options, and of values with a syntax of their own.

Standard library only.
"""
import dataclasses
import re
from collections.abc import Mapping
from typing import Any

from pipeline.augmentation import Augmentation, augmentations
from pipeline.choices import AUGMENTATIONS, LOSSES, MODELS, OPTIMIZERS, LossRow, OptimizerRow, parse_loss
from pipeline.errors import UsageError
from pipeline.finetuning import check_finetuning
from pipeline.options import Interval, parse_class_weight, parse_fold, profiled_steps
from pipeline.preprocessing import RESIZED_CROP, check_normalize, check_resize
from pipeline.registry import Registry

# Options of --schedule, with their defaults and the schedules that have them.
OF_SCHEDULES = {"min_learning_rate": (0.0, ("cosine", "linear", "polynomial")), "restarts": (0, ("cosine",)),
                "restart_growth": (1.0, ("cosine",)), "polynomial_power": (2.0, ("polynomial",)),
                "step_decay_every": ("0", ("step",))}
OF_OPTIMIZERS = ("momentum", "nesterov", "beta1", "beta2", "epsilon")
# What had no effect with these optimizers was accepted before, so runs may have been begun with it.
IGNORED_BEFORE = {"momentum": ("adam", "adamw", "lamb", "lion"), "nesterov": ("adam", "adamw", "lamb", "lion")}


def check_names(values: Mapping[str, Any], options: Mapping[str, dataclasses.Field]) -> None:
    """Checks names against their tables, where no extension may still add to them.

    Args:
      values: {option name: value} of a configuration.
      options: {option name: its field}.

    Raises:
      UsageError: an unknown name.
    """
    for name, field in options.items():
        table = field.metadata["choices"]
        if isinstance(table, Registry):
            for one in values[name] if field.metadata["many"] else (values[name],):
                table.find(one, f"--{name}")
    for text in values["augment"]:
        AUGMENTATIONS.find(Augmentation.parse(text).name)
    LOSSES.find(values["loss"].partition(":")[0], "--loss")


def check_together(config: Any) -> None:
    """Checks combinations of options, and the syntax of values, of an ExperimentConfig.

    Raises:
      UsageError: it names the flag, the value and what would work.
    """
    check_optimizer(config.optimizer, begun=True)
    _check_loss(config.optimizer)
    _check_schedule(config.optimizer)
    _check_images(config.data)
    parse_class_weight(config.data.class_weight)
    if config.data.fold and parse_fold(config.data.fold) and config.data.validation_split:
        raise UsageError(f"--fold={config.data.fold} and --validation_split={config.data.validation_split:g} both hold "
                         "out a part of training: give one")
    model = MODELS.get(config.model.model)
    if model and not model.location:  # A user's may have declared another range when the run began.
        check_normalize(config.model.model, model.row.input_range, config.data.normalize)
    check_finetuning(config.model.freeze, config.model.unfreeze_at, config.optimizer.rewarmup,
                     config.model.frozen_batch_norm, config.optimizer.lr_multipliers)
    _check_intervals(config)
    _check_lists(config)
    training, parts = config.training, config.optimizer.accumulate_steps
    if config.optimizer.average_last and training.early_stopping_patience:
        raise UsageError(f"--average_last={config.optimizer.average_last} is of the last epochs of the run, which "
                         f"--early_stopping_patience={training.early_stopping_patience} may not reach: give one")
    if training.epochs is not None and training.steps is not None:
        raise UsageError(f"--epochs={training.epochs:g} and --steps={training.steps} both set the length: give one")
    if training.batch_size % parts:
        raise UsageError(f"--batch_size={training.batch_size} does not divide by {parts} micro-batches "
                         "(--accumulate_steps)")


def check_optimizer(optimizer: Any, begun: bool = False) -> None:
    """Checks that the optimizer of an OptimizerConfig takes the options that were given.

    `begun`: whether the run may have been begun by a version that ignored some.

    Raises:
      UsageError: it names what the optimizer takes.
    """
    row, name = OPTIMIZERS.get(optimizer.optimizer), optimizer.optimizer
    taken = row.options if isinstance(row, OptimizerRow) else {}
    for option in OF_OPTIMIZERS if row else ():
        value, unset = getattr(optimizer, option), {"nesterov": False, "momentum": 0.9}.get(option)
        if option in taken or value == unset or (begun and name in IGNORED_BEFORE.get(option, ())):
            continue
        takes = ", ".join(f"--{one}" for one in taken) or "none of these options"
        raise UsageError(f"--{option}={value:g}: the optimizer {name} takes {takes}")
    if isinstance(row, OptimizerRow) and row.averages and optimizer.beta1 == 0:
        raise UsageError(f"--beta1 must be above 0 for {name}, whose average it makes; found 0")
    own = isinstance(row, OptimizerRow) and row.averages
    for option in ("ema_decay", "average_last"):
        if own and getattr(optimizer, option):
            raise UsageError(f"--{option}={getattr(optimizer, option):g}: {name} keeps an average of the weights of "
                             "its own: leave it out")
    if optimizer.ema_decay and optimizer.average_last:
        raise UsageError(f"--ema_decay={optimizer.ema_decay:g} and --average_last={optimizer.average_last} are two "
                         "averages of the weights: give one")


def _check_loss(optimizer):
    """Checks the number of a built-in loss, and that label smoothing is of one."""
    if isinstance(LOSSES.get(optimizer.loss.partition(":")[0]), LossRow):
        parse_loss(optimizer.loss)
    elif optimizer.label_smoothing:
        raise UsageError(f"--label_smoothing={optimizer.label_smoothing:g} belongs to the built-in losses; --loss="
                         f"{optimizer.loss} takes the labels as they are")


def _check_schedule(optimizer):
    """Checks that options of a schedule go with it."""
    for name, (default, schedules) in OF_SCHEDULES.items():
        value = getattr(optimizer, name)
        if value != default and optimizer.schedule not in schedules:
            shown = value if isinstance(value, str) else f"{value:g}"
            raise UsageError(f"--{name}={shown} belongs to --schedule={' or '.join(schedules)}; found --schedule="
                             f"{optimizer.schedule}")
    if optimizer.min_learning_rate > optimizer.learning_rate:
        raise UsageError(f"--min_learning_rate={optimizer.min_learning_rate:g} is above the learning rate of "
                         f"{optimizer.learning_rate:g}")


def _check_images(data):
    """Checks how images are resized and augmented."""
    check_resize(data.resize)
    names = [a.name for a in augmentations(data)]
    if RESIZED_CROP in names[1:]:
        raise UsageError(f"--augment={','.join(data.augment)}: {RESIZED_CROP} is part of decoding, and comes first")


def _check_intervals(config):
    """Checks lengths and intervals."""
    profiled_steps(config.runtime.profile)
    Interval.parse("warmup", config.optimizer.warmup)
    Interval.parse("step_decay_every", config.optimizer.step_decay_every)
    Interval.parse("histograms_every", config.runtime.histograms_every)
    every = Interval.parse("evaluate_every", config.training.evaluate_every)
    saved = Interval.parse("checkpoint_every", config.training.checkpoint_every, ("steps", "epochs", "seconds"))
    for name, interval in (("evaluate_every", every), ("checkpoint_every", saved)):
        if interval.amount <= 0:
            raise UsageError(f"--{name} must be more than 0; found {interval.amount:g}")


def _check_lists(config):
    """Checks the elements of lists."""
    for text in config.optimizer.step_decay_at:
        try:
            inside = 0 < float(text) < 1
        except ValueError:
            inside = False
        if not inside:
            raise UsageError(f"--step_decay_at must be parts of the run between 0 and 1; found '{text}'")
    for text in config.model.model_options:
        if not re.fullmatch(r"[a-z_0-9]+=.+", text):
            raise UsageError(f"--model_options must be name=value; found '{text}'")
    for text in config.runtime.devices:
        if not text.isdigit():
            raise UsageError(f"--devices must be indices of GPUs such as 0,2; found '{text}'")
