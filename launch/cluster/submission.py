"""--engine: the job for a cluster's engine, printed or submitted."""
import importlib.util
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from typing import Any

from absl import flags as absl_flags

from launch.cluster import jobset, ray_driver, slurm
from pipeline.config import ExperimentConfig
from pipeline.errors import UsageError

ENGINES = ("slurm", "kubernetes", "ray")
SUBMIT = {"slurm": ("sbatch",), "kubernetes": ("kubectl", "create", "-f", "-")}
MOST_WORKERS = 4096


def define(flag_values: absl_flags.FlagValues) -> None:
    """Defines the flags of `launch` for engines."""
    def text(name, default, what):
        absl_flags.DEFINE_string(name, default, what, flag_values=flag_values)

    absl_flags.DEFINE_enum("engine", None, ENGINES, "submit the run to this engine: a worker is a node (slurm), a "
                           "pod (kubernetes) or a Ray worker (ray)", flag_values=flag_values)
    absl_flags.DEFINE_bool("print", False, "print what --engine would submit, without submitting it",
                           flag_values=flag_values)
    text("name", "", "--engine: name of the job; default from --workdir")
    absl_flags.DEFINE_integer("gpus", 0, "--engine: GPUs of each worker", lower_bound=0, flag_values=flag_values)
    text("cpus", "", "--engine: CPUs of each worker")
    text("memory", "", "--engine: memory of each worker, such as 16G (slurm) or 16Gi (kubernetes)")
    absl_flags.DEFINE_float("notice", 75.0, "--engine=slurm: seconds before the time limit at which workers are asked "
                            "to save", lower_bound=0.0, flag_values=flag_values)
    absl_flags.DEFINE_multi_string("submit", [], "--engine=slurm: another option of sbatch, such as --time=8:00:00; "
                                   "repeatable", flag_values=flag_values)
    text("image", "", "--engine=kubernetes: container image")
    text("volume", "", "--engine=kubernetes: claim and mount path of the volume that all workers share: "
         "claim:/folder")
    text("address", "", "--engine=ray: address of the Ray cluster; default RAY_ADDRESS, or else this machine")
    text("srun", None, "start workers as a step of this Slurm allocation, with these options of srun; used in the "
         "script of --engine=slurm")
    absl_flags.DEFINE_bool("agent", False, "run as one of the workers that an engine starts; used in the job of "
                           "--engine", flag_values=flag_values)


def submit(flag_values: absl_flags.FlagValues, least: int, most: int, command: Sequence[str], train: ExperimentConfig
           ) -> int:
    """Prints the engine's job, or submits it; returns the exit code.

    Args:
      flag_values: of `launch`.
      least, most: numbers of workers.
      command: the trainer's command and flags.
      train: configuration of the training.

    Raises:
      UsageError: flags that the engine does not support, or the engine is not installed here.
    """
    engine = flag_values.engine
    if least < most and engine != "slurm":
        raise UsageError(f"--workers={least}..{most} with --engine={engine}: it starts all workers or none; give one "
                         "number")
    check_batch(least, most, train, flag_values.gpus)
    text = compose(flag_values, least, most, command, train)
    if flag_values["print"].value:
        print(text, end="")
        return 0
    if engine == "ray":
        check_ray()
        return ray_driver.run(text)
    program = SUBMIT[engine]
    if not shutil.which(program[0]):
        raise UsageError(f"there is no {program[0]} on this machine; go where jobs are submitted, or give --print and "
                         f"submit the text there with {' '.join(program)}")
    return subprocess.run(program, input=text, encoding="utf-8", check=False).returncode


def compose(flag_values: absl_flags.FlagValues, least: int, most: int, command: Sequence[str], train: ExperimentConfig
            ) -> str:
    """Returns the engine's job as text; arguments as of `submit`."""
    engine, workdir = flag_values.engine, os.path.abspath(train.runtime.workdir or "")
    name = flag_values.name or default_name(workdir)
    given = [f"--{limit}={flag_values[limit].value:g}" for limit in ("stopped_timeout", "max_restarts")]
    shared: dict[str, Any] = {"name": name, "command": without_workdir(command), "workdir": workdir}
    if engine == "slurm":
        each = {"--gpus-per-node": flag_values.gpus, "--cpus-per-task": flag_values.cpus, "--mem": flag_values.memory}
        options = [f"{option}={value}" for option, value in each.items() if value]
        limits = [*given, *(f"--{limit}={flag_values[limit].value:g}" for limit in ("grace_seconds", "stop_timeout"))]
        # A step has to request the CPUs of each task again: the batch script's request does not apply to it.
        srun = f"{slurm.SRUN} --cpus-per-task={flag_values.cpus}" if flag_values.cpus else slurm.SRUN
        return slurm.batch_script(**shared, least=least, most=most, limits=limits, notice=flag_values.notice, srun=srun,
                                  options=[*options, *flag_values.submit], mirrorline=[sys.executable, "-m", "launch"])
    if engine == "kubernetes":
        return jobset.manifest(**shared, workers=most, image=flag_values.image, volume=flag_values.volume, limits=given,
                               grace=flag_values.stop_timeout, gpus=flag_values.gpus, cpus=flag_values.cpus,
                               memory=flag_values.memory)
    if flag_values.memory or not re.fullmatch(r"\d*", flag_values.cpus):
        raise UsageError("--engine=ray: --cpus is a whole number, and --memory is not asked for")
    return ray_driver.driver(**shared, workers=most, address=flag_values.address or None, limits=given[:1],
                             max_restarts=flag_values.max_restarts, gpus=flag_values.gpus,
                             cpus=int(flag_values.cpus or 1))


def without_workdir(command: Sequence[str]) -> list[str]:
    """Returns a command without its flag --workdir, which the engine's job sets separately."""
    kept, skip = [], False
    for argument in command:
        if not skip and not re.match(r"--?workdir(=|$)", argument):
            kept.append(argument)
        skip = not skip and argument in ("--workdir", "-workdir")
    return kept


def default_name(workdir: str) -> str:
    """Returns a name that is valid for every engine, made of the last part of a path."""
    words = re.sub(r"[^a-z0-9]+", "-", os.path.basename(workdir).lower()).strip("-")
    return f"mirrorline-{words}"[:40].rstrip("-")


def check_batch(least: int, most: int, train: ExperimentConfig, gpus: int) -> list[int]:
    """Returns the numbers of workers that divide the batch; raises UsageError where none does."""
    each = train.runtime.replicas or gpus or 1
    parts = train.optimizer.accumulate_steps
    sizes = [size for size in range(least, most + 1) if train.training.batch_size % (size * each * parts) == 0]
    if not sizes:
        asked = f"{least}..{most}" if least < most else least
        raise UsageError(f"--workers={asked}: --batch_size={train.training.batch_size} must divide by the workers"
                         + (f", {each} replicas each" if each > 1 else "")
                         + (f", {parts} micro-batches" if parts > 1 else ""))
    return sizes


def check_ray() -> None:
    """Raises UsageError where Ray is not installed; does not load it."""
    if importlib.util.find_spec("ray") is None:
        raise UsageError("--engine=ray needs Ray, which is not installed here: pip install 'mirrorline[ray]'")
