"""mirrorline launch: starts several workers of one run, supervises them, and restarts all when one fails."""
import contextlib
import dataclasses
import os
import re
import shlex
import sys
from collections.abc import Sequence
from typing import Any

from absl import flags as absl_flags

import flags
from launch.cluster import agent, submission
from launch.cluster.display import LaunchDisplay
from launch.cluster.guard import Guard
from launch.cluster.local_workers import LocalStart
from launch.cluster.slurm import SlurmStart
from launch.cluster.supervisor import Limits, StopSignals, Supervisor
from pipeline import run_directory, runs
from pipeline.config import ExperimentConfig
from pipeline.distributed import cuda
from pipeline.errors import UsageError
from pipeline.quantities import counted

# Imports inside functions: `--help` and wrong usage answer without TensorFlow.

SUMMARY = "train with several workers, all restarted from the latest checkpoint when one fails"
PLACE = 90
GROUPS = ()
TAKES_FILES = "-- train --flag=value"
LAUNCHED = "train"
MOST_WORKERS = 64


def define(flag_values: absl_flags.FlagValues) -> None:
    """Defines the flags of this command."""
    defaults = Limits()
    absl_flags.DEFINE_string("workers", "1", "number of workers on this machine; MIN..MAX: MAX where so many can be "
                             "started, else fewer that divide the batch", flag_values=flag_values)
    absl_flags.DEFINE_integer("max_restarts", defaults.max_restarts, "restarts without a new checkpoint after which "
                              "the run ends; each new checkpoint renews them", lower_bound=0, flag_values=flag_values)
    texts = {"grace_seconds": "seconds from SIGTERM to SIGKILL for the other workers when one has failed",
             "stop_timeout": "seconds for the workers to save and end, once asked to or once the first has ended",
             "stopped_timeout": "seconds that a worker may be stopped (SIGSTOP) before all are restarted"}
    for name, text in texts.items():
        absl_flags.DEFINE_float(name, getattr(defaults, name), text, lower_bound=0.0, flag_values=flag_values)
    submission.define(flag_values)


def run(config: ExperimentConfig, flag_values: absl_flags.FlagValues, command: Sequence[str]) -> int:
    """Runs the command that follows after `--`; returns the exit code.

    Raises:
      UsageError: invalid flags of launch or of the command, before anything starts or is written.
    """
    train = train_config(command)
    if flag_values.agent or flag_values.engine or flag_values.srun is not None:
        return run_on_engine(flag_values, command, train)
    least, most = parse_workers(flag_values.workers)
    gpus = cuda.count_gpus() if most > 1 else 0
    sizes, left_out = usable_sizes(least, most, train, gpus)
    workdir = train.runtime.workdir or ""
    run_directory.RunDirectory(workdir).check(train)
    display = LaunchDisplay(train.runtime.verbosity == "quiet")
    if left_out:
        display.info(f"launch  not with {', '.join(map(str, left_out))} workers: {divisibility(train, gpus)}")
    worker = [sys.executable, "-m", "launch", *command, f"--workdir={workdir}"]
    return supervise(worker, workdir, sizes, limits_of(flag_values), display, visible_gpus(gpus))


def check_order(own: Sequence[str], rest: Sequence[str], flag_values: absl_flags.FlagValues) -> None:
    """Checks that the trainer's command and flags follow after `--`.

    Args:
      own, rest: the arguments before and after `--`.
      flag_values: with the flags of this command.

    Raises:
      UsageError: some of it precedes `--`; with the corrected command.
    """
    theirs, waiting = train_flags(), list(own)
    moved: list[str] = []
    kept: list[str] = []
    while waiting:
        argument = waiting.pop(0)
        if argument == LAUNCHED:
            continue
        found = [flag_named(argument, values) for values in (flag_values, theirs)]
        known = [flag for flag in found if flag is not None]
        # An unknown flag belongs to the trainer where its command is named.
        part = moved if found[0] is None and (known or LAUNCHED in own) else kept
        part.append(argument)
        valued = known and not known[0].boolean and argument.lstrip("-") not in flags.SHORTHANDS
        if valued and "=" not in argument and waiting:
            part.append(waiting.pop(0))
    if moved:
        right = ["mirrorline", "launch", *kept, "--", LAUNCHED, *moved, *rest[rest[:1] == [LAUNCHED]:]]
        raise UsageError(f"{moved[0]} is for {LAUNCHED}, whose command follows after --, as in: {shlex.join(right)}")


