"""What resuming and saving cost: python -m benchmarks.resilience --data_dir=FOLDER [--pairs=15] [--only=start].

Start: seconds from the start of a process to the end of its first new step, a resumed run's over a fresh one's. Saving:
seconds that training loses to an asynchronous checkpoint, over an interval of 30 s between two of them. Writes
docs/measured/resilience.json.
"""
import argparse
import json
import os
import pathlib
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from typing import Any

from benchmarks.processes import REPOSITORY
from benchmarks.ratios import PAIRS, median_ratio, verdict

INTERVAL = 30.0  # Seconds between two checkpoints.
BLOCK = 6.0  # Seconds of training in which one checkpoint is written, or none.


def train(folder: pathlib.Path, workdir: str, data_dir: str, steps: int) -> float:
    """Runs the command to a number of steps; returns the seconds from its start to its first new step."""
    began = time.time()
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    subprocess.run([sys.executable, "-m", "launch", "train", "--dataset=mnist", f"--data_dir={data_dir}", "--model=cnn",
                    f"--steps={steps}", "--evaluate_every=100000", "--subset=20", "--verbosity=quiet",
                    f"--workdir={workdir}"], cwd=folder, check=True, env=environment)
    records = [json.loads(line) for line in (folder / workdir / "metrics.jsonl").read_text().splitlines()]
    first = next(r for r in records if r["kind"] == "train" and r["wall_time"] > began)
    return first["wall_time"] - began


def measure_starts(data_dir: str, pairs: int) -> tuple[list[float], list[float]]:
    """Starts a fresh run and a resumed one in turns; returns ([pairs] seconds, [pairs] seconds)."""
    fresh, resumed = [], []
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        train(folder, "stored", data_dir, 20)
        for i in range(pairs):
            fresh.append(train(folder, f"fresh{i}", data_dir, 5))
            shutil.copytree(folder / "stored", folder / f"resumed{i}")
            resumed.append(train(folder, f"resumed{i}", data_dir, 25))
            print(f"start {i + 1} of {pairs}: fresh {fresh[-1]:.2f} s, resumed {resumed[-1]:.2f} s", flush=True)
    return fresh, resumed


def measure_saving(data_dir: str, pairs: int) -> tuple[list[float], list[float]]:
    """Trains in blocks with one checkpoint and without, in turns.

    Returns:
      ([pairs] examples/s with, [pairs] examples/s without).
    """
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    from pipeline.config import ExperimentConfig
    from pipeline.data.load import load
    from pipeline.distributed import devices
    from pipeline.training import experiment as experiments
    from pipeline.training.checkpoint import CheckpointStore
    config = ExperimentConfig.from_flat({"dataset": "mnist", "data_dir": data_dir, "model": "cnn", "steps": 10**6})
    strategy = devices.start(config.runtime, config.training, config.optimizer)
    source = load(config.data, config.training.batch_size)
    experiment = experiments.build(config, source, strategy)
    with tempfile.TemporaryDirectory() as folder:
        store = CheckpointStore(folder, experiment.state, 3)
        iterator = experiment.train_iterator(0)
        block(experiment, iterator, None)
        saving, plain = [], []
        for i in range(pairs):
            saving.append(block(experiment, iterator, store))
            store.sync()
            plain.append(block(experiment, iterator, None))
            print(f"saving {i + 1} of {pairs}: {saving[-1]:.0f} examples/s with, {plain[-1]:.0f} without", flush=True)
    return saving, plain


def block(experiment: Any, iterator: Any, store: Any) -> float:
    """Trains for BLOCK seconds, with a checkpoint begun at the start where there is a store; returns examples/s."""
    import tensorflow as tf
    began, steps = time.monotonic(), 0
    if store is not None:
        store.save(int(experiment.state.global_step.numpy()))
    while time.monotonic() - began < BLOCK:
        experiment.steps.train_steps(iterator, tf.constant(10)).numpy()
        steps += 10
    return steps * experiment.plan.batch_size / (time.monotonic() - began)


def main() -> None:
    """Measures, prints, and writes docs/measured/resilience.json."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--data_dir", required=True, help="folder with mnist, prepared for TensorFlow Datasets")
    parser.add_argument("--pairs", type=int, default=PAIRS)
    parser.add_argument("--only", choices=("start", "saving"), help="measure this part, and keep what was found of the "
                        "other")
    arguments = parser.parse_args()
    path = REPOSITORY / "docs" / "measured" / "resilience.json"
    report = json.loads(path.read_text()) if path.exists() else {}
    report.update(machine=f"{platform.machine()}, {os.cpu_count()} cores", python=platform.python_version())
    if arguments.only != "saving":
        report["resumed start over fresh start"] = evaluate_starts(*measure_starts(arguments.data_dir, arguments.pairs))
    if arguments.only != "start":
        report["examples/s saving every 30 s over not saving"] = evaluate_saving(
            *measure_saving(arguments.data_dir, arguments.pairs))
    path.write_text(json.dumps(report, indent=1) + "\n")
    print(json.dumps(report, indent=1))


def evaluate_starts(fresh: list[float], resumed: list[float]) -> dict[str, Any]:
    """Returns the report of the starts, [pairs] seconds each."""
    start = median_ratio(resumed, fresh)
    return {**start, "fresh_seconds": statistics.median(fresh), "bound": 1.1,
            "verdict": verdict(start, 1.1, at_least=False)}


def evaluate_saving(saving: list[float], plain: list[float]) -> dict[str, Any]:
    """Returns the report of saving, [pairs] examples/s with and without."""
    speed = median_ratio(saving, plain)
    # A block is shorter than the interval between two checkpoints: what is lost in it is lost once an interval.
    scaled = {key: 1 - (1 - speed[key]) * BLOCK / INTERVAL for key in ("median", "low", "high")}
    scaled["pairs"] = speed["pairs"]
    return {**scaled, "in_blocks_of_6_s": speed, "bound": 0.98, "verdict": verdict(scaled, 0.98, at_least=True)}


if __name__ == "__main__":
    main()
