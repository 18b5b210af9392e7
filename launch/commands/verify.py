"""mirrorline verify: checks the guarantees of Mirrorline on the user's machine."""
import sys
import time
from collections.abc import Sequence

from absl import flags as absl_flags

import flags
from pipeline import onednn
from pipeline.augmentation import check_strengths, smallest_part
from pipeline.config import ExperimentConfig
from pipeline.distributed import auto_precision, cuda
from pipeline.errors import RunFailure, UsageError, unknown_name
from pipeline.files import write_json
from pipeline.finetuning import UnfreezePoint
from pipeline.paths import check_file
from pipeline.quantities import counted, plural
from pipeline.runs import console_for
from pipeline.verification.report import PARTS, Comparison, show, violations

SUMMARY = "check on this machine that replicas, kills and bad gradients change no result"
PLACE = 80
GROUPS = ("data", "model", "optimizer", "training", "runtime")
FEWEST_STEPS = 6  # For a checkpoint, steps after it that a kill can lose, and an end.


def define(flag_values: absl_flags.FlagValues) -> None:
    """Defines the flags of this command."""
    absl_flags.DEFINE_list("only", list(PARTS), f"parts to verify, of {', '.join(PARTS)}", flag_values=flag_values)
    absl_flags.DEFINE_integer("verify_steps", 10, "steps of each run, instead of --epochs or --steps; the data are "
                              "half as many batches of each split", flag_values=flag_values)
    flags.define_path("output", None, "also write the results to this JSON file", flag_values)


def run(config: ExperimentConfig, flag_values: absl_flags.FlagValues) -> int:
    """Runs the command; returns the exit code.

    Raises:
      UsageError: options that training would refuse too, or a file that cannot be written.
      RunFailure: a claim does not hold, named in one line.
    """
    parts, steps = flag_values.only, flag_values.verify_steps
    check_parts(parts)
    check_steps(steps)
    if flag_values.output:
        check_file("--output", flag_values.output)  # Before two minutes are spent.
    check_strengths(config.data.augment)
    began = time.monotonic()
    kind, replicas = choose_replicas(config)
    config, console = shortened(config, steps, replicas), console_for(config)
    console.info(f"verify  {config.data.dataset}, {config.model.model}, {config.runtime.precision}, "
                 f"{counted(replicas, f'{kind} replica')}")
    console.info(f"        {counted(steps, 'step')} of {counted(config.training.batch_size, 'example')} on "
                 f"{counted(config.data.subset, 'batch', 'batches')} of each split")
    onednn.choose(config.runtime.onednn, console, cache_dir=config.data.cache_dir)
    from pipeline.verification import runner  # It loads NumPy.
    rows = runner.verify(config, kind, replicas, steps, parts, console, ("-m", "launch", "train"))
    return report_result(rows, config, kind, replicas, time.monotonic() - began, flag_values.output)


def check_parts(parts: Sequence[str]) -> None:
    """Raises UsageError for an unknown part of --only, or for none at all."""
    if not parts:
        raise UsageError(f"--only is empty: give at least one of {', '.join(PARTS)}")
    for part in parts:
        if part not in PARTS:
            raise unknown_name("part", part, PARTS)


def check_steps(steps: int) -> None:
    """Raises UsageError for a run that is too short to be killed in the middle."""
    if steps < FEWEST_STEPS:
        raise UsageError(f"--verify_steps={steps} is too short: a run is killed in its middle, so it needs a "
                         f"checkpoint, steps after it to lose, and an end; give at least {FEWEST_STEPS}")


def choose_replicas(config: ExperimentConfig) -> tuple[str, int]:
    """Returns ("GPU" or "CPU", replicas): those asked for, else every GPU, else the fewest CPU replicas that fit."""
    from pipeline.distributed import devices  # It loads TensorFlow.
    gpus = cuda.count_gpus()
    wanted = config.runtime.replicas
    if not wanted and not gpus and not config.runtime.devices:
        parts = config.optimizer.accumulate_steps * smallest_part(config.data)
        wanted = next((n for n in range(2, devices.MOST_LOGICAL_CPUS + 1)
                       if config.training.batch_size % (n * parts) == 0), 2)
    kind, indices = devices.choose_devices(gpus, config.runtime.devices, wanted)
    return kind, len(indices)


def shortened(config: ExperimentConfig, steps: int, replicas: int) -> ExperimentConfig:
    """Returns the configuration of a run of a few steps that reaches the end of an epoch.

    Points of --unfreeze_at are moved into it, at even distances. Two runs that are compared do not measure --xla=auto,
    which might come out differently.
    """
    batches = max(2, steps // 2)
    subset = min(config.data.subset or batches, batches)
    return config.replace(subset=subset, steps=steps, epochs=None, replicas=replicas, early_stopping_patience=0,
                          workdir=None, allow=(), precision=auto_precision.resolved(config),
                          xla="on" if config.runtime.xla == "on" else "off",
                          unfreeze_at=moved(config.model.unfreeze_at, steps))


def moved(unfreeze_at: Sequence[str], steps: int) -> tuple[str, ...]:
    """Returns --unfreeze_at with its points at even distances in a run of `steps` steps."""
    points = UnfreezePoint.parse(unfreeze_at)
    if len(points) >= steps:
        raise UsageError(f"--verify_steps={steps} has no room for the {len(points)} points of --unfreeze_at; give more")
    return tuple(text for number, point in enumerate(points, 1)
                 for text in (*point.patterns[:-1], f"{point.patterns[-1]}@{steps * number // (len(points) + 1)}"))


def report_result(rows: Sequence[Comparison], config: ExperimentConfig, kind: str, replicas: int, seconds: float,
                  output: str | None) -> int:
    """Prints the table, writes the file; returns 0, or raises RunFailure that names the violations."""
    show(rows, sys.stdout)
    wrong = violations(rows)
    if output:
        write_json(output, {"holds": not wrong, "rows": [row.described() for row in rows], "config": config.flat(),
                            "device": kind, "replicas": replicas, "seconds": round(seconds, 1)})
    if wrong:
        raise RunFailure(f"VIOLATED: {wrong}")
    claimed = sum(not row.unclaimed for row in rows)
    print(f"{claimed} of {counted(claimed, 'claim')} {plural(claimed, 'holds', 'hold')}, in {seconds:.0f} s")
    return 0
