"""mirrorline launch: starts several workers of one run, watches them, and starts all anew when one fails."""
import contextlib
import dataclasses
import os
import re
import shlex
import sys

from absl import flags as absl_flags

import flags
from launch.cluster import agent, submission
from launch.cluster.display import Screen
from launch.cluster.guard import Guard
from launch.cluster.local_workers import LocalStart
from launch.cluster.slurm import SlurmStart
from launch.cluster.supervisor import Limits, StopSignals, Supervisor
from pipeline import locks, run_directory, runs
from pipeline.distributed import cuda
from pipeline.errors import UsageError
from pipeline.quantities import counted

SUMMARY = "train with several workers, started anew from the newest checkpoint when one fails"
PLACE = 90
GROUPS = ()
TAKES_FILES = "-- train --flag=value"
LAUNCHED = "train"
MOST_WORKERS = 64


def define(flag_values):
    """Defines the flags of this command alone."""
    defaults = Limits()
    absl_flags.DEFINE_string("workers", "1", "workers on this machine; MIN..MAX: with MAX where they can be started, "
                             "else with fewer, as the batch divides", flag_values=flag_values)
    absl_flags.DEFINE_integer("max_restarts", defaults.max_restarts, "restarts without a new checkpoint, after which "
                              "the run ends; each new checkpoint renews them", lower_bound=0, flag_values=flag_values)
    texts = {"grace_seconds": "seconds from SIGTERM to SIGKILL for the others when a worker has failed",
             "stop_timeout": "seconds that workers have to save and end, once they were asked to or the first of them "
                             "has ended",
             "stopped_timeout": "seconds that a worker may be stopped (SIGSTOP) before all are started anew"}
    for name, text in texts.items():
        absl_flags.DEFINE_float(name, getattr(defaults, name), text, lower_bound=0.0, flag_values=flag_values)
    submission.define(flag_values)


def run(config, flag_values, command):
    """Runs the command that stands after `--`; returns the exit code.

    Raises:
      UsageError: flags that cannot be, of launch or of what it launches, before anything starts or is written.
    """
    train = train_config(command)
    if flag_values.agent or flag_values.engine or flag_values.srun is not None:
        return run_on_engine(flag_values, command, train)
    least, most = parse_workers(flag_values.workers)
    gpus = cuda.count_gpus() if most > 1 else 0
    sizes, left_out = usable_sizes(least, most, train, gpus)
    workdir = train.runtime.workdir
    run_directory.RunDirectory(workdir).check(train)
    screen = Screen(train.runtime.verbosity == "quiet")
    if left_out:
        screen.info(f"launch  not with {', '.join(map(str, left_out))} workers: {reason(train, gpus)}")
    worker = [sys.executable, "-m", "launch", *command, f"--workdir={workdir}"]
    return supervise(worker, workdir, sizes, limits_of(flag_values), screen, visible_gpus(gpus))


def check_order(own, rest, flag_values):
    """Sees that the trainer's command stands after `--`.

    Args:
      own: list of str, the arguments before `--`.
      rest: list of str, those after it.
      flag_values: absl FlagValues with the flags of this command.

    Raises:
      UsageError: some of it stands before; with the command as it should be.
    """
    theirs, moved, kept, waiting = train_flags(), [], [], list(own)
    while waiting:
        argument = waiting.pop(0)
        if argument == LAUNCHED:
            continue
        found = [flag_named(argument, values) for values in (flag_values, theirs)]
        known = [flag for flag in found if flag is not None]
        # An unknown one is the trainer's where its command's name is there.
        part = moved if found[0] is None and (known or LAUNCHED in own) else kept
        part.append(argument)
        valued = known and not known[0].boolean and argument.lstrip("-") not in flags.SHORTHANDS
        if valued and "=" not in argument and waiting:
            part.append(waiting.pop(0))
    if moved:
        right = ["mirrorline", "launch", *kept, "--", LAUNCHED, *moved, *rest[rest[:1] == [LAUNCHED]:]]
        raise UsageError(f"{moved[0]} is for {LAUNCHED}, whose command follows after --, as in: {shlex.join(right)}")


def flag_named(argument, flag_values):
    """Returns the flag of an argument such as --name=value, --name or --noname, None where it is none of these."""
    name = argument.lstrip("-").partition("=")[0].replace("-", "_")
    name = flags.SHORTHANDS.get(name, (name,))[0]
    names = [known for known in (name, name.removeprefix("no")) if argument.startswith("-") and known in flag_values]
    return flag_values[names[0]] if names else None


def train_flags():
    """Returns the FlagValues of what is launched, without values."""
    from launch.commands import train
    flag_values = absl_flags.FlagValues()
    flags.define_options(flag_values, train.GROUPS)
    train.define(flag_values)
    return flag_values


def limits_of(flag_values):
    """Returns the Limits that the flags say."""
    return Limits(**{field.name: flag_values[field.name].value for field in dataclasses.fields(Limits)})


