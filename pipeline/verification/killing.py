"""Kills and restarts a real run, and compares its files with those of an uninterrupted one."""
import collections
import math
import os
import re
from collections.abc import Callable
from typing import Any

from pipeline.config import ExperimentConfig
from pipeline.errors import RunFailure
from pipeline.files import read_json
from pipeline.monitoring.metrics_log import read_records
from pipeline.processes import Processes
from pipeline.quantities import counted
from pipeline.verification.report import Comparison

STEPS_BETWEEN_CHECKPOINTS = 2


def killed_twice(processes: Processes, train: Callable[..., tuple[str, ...]], workdir: str) -> tuple[int, int]:
    """Runs a training that is killed as it begins and again after its first checkpoint, and lets it end.

    Args:
      processes: in which it runs.
      train: function (workdir, *flags) -> arguments of Python that train there.
      workdir: a directory that does not exist yet.

    Returns:
      (last step recorded when it was killed, step from which it continued).
    """
    processes.kill_when(processes.start(*train(workdir)), lambda: os.path.exists(workdir))
    # One step a call, so that every step can be the last.
    processes.kill_when(processes.start(*train(workdir, "--steps_per_loop=1")),
                        lambda: last_step(workdir) > (latest_checkpoint(workdir) or math.inf))
    killed_at = last_step(workdir)
    processes.finish(processes.start(*train(workdir)))
    starts = [record["step"] for record in read_records(os.path.join(workdir, "launches.jsonl"))
              if record["event"] == "start"]
    return killed_at, starts[-1]


def last_step(workdir: str) -> int:
    """Returns the last step in a run's metrics.jsonl, 0 before the first."""
    return max((record["step"] for record in train_records(workdir)), default=0)


def latest_checkpoint(workdir: str) -> int | None:
    """Returns the step of the latest complete checkpoint, None before the first after a step."""
    folder = os.path.join(workdir, "checkpoints")
    names = os.listdir(folder) if os.path.isdir(folder) else []
    steps = [int(match[1]) for name in names if (match := re.fullmatch(r"ckpt-(\d+)\.manifest\.json", name))]
    return max(steps, default=0) or None


def compare_runs(whole: str, resumed: str, kills: tuple[int, int] | None, steps: int, unclaimed: str = ""
                 ) -> list[Comparison]:
    """Compares the files of the two runs.

    Args:
      whole, resumed: their directories.
      kills: the result of `killed_twice`.
      steps: their length.
      unclaimed: why equality is not claimed on this hardware, "" where it is.
    """
    killed_at, resumed_from = kills or (0, 0)
    results = [read_json(os.path.join(path, "result.json")) for path in (whole, resumed)]
    if results[0] is None or results[1] is None:
        raise RunFailure("a run ended without a result.json")
    records = [train_records(path) for path in (whole, resumed)]
    difference, note = furthest(*[{r["step"]: r["loss"] for r in run} for run in records])
    if results[0]["weights_sha256"] != results[1]["weights_sha256"]:
        difference, note = difference or math.inf, note or "weights_sha256"
    if not 0 < resumed_from <= killed_at:
        difference, note = math.inf, f"killed after step {killed_at} it continued from step {resumed_from}"
    counts = [collections.Counter(r["step"] for r in run) for run in records]
    odd = sorted({step for count in counts for step in (*range(1, steps + 1), *count)
                  if count[step] != 1 or step > steps})
    text = (f"losses and weights_sha256 of {counted(steps, 'step')}, uninterrupted against killed at the start and "
            f"after step {killed_at}, resumed from {resumed_from}")
    return [Comparison("resume", text, difference, 0.0, unclaimed, note),
            Comparison("resume", "steps not exactly once in metrics.jsonl", float(len(odd)), 0.0,
                       note=f"steps {', '.join(map(str, odd))}" if odd else "")]


def train_records(workdir: str) -> list[dict[str, Any]]:
    """Returns the records of steps in a run's metrics.jsonl."""
    return [r for r in read_records(os.path.join(workdir, "metrics.jsonl")) if r["kind"] == "train"]


def furthest(first: dict[int, float | None], second: dict[int, float | None]) -> tuple[float, str]:
    """Returns (largest relative difference, where it begins) of two {step: loss}; a loss of None was not finite."""
    found = {}
    for step in sorted(first.keys() & second.keys()):
        a, b = first[step], second[step]
        if a != b:
            found[step] = math.inf if a is None or b is None else abs(a - b) / max(abs(a), 1e-3)
    if not first.keys() & second.keys():
        return math.inf, ""
    return max(found.values(), default=0.0), f"from the loss of step {min(found)} on" if found else ""


def train_flags(config: ExperimentConfig) -> list[str]:
    """Returns every option that has a value as a flag."""
    flags = []
    for name, value in config.flat().items():
        if isinstance(value, bool):
            flags.append(f"--{name}" if value else f"--no{name}")
        elif isinstance(value, tuple):
            flags.append(f"--{name}={','.join(value)}")
        elif value is not None:
            flags.append(f"--{name}={value!r}" if isinstance(value, float) else f"--{name}={value}")
    return flags


def settings(config: ExperimentConfig, steps: int) -> ExperimentConfig:
    """Returns the configuration of the runs: the user's, short, with frequent checkpoints and without images."""
    return config.replace(steps=steps, epochs=None, checkpoint_every=str(STEPS_BETWEEN_CHECKPOINTS),
                          early_stopping_patience=0, allow=(), verbosity="quiet", tensorboard="scalars")
