"""An uninterrupted run beside one that is killed and started again: real runs, compared by the files they leave."""
import collections
import math
import os
import re

from pipeline.errors import RunFailure
from pipeline.files import read_json
from pipeline.monitoring.metrics_log import read_records
from pipeline.quantities import counted
from pipeline.verification.report import Row

STEPS_BETWEEN_CHECKPOINTS = 2


def uninterrupted(processes, train, workdir):
    """Runs a training from start to end.

    Args:
      processes: Processes.
      train: function (workdir, *flags) -> arguments of Python that train there.
      workdir: a directory that does not exist yet.
    """
    processes.finish(processes.start(*train(workdir)))


def killed_twice(processes, train, workdir):
    """Runs the same training, killed as it begins and again after its first checkpoint, and lets it end.

    Args:
      processes, train, workdir: as for `uninterrupted`.

    Returns:
      (last step recorded when it was killed, step it went on from).
    """
    processes.kill_when(processes.start(*train(workdir)), lambda: os.path.exists(workdir))
    # One step a call, so that every step can be the last.
    processes.kill_when(processes.start(*train(workdir, "--steps_per_loop=1")),
                        lambda: last_step(workdir) > (newest_checkpoint(workdir) or math.inf))
    killed_at = last_step(workdir)
    processes.finish(processes.start(*train(workdir)))
    starts = [record["step"] for record in read_records(os.path.join(workdir, "launches.jsonl"))
              if record["event"] == "start"]
    return killed_at, starts[-1]


def last_step(workdir):
    """Returns the last step in a run's metrics.jsonl, 0 before the first."""
    return max((r["step"] for r in read_records(os.path.join(workdir, "metrics.jsonl")) if r["kind"] == "train"),
               default=0)


def newest_checkpoint(workdir):
    """Returns the step of the newest checkpoint that is whole, None before the first after a step."""
    folder = os.path.join(workdir, "checkpoints")
    names = os.listdir(folder) if os.path.isdir(folder) else []
    steps = [int(match[1]) for name in names if (match := re.fullmatch(r"ckpt-(\d+)\.manifest\.json", name))]
    return max(steps, default=0) or None


def compare_runs(whole, resumed, kills, steps, unclaimed=""):
    """Compares the files of the two runs.

    Args:
      whole, resumed: their directories.
      kills: what `killed_twice` returned.
      steps: their length.
      unclaimed: why equality is not claimed on this hardware, "" where it is.

    Returns:
      list of Row.
    """
    killed_at, went_on_from = kills
    results = [read_json(os.path.join(path, "result.json")) for path in (whole, resumed)]
    if None in results:
        raise RunFailure("a run ended without a result.json")
    records = [train_records(path) for path in (whole, resumed)]
    difference, note = furthest(*[{r["step"]: r["loss"] for r in run} for run in records])
    if results[0]["weights_sha256"] != results[1]["weights_sha256"]:
        difference, note = difference or math.inf, note or "weights_sha256"
    if not 0 < went_on_from <= killed_at:
        difference, note = math.inf, f"killed after step {killed_at} it went on from step {went_on_from}"
    counts = [collections.Counter(r["step"] for r in run) for run in records]
    odd = sorted({step for count in counts for step in (*range(1, steps + 1), *count)
                  if count[step] != 1 or step > steps})
    return [Row("resume", f"losses and weights_sha256 of {counted(steps, 'step')}, uninterrupted against killed at the "
                          f"start and after step {killed_at}, resumed from {went_on_from}", difference, 0.0, unclaimed,
                note),
            Row("resume", "steps not exactly once in metrics.jsonl", float(len(odd)), 0.0,
                note=f"steps {', '.join(map(str, odd))}" if odd else "")]


def train_records(workdir):
    """Returns the records of steps in a run's metrics.jsonl."""
    return [r for r in read_records(os.path.join(workdir, "metrics.jsonl")) if r["kind"] == "train"]


def furthest(first, second):
    """Returns (largest relative difference, from where on) of two {step: loss}; a loss of None was not finite."""
    found = {}
    for step in sorted(first.keys() & second.keys()):
        a, b = first[step], second[step]
        if a != b:
            found[step] = math.inf if None in (a, b) else abs(a - b) / max(abs(a), 1e-3)
    if not first.keys() & second.keys():
        return math.inf, ""
    return max(found.values(), default=0.0), f"from the loss of step {min(found)} on" if found else ""


def train_flags(config):
    """Returns every option of an ExperimentConfig as a flag; one without a value is left out."""
    flags = []
    for name, value in config.flat().items():
        if isinstance(value, bool):
            flags.append(f"--{name}" if value else f"--no{name}")
        elif isinstance(value, tuple):
            flags.append(f"--{name}={','.join(value)}")
        elif value is not None:
            flags.append(f"--{name}={value!r}" if isinstance(value, float) else f"--{name}={value}")
    return flags


def settings(config, steps):
    """Returns the configuration of the runs: that of the user, short, with a checkpoint every few steps.

    Nobody looks at them, so what TensorBoard shows beside curves is left out.
    """
    return config.replace(steps=steps, epochs=None, checkpoint_every=str(STEPS_BETWEEN_CHECKPOINTS),
                          early_stopping_patience=0, allow=(), verbosity="quiet", tensorboard="scalars")
