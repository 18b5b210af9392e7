"""mirrorline find: the learning rate or the batch size for a training, by a few steps of it."""
import json
import sys
from collections.abc import Mapping
from typing import Any

from absl import flags as absl_flags

import flags
from pipeline import full_memory, onednn, quantities, runs
from pipeline.augmentation import check_place, check_strengths
from pipeline.config import ExperimentConfig
from pipeline.config_checks import check_optimizer
from pipeline.console import Console
from pipeline.distributed import cuda, machine
from pipeline.errors import RunFailure, UsageError
from pipeline.options import Interval
from pipeline.quantities import counted
from pipeline.run_directory import RunDirectory

# Imports inside functions: `--help` and wrong usage answer without TensorFlow.

SUMMARY = "find the learning rate or the batch size for a training, by a few steps of it"
PLACE = 55
GROUPS = ("data", "model", "optimizer", "training", "runtime")
SETTINGS = ("learning_rate", "batch_size")
MARGIN = 0.95  # Share of the main memory that is free of which a batch may use all.
OF_OTHERS = {"learning_rate": ("memory_limit", "longest_step"),
             "batch_size": ("lowest", "highest", "find_steps", "plot")}
LONGEST_STEP = 10.0  # Seconds.
FEWEST_STEPS, MOST_STEPS = 20, 10_000


def define(flag_values: absl_flags.FlagValues) -> None:
    """Defines the flags of this command alone."""
    absl_flags.DEFINE_multi_enum("find", [], SETTINGS, "the setting to find; --learning_rate or --batch_size without a "
                                 "value is short for it", flag_values=flag_values)
    absl_flags.DEFINE_float("lowest", 1e-7, "learning rate of the first step", flag_values=flag_values)
    absl_flags.DEFINE_float("highest", 10.0, "learning rate of the last step, to which it rises exponentially",
                            flag_values=flag_values)
    absl_flags.DEFINE_integer("find_steps", 100, "steps from --lowest to --highest", lower_bound=FEWEST_STEPS,
                              upper_bound=MOST_STEPS, flag_values=flag_values)
    flags.define_path("plot", None, "draw the losses over the learning rate into this file: .png, .pdf or .svg",
                      flag_values)
    absl_flags.DEFINE_integer("memory_limit", 0, "main memory that a batch may use; 0: on CPUs 95% of what is free "
                              "(MiB)", lower_bound=0, flag_values=flag_values)
    absl_flags.DEFINE_float("longest_step", LONGEST_STEP, "no batch whose step would take longer is tried (seconds)",
                            lower_bound=0.001, flag_values=flag_values)


def run(config: ExperimentConfig, flag_values: absl_flags.FlagValues) -> int:
    """Runs the command; returns the exit code.

    Raises:
      UsageError: options that a training would refuse too, or a directory with a run; nothing was changed.
      RunFailure: nothing can be suggested.
    """
    if len(flag_values.find) != 1:
        found = " and ".join(f"--{name}" for name in flag_values.find) or "none"
        raise UsageError("give the setting to find, one at a time, before the flags of the training: 'mirrorline find "
                         f"--learning_rate' or 'mirrorline find --batch_size'; found {found}")
    [setting] = flag_values.find
    stray = [name for name in OF_OTHERS[setting] if not flag_values[name].using_default_value]
    if stray:
        raise UsageError(f"--{stray[0]} does not belong to 'mirrorline find --{setting}': leave it out")
    check_training(config)
    return (find_learning_rate if setting == "learning_rate" else find_batch_size)(config, flag_values)


def check_training(config: ExperimentConfig) -> None:
    """Raises UsageError for options that a new training would refuse, or for the directory of a run."""
    check_options(config)
    if config.runtime.workdir and RunDirectory(config.runtime.workdir).config:
        raise UsageError(f"--workdir={config.runtime.workdir} holds a run, which is left alone: find begins as a new "
                         f"training does; leave --workdir out, or begin from the weights of the run with "
                         f"--initialize_from={config.runtime.workdir}")


def check_options(config: ExperimentConfig) -> None:
    """Raises UsageError for options that a new training would refuse."""
    check_strengths(config.data.augment)
    check_place(config.data)
    check_optimizer(config.optimizer)


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
    with full_memory.in_words(config), activity("the range test", console, steps) as doing:
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


def find_batch_size(config: ExperimentConfig, flag_values: absl_flags.FlagValues) -> int:
    """Searches for the batch size and prints what was tried; returns the exit code."""
    from pipeline.finding.batch_size import flags_to_use, scaled_rate
    config, console = runs.resolve(config), runs.console_for(config)
    replicas, found = search_batch(config, flag_values.memory_limit, flag_values.longest_step, console)
    given, (rate, rule) = flags_to_use(config, found.fastest.batch_size), scaled_rate(config, found.fastest.batch_size)
    if config.runtime.verbosity == "quiet":
        print(json.dumps({"flags": given, "largest": found.largest.batch_size, "fastest": found.fastest.batch_size,
                          "replicas": replicas, "learning_rate": rate, "bound": found.bound,
                          "tried": [{"batch_size": one.batch_size, "fits": one.figures is not None,
                                     **(one.figures or {})} for one in found.tried]}))
        return 0
    print_batches(found, replicas)
    print(f"largest   {found.largest.batch_size}, {found.largest.batch_size // replicas} a replica: {found.bound}")
    print(f"fastest   {found.fastest.batch_size}: no other is more than 5% faster than its "
          f"{quantities.rate(found.fastest.rate)}")
    print(f"rate      {config.optimizer.learning_rate:g} for {config.training.batch_size} is {rate:g} for "
          f"{found.fastest.batch_size}: {rule}")
    print(f"use       {given}")
    return 0


def search_batch(config: ExperimentConfig, memory_limit: int, longest_step: float, console: Console
                 ) -> tuple[int, Any]:
    """Searches for the batch size of a training on this machine.

    Args:
      config: resolved.
      memory_limit: MiB of main memory that a batch may use; 0: on CPUs MARGIN of what is free, with GPUs no limit.
      longest_step: seconds that a step may take.
      console: for messages.

    Returns:
      (number of replicas, FoundBatch).
    """
    from pipeline.finding import batch_size as batches
    onednn.choose(config.runtime.onednn, console, cache_dir=config.data.cache_dir)
    from pipeline.distributed import devices  # It loads TensorFlow.
    kind, indices = devices.choose_devices(cuda.count_gpus(), config.runtime.devices, config.runtime.replicas)
    if not memory_limit and kind == "CPU":
        memory_limit = int(MARGIN * machine.memory()[0] / 2**20)
    most = f", at most {memory_limit:,} MiB of memory" if memory_limit else ""
    console.info(f"find    batch size: {config.model.model}, {config.data.dataset}, {config.optimizer.optimizer}, "
                 f"{counted(len(indices), f'{kind} replica')}{most}")
    return len(indices), batches.find(config, len(indices), memory_limit, longest_step, console)


def print_batches(found: Any, replicas: int) -> None:
    """Prints the table of a FoundBatch."""
    from pipeline.console_table import open_console, print_rows
    rows = [(f"{one.batch_size:,}", f"{one.batch_size // replicas:,}", *(
        (f"{one.rate:,.1f}", f"{one.figures['step_ms']:,.1f}",
         f"{one.figures['peak_memory_mib']['host' if one.figures['device'] == 'CPU' else 'device']:,.0f}")
        if one.figures else ("does not fit", "", ""))) for one in found.tried]
    print_rows(open_console(sys.stdout, 100), ("batch", "a replica", "examples/s", "ms a step", "peak MiB"), rows,
               left=())