def flag_named(argument: str, flag_values: absl_flags.FlagValues) -> absl_flags.Flag | None:
    """Returns the flag of an argument such as --name=value, --name or --noname; None for any other argument."""
    name = argument.lstrip("-").partition("=")[0].replace("-", "_")
    name = flags.SHORTHANDS.get(name, (name,))[0]
    names = [known for known in (name, name.removeprefix("no")) if argument.startswith("-") and known in flag_values]
    return flag_values[names[0]] if names else None


def train_flags() -> absl_flags.FlagValues:
    """Returns the flags of `train`, not parsed."""
    from launch.commands import train
    flag_values = absl_flags.FlagValues()
    flags.define_options(flag_values, train.GROUPS)
    train.define(flag_values)
    return flag_values


def limits_of(flag_values: absl_flags.FlagValues) -> Limits:
    """Returns the Limits that the flags set."""
    values: dict[str, Any] = {field.name: flag_values[field.name].value for field in dataclasses.fields(Limits)}
    return Limits(**values)


def run_on_engine(flag_values: absl_flags.FlagValues, command: Sequence[str], train: ExperimentConfig) -> int:
    """Runs what involves a cluster's engine: submits a job, supervises steps of Slurm, or is one worker."""
    workdir = train.runtime.workdir or ""
    program = [sys.executable, "-m", "launch"]
    worker = [*command, f"--workdir={workdir}"]
    if flag_values.agent:
        return agent.run([*program, *worker], workdir, flag_values.max_restarts, flag_values.stopped_timeout)
    least, most = parse_workers(flag_values.workers, submission.MOST_WORKERS)
    run_directory.RunDirectory(workdir).check(train)
    if flag_values.engine:
        return submission.submit(flag_values, least, most, command, train)
    limits = limits_of(flag_values)
    agents = [*program, "launch", "--agent", f"--stopped_timeout={limits.stopped_timeout:g}", "--", *worker]
    return supervise(agents, workdir, submission.check_batch(least, most, train, 0), limits,
                     LaunchDisplay(train.runtime.verbosity == "quiet"), srun=flag_values.srun)


def supervise(worker: Sequence[str], workdir: str, sizes: Sequence[int], limits: Limits, display: LaunchDisplay,
              gpus: Sequence[str] = (), srun: str | None = None) -> int:
    """Runs workers until the run is finished or given up; returns the exit code.

    Args:
      worker: the command of every worker.
      workdir: directory of the run.
      sizes: possible numbers of workers.
      limits, display: of the supervisor.
      gpus: values for CUDA_VISIBLE_DEVICES, divided among the workers.
      srun: options of srun, whose tasks are then the workers; None: processes of this machine.

    Raises:
      UsageError: another supervisor uses the directory.
      RunFailure: this machine cannot start the workers.
    """
    claimed = run_directory.claim_folder("--workdir", workdir, "supervised", inside="workers")
    with StopSignals() as signals, claimed, contextlib.closing(Guard()) as guard:
        where = "on this machine" if srun is None else "in steps of Slurm"
        display.info(f"launch  {counted(max(sizes), 'worker')} {where}, logs in {os.path.join(workdir, 'workers')}")
        start = LocalStart(worker, workdir, guard, gpus) if srun is None else SlurmStart(worker, workdir, guard, srun)
        return Supervisor(start, sizes, workdir, limits, display, signals).run()


