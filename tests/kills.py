"""Kills at random moments: a run that was killed again and again ends with the weights of the run nobody touched."""
import dataclasses
import random
import signal
import time

from tests.commands import assert_every_step_once, metrics, mirrorline, result, start

STEPS = 60
# Evaluations, checkpoints and their writing every few steps, so that kills meet them too.
COMMON = ("--dataset=digits", "--batch_size=16", f"--steps={STEPS}", "--subset=10", "--evaluate_every=9",
          "--checkpoint_every=4", "--augment=crop,mixup", "--schedule=constant", "--learning_rate=2e-3",
          "--label_smoothing=0.1", "--ema_decay=0.9", "--verbosity=quiet")
DURING_START = 0.25  # Share of the kills that come before a process has trained a step.


@dataclasses.dataclass
class Tally:
    """What the kills of one setting met."""

    starting: int = 0
    training: int = 0

    @property
    def kills(self):
        return self.starting + self.training


def command(model, replicas, precision):
    """The command of a setting."""
    force = ("--force",) if precision == "mixed_float16" else ()
    return ("train", "--tensorboard=full", *COMMON, f"--model={model}", f"--replicas={replicas}",
            f"--precision={precision}", *force)


def killed_again_and_again(folder, model, replicas, precision, wanted, seed=0):
    """Kills a run at random moments until it was killed `wanted` times, and compares it with an uninterrupted one.

    A run that ends before is compared, and another one is begun.

    Returns:
      {"kills", "while_starting", "while_training", "runs", "weights_sha256"}.
    """
    began = time.monotonic()
    done = mirrorline(*command(model, replicas, precision), "--workdir=whole", cwd=folder, timeout=900)
    assert done.returncode == 0, done.stderr
    records = metrics(folder / "whole", "train")
    training = records[-1]["wall_time"] - records[0]["wall_time"]
    starting = max(0.5, time.monotonic() - began - training)
    whole, draw, tally, runs = result(folder / "whole"), random.Random(seed), Tally(), 0
    while tally.kills < wanted:
        runs += 1
        workdir = folder / f"killed{runs}"
        ended = False
        while not ended and tally.kills < wanted:
            ended = _killed_once(folder, workdir, command(model, replicas, precision), draw, starting, training, tally)
        last = mirrorline(*command(model, replicas, precision), f"--workdir={workdir.name}", cwd=folder, timeout=900)
        assert last.returncode == 0, last.stderr
        assert result(workdir)["weights_sha256"] == whole["weights_sha256"], f"other weights after {tally}, run {runs}"
        assert result(workdir)["test_loss"] == whole["test_loss"] and result(workdir)["best"] == whole["best"]
        assert_every_step_once(workdir, STEPS)
    return {"kills": tally.kills, "while_starting": tally.starting, "while_training": tally.training, "runs": runs,
            "weights_sha256": whole["weights_sha256"]}


def _killed_once(folder, workdir, arguments, draw, starting, training, tally):
    """Starts the run and kills it at a random moment; returns whether it had ended by itself."""
    reached = max((r["step"] for r in metrics(workdir)), default=0)
    process = start(*arguments, f"--workdir={workdir.name}", cwd=folder)
    try:
        during_start = draw.random() < DURING_START
        if during_start:
            time.sleep(draw.uniform(0.0, starting))
        else:
            # The first new step may be one that is done again: what counts is that the file has moved.
            size = (workdir / "metrics.jsonl").stat().st_size if (workdir / "metrics.jsonl").exists() else -1
            while process.poll() is None and _size(workdir) in (size, -1):
                time.sleep(0.005)
            time.sleep(draw.uniform(0.0, training * (STEPS - reached) / STEPS))
        process.send_signal(signal.SIGKILL)
    finally:
        _, errors = process.communicate(timeout=600)
    if process.returncode == -signal.SIGKILL:
        tally.starting += during_start
        tally.training += not during_start
        return False
    assert process.returncode == 0, errors
    return True


def _size(workdir):
    path = workdir / "metrics.jsonl"
    return path.stat().st_size if path.exists() else -1
