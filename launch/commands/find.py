"""mirrorline find: the learning rate or the batch size for a training, found by a few steps of it."""
import json
import sys
from collections.abc import Mapping
from typing import Any

from absl import flags as absl_flags

import flags
from pipeline import onednn, runs
from pipeline.augmentation import check_place, check_strengths
from pipeline.config import ExperimentConfig
from pipeline.config_checks import check_optimizer
from pipeline.errors import RunFailure, UsageError
from pipeline.options import Interval
from pipeline.quantities import counted
from pipeline.run_directory import RunDirectory

# Imports inside functions: `--help` and wrong usage answer without TensorFlow.

SUMMARY = "find the learning rate for a training, by a few steps of it; nothing of a run is touched"
PLACE = 55
GROUPS = ("data", "model", "optimizer", "training", "runtime")
SETTINGS = ("learning_rate",)
FEWEST_STEPS, MOST_STEPS = 20, 100_000


def define(flag_values: absl_flags.FlagValues) -> None:
    """Defines the flags of this command alone."""
    absl_flags.DEFINE_multi_enum("find", [], SETTINGS, "the setting to find; --learning_rate without a value is short "
                                 "for it", flag_values=flag_values)
    absl_flags.DEFINE_float("lowest", 1e-7, "learning rate of the first step", flag_values=flag_values)
    absl_flags.DEFINE_float("highest", 10.0, "learning rate of the last step, to which it rises exponentially",
                            flag_values=flag_values)
    absl_flags.DEFINE_integer("find_steps", 100, "steps from --lowest to --highest", lower_bound=FEWEST_STEPS,
                              upper_bound=MOST_STEPS, flag_values=flag_values)
    flags.define_path("plot", None, "draw the losses over the learning rate into this file: .png, .pdf or .svg",
                      flag_values)


def run(config: ExperimentConfig, flag_values: absl_flags.FlagValues) -> int:
    """Runs the command; returns the exit code.

    Raises:
      UsageError: options that a training would refuse too, or a directory with a run; nothing was changed.
      RunFailure: nothing can be suggested.
    """
    if len(flag_values.find) != 1:
        raise UsageError("give the setting to find, one at a time: 'mirrorline find --learning_rate', with the flags "
                         f"of the training; found {' and '.join(f'--{name}' for name in flag_values.find) or 'none'}")
    check_training(config)
    return find_learning_rate(config, flag_values)


def check_training(config: ExperimentConfig) -> None:
    """Raises UsageError for options that a new training would refuse, or for the directory of a run."""
    check_strengths(config.data.augment)
    check_place(config.data)
    check_optimizer(config.optimizer)
    if config.runtime.workdir and RunDirectory(config.runtime.workdir).config:
        raise UsageError(f"--workdir={config.runtime.workdir} holds a run, which is left alone: find begins as a new "
                         f"training does; leave --workdir out, or begin from the weights of the run with "
                         f"--initialize_from={config.runtime.workdir}")


def find_learning_rate(config: ExperimentConfig, flag_values: absl_flags.FlagValues) -> int:
    """Runs the range test and prints its curve and what it suggests; returns the exit code."""
    lowest, highest, steps, plot = (getattr(flag_values, name) for name in ("lowest", "highest", "find_steps", "plot"))
    if not 0 < lowest < highest < 1e30:
        raise UsageError(f"--lowest={lowest:g} --highest={highest:g}: give learning rates above 0, the lowest first")
    if plot:
        from pipeline.models.drawing import check_path
        check_path(plot)
    config, console = runs.resolve(config), runs.console_for(config)
    onednn.choose(config.runtime.onednn, console, cache_dir=config.data.cache_dir)
    experiment = runs.build(config, console)
    from pipeline.activity import activity
    from pipeline.finding import curve as curves
    from pipeline.finding.range_test import range_test
    from pipeline.finding.suggestions import falls_not, suggest
    console.info(f"find    learning rate: {lowest:g} to {highest:g} in {steps} steps of "
                 f"{counted(config.training.batch_size, 'example')}, {config.optimizer.optimizer}, "
                 f"{counted(experiment.strategy.num_replicas_in_sync, 'replica')}")
    with activity("the range test", console, steps) as doing:
        curve = range_test(experiment, lowest, highest, steps, lambda done: doing.advance())
    suggested = suggest(curve)
    if plot and len(curve.losses):
        curves.draw(curve, suggested, f"{config.model.model}, {config.data.dataset}, {config.optimizer.optimizer}, "
                    f"batch of {config.training.batch_size:,}", plot)
    print_found(config, curve, suggested, plot)
    problem = falls_not(curve)
    if problem:
        raise RunFailure(f"no learning rate can be suggested: {problem}")
    return 0


def print_found(config: ExperimentConfig, curve: Any, suggested: Mapping[str, int], plot: str | None) -> None:
    """Prints a RangeCurve and what it suggests; where it is to be quiet, one line of JSON."""
    from pipeline.console_table import open_console, print_rows
    from pipeline.finding import curve as curves
    from pipeline.finding.suggestions import MEANINGS, rounded
    rates = {name: rounded(float(curve.rates[step])) for name, step in suggested.items()}
    warms_up = config.optimizer.schedule == "one-cycle" or Interval.parse("warmup", config.optimizer.warmup).amount > 0
    given = f"--learning_rate={rates['steepest' if warms_up else 'valley']:g}" if rates else None
    if config.runtime.verbosity == "quiet":
        print(json.dumps({"flags": given, "suggestions": rates, "diverged": curve.diverged or None,
                          "batch_size": config.training.batch_size, "learning_rates": curve.rates.tolist(),
                          "losses": curve.losses.tolist(), "smoothed": curve.smoothed.tolist()}))
        return
    print_rows(open_console(sys.stdout, 100), curves.COLUMNS, curves.rows(curve, suggested), left=(3,))
    if curve.diverged and len(curve.rates):
        print(f"ended at {curve.rates[-1]:.2g}, as the loss is {curve.diverged}")
    for name, rate in rates.items():
        print(f"{name:8}  {rate:<10g}{MEANINGS[name]}")
    if plot:
        print(f"look    {plot}")
    if given:
        print(f"use     {given}")