def run_on_engine(flag_values, command, train):
    """Runs what has to do with a cluster's engine: submits, supervises steps of Slurm, or is one worker."""
    workdir = train.runtime.workdir
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
                     Screen(train.runtime.verbosity == "quiet"), srun=flag_values.srun)


def supervise(worker, workdir, sizes, limits, screen, gpus=(), srun=None):
    """Runs workers on this machine until the run is done or given up; returns the exit code.

    Args:
      worker: list of str, the command that every worker is.
      workdir: directory of the run.
      sizes: numbers of workers that are possible.
      limits: Limits.
      screen: Screen.
      gpus: what CUDA_VISIBLE_DEVICES calls the GPUs that are shared out.
      srun: options of srun, where workers are tasks of it and not processes of this machine; else None.

    Raises:
      UsageError: another supervisor works in the directory.
      RunFailure: this machine cannot start the workers.
    """
    with StopSignals() as signals, locked(workdir), contextlib.closing(Guard()) as guard:
        most = max(sizes)
        where = "on this machine" if srun is None else "in steps of Slurm"
        screen.info(f"launch  {counted(most, 'worker')} {where}, logs in {os.path.join(workdir, 'workers')}")
        start = LocalStart(worker, workdir, guard, gpus) if srun is None else SlurmStart(worker, workdir, guard, srun)
        return Supervisor(start, sizes, workdir, limits, screen, signals).run()


def train_config(command):
    """Returns the ExperimentConfig of what is launched, its workdir filled in.

    Args:
      command: list of str, the command and its flags.

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
    return runs.resolve(flags.config_from_flags(flag_values))


def parse_workers(text, limit=MOST_WORKERS):
    """Reads --workers as (least, most), neither beyond the limit: `4` is (4, 4), `2..4` is (2, 4).

    Raises:
      UsageError: not of that form, none, too many, or more at least than at most.
    """
    match = re.fullmatch(r"(\d{1,6})(?:\.\.(\d{1,6}))?", text.strip())
    least, most = (int(match[1]), int(match[2] or match[1])) if match else (0, 0)
    if not 1 <= least <= limit or not most <= limit:
        raise UsageError(f"--workers={text}: give a number from 1 to {limit}, or the fewest and the most, such "
                         "as 1..4")
    if least > most:
        raise UsageError(f"--workers={text}: the fewest come first, such as {most}..{least}")
    return least, most


def usable_sizes(least, most, config, gpus):
    """Returns (numbers of workers that the batch and the GPUs divide by, those that they do not), ascending.

    Args:
      least, most: the range asked for.
      config: ExperimentConfig of the training.
      gpus: GPUs of this machine; with any, each worker has its own.

    Raises:
      UsageError: none of the range works.
    """
    def works(workers):
        each = config.runtime.replicas or gpus // workers or 1
        return config.training.batch_size % (workers * each * config.optimizer.accumulate_steps) == 0 and (
            workers == 1 or not gpus or workers <= gpus)

    if gpus and most > 1 and config.runtime.devices:
        raise UsageError(f"--devices={','.join(config.runtime.devices)} is of one process: with --workers each worker "
                         "has its share of the GPUs; choose them with CUDA_VISIBLE_DEVICES")
    numbers = range(least, most + 1)
    sizes = [number for number in numbers if works(number)]
    if not sizes:
        asked = f"{least}..{most}" if least < most else least
        others = [number for number in range(1, MOST_WORKERS + 1) if works(number)]
        raise UsageError(f"--workers={asked}: {reason(config, gpus)}"
                         + (f"; what works: {', '.join(map(str, others))}" if others else ""))
    return sizes, [number for number in numbers if number not in sizes]


def reason(config, gpus):
    """Returns in words what a number of workers has to fit to."""
    each = f", {config.runtime.replicas} replicas each" if config.runtime.replicas > 1 else ""
    parts = config.optimizer.accumulate_steps
    micro = f", {parts} micro-batches" if parts > 1 else ""
    there = f", on {counted(gpus, 'GPU')}" if gpus else ""
    return f"--batch_size={config.training.batch_size} must divide by the workers{each}{micro}{there}"


def visible_gpus(count):
    """Returns what CUDA_VISIBLE_DEVICES calls the GPUs of this process, a tuple of str."""
    named = [name.strip() for name in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if name.strip()]
    return tuple(named[:count] if named else map(str, range(count)))


@contextlib.contextmanager
def locked(workdir):
    """Keeps a second supervisor out of a run's directory, which is made."""
    folder = os.path.join(workdir, "workers")
    try:
        os.makedirs(folder, exist_ok=True)
        lock = locks.acquire(os.path.join(folder, locks.LOCK))
    except locks.Held as holder:
        raise UsageError(f"--workdir={workdir} has a launch already ({holder}); wait for it, or give another "
                         "--workdir") from None
    except OSError as error:
        raise UsageError(f"--workdir={workdir} cannot be written: {error.strerror.lower()}; give a directory of your "
                         "own") from error
    with lock:
        yield