def train_config(command: Sequence[str]) -> ExperimentConfig:
    """Returns the configuration of the launched command with its flags, with its workdir.

    Raises:
      UsageError: there is none, it is not `train`, or its flags are wrong.
    """
    if not command:
        raise UsageError("what to launch comes after --, as in: mirrorline launch --workers=2 -- train --model=mlp")
    if command[0] != LAUNCHED:
        raise UsageError(f"'{command[0]}' cannot be launched with several workers: '{LAUNCHED}' can, as in: mirrorline "
                         "launch --workers=2 -- train --model=mlp")
    flag_values = train_flags()
    flags.parse(command[1:], flag_values, LAUNCHED)
    if flag_values.auto_batch_size:
        raise UsageError("--batch_size=auto tries batches in one process, not with workers: find a number with "
                         "'mirrorline find --batch_size' and give it")
    return runs.resolve(flags.config_from_flags(flag_values))


def parse_workers(text: str, limit: int = MOST_WORKERS) -> tuple[int, int]:
    """Reads --workers as (least, most): `4` is (4, 4), `2..4` is (2, 4).

    Raises:
      UsageError: another form, zero, more than `limit`, or the larger number first.
    """
    match = re.fullmatch(r"(\d{1,6})(?:\.\.(\d{1,6}))?", text.strip())
    least, most = (int(match[1]), int(match[2] or match[1])) if match else (0, 0)
    if not 1 <= least <= limit or not most <= limit:
        raise UsageError(f"--workers={text}: give a number from 1 to {limit}, or the fewest and the most, such "
                         "as 1..4")
    if least > most:
        raise UsageError(f"--workers={text}: the fewest come first, such as {most}..{least}")
    return least, most


def usable_sizes(least: int, most: int, config: ExperimentConfig, gpus: int) -> tuple[list[int], list[int]]:
    """Returns (numbers of workers that fit the batch and the GPUs, those that do not), ascending.

    Args:
      least, most: the requested range.
      config: of the training.
      gpus: of this machine; with any, each worker has its own.

    Raises:
      UsageError: no number of the range fits.
    """
    def fits(workers):
        each = config.runtime.replicas or gpus // workers or 1
        return config.training.batch_size % (workers * each * config.optimizer.accumulate_steps) == 0 and (
            workers == 1 or not gpus or workers <= gpus)

    if gpus and most > 1 and config.runtime.devices:
        raise UsageError(f"--devices={','.join(config.runtime.devices)} is of one process: with --workers each worker "
                         "has its share of the GPUs; choose them with CUDA_VISIBLE_DEVICES")
    numbers = range(least, most + 1)
    sizes = [number for number in numbers if fits(number)]
    if not sizes:
        requested = f"{least}..{most}" if least < most else least
        others = [number for number in range(1, MOST_WORKERS + 1) if fits(number)]
        raise UsageError(f"--workers={requested}: {divisibility(config, gpus)}"
                         + (f"; what works: {', '.join(map(str, others))}" if others else ""))
    return sizes, [number for number in numbers if number not in sizes]


def divisibility(config: ExperimentConfig, gpus: int) -> str:
    """Returns in words what a number of workers has to divide."""
    each = f", {config.runtime.replicas} replicas each" if config.runtime.replicas > 1 else ""
    parts = config.optimizer.accumulate_steps
    micro = f", {parts} micro-batches" if parts > 1 else ""
    on_gpus = f", on {counted(gpus, 'GPU')}" if gpus else ""
    return f"--batch_size={config.training.batch_size} must divide by the workers{each}{micro}{on_gpus}"


def visible_gpus(count: int) -> tuple[str, ...]:
    """Returns the values of CUDA_VISIBLE_DEVICES for the GPUs of this process."""
    named = [name.strip() for name in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if name.strip()]
    return tuple(named[:count] if named else map(str, range(count)))
