"""Mirrorline as it is: its Experiment, its step, its stream and, as "mirrorline_run", its whole training loop."""
import tempfile
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import tensorflow as tf

from benchmarks.gate import Blocks, Gate, timed
from benchmarks.workloads import PROOF_STEPS, SEED, Workload
from pipeline.config import ExperimentConfig
from pipeline.console import Console
from pipeline.data.memory import InMemory, empty_images
from pipeline.data.order import example_index_array
from pipeline.data.source import Source, Split, digest
from pipeline.distributed import devices
from pipeline.training import experiment as experiments
from pipeline.training.experiment import Experiment

ENDLESS = 10**7  # Steps.


def run(order: Mapping[str, Any], gate: Gate) -> None:
    """Trains as an order says.

    "peer" is "mirrorline" or "mirrorline_run"; "options" are options of the configuration. "no_strategy" leaves
    tf.distribute.MirroredStrategy out, "held_batch" trains on one batch over and over, "export" names the file for the
    weights and the first batches that all peers begin with.
    """
    workload = order["workload"]
    source = load_source(order["data"], workload)
    size = "x".join(map(str, workload.image_shape))
    config = ExperimentConfig.from_flat({
        "dataset": f"synthetic:{size}", "model": workload.model, "batch_size": workload.batch_size, "steps": ENDLESS,
        "seed": SEED, "evaluate_every": str(ENDLESS), **order.get("options", {})})
    strategy = devices.start(config.runtime, config.training, config.optimizer, Console(quiet=True))
    if order.get("no_strategy"):
        strategy = tf.distribute.get_strategy()
    if order["peer"] == "mirrorline_run":
        run_loop(config, source, strategy, gate)
        return
    experiment = experiments.build(config, source, strategy)
    train_in_blocks(order, experiment, gate)


def train_in_blocks(order: Mapping[str, Any], experiment: Experiment, gate: Gate) -> None:
    """Trains with the production step on the production stream."""
    steps = experiment.steps
    if order.get("held_batch"):
        batch = next(iter(experiment.train_dataset(0)))
        iterator = steps.input_distributor.iterator(tf.data.Dataset.from_tensors(batch).repeat())
    else:
        iterator = experiment.train_iterator(0)
    if order.get("export"):
        export(experiment, order["export"])
        gate.report_first_steps(steps.train_steps(iterator, tf.constant(1)).numpy()[0, 0] for _ in range(PROOF_STEPS))
    gate.on("evaluate", timed(lambda: experiment.evaluate(experiment.source.test)))
    gate.train(lambda count: steps.train_steps(iterator, tf.constant(count)).numpy())


def export(experiment: Experiment, path: str) -> None:
    """Writes weights and the indices of the first batches, in the order in which the stream has them."""
    count = PROOF_STEPS * experiment.plan.batch_size
    first = example_index_array(np.arange(count), experiment.source.train.num_examples, SEED)
    np.savez(path, *experiment.state.model.get_weights(), first=first)


def run_loop(config: ExperimentConfig, source: Source, strategy: Any, gate: Gate) -> None:
    """Trains by the loop of `mirrorline train`, with everything that it writes, in a directory of its own."""
    from pipeline.run_directory import RunDirectory
    from pipeline.training.trainer import Trainer
    with tempfile.TemporaryDirectory(prefix="mirrorline-peers-") as folder:
        config = config.replace(workdir=f"{folder}/run")
        directory = RunDirectory(config.runtime.workdir)
        experiment = experiments.build(config, source, strategy)
        directory.claim()
        experiment.steps.train_steps = held_between_blocks(experiment.steps.train_steps, Blocks(gate))
        Trainer(experiment, directory).run()


def held_between_blocks(train_steps: Any, blocks: Blocks) -> Callable[[Any, Any], Any]:
    """Returns a function in place of `train_steps` that waits wherever a block is done."""
    def held(iterator, count):
        blocks.call_begins()
        blocks.count(int(count))
        return train_steps(iterator, count)
    held.get_concrete_function = train_steps.get_concrete_function  # Its operations are counted.
    return held


def load_source(folder: str, workload: Workload) -> Source:
    """Returns the Source of the arrays in a folder, with as many test examples as are evaluated."""
    splits = []
    for name, most in (("train", None), ("test", workload.evaluated)):
        images = read_images(f"{folder}/{name}_images.npy", most)
        labels = np.load(f"{folder}/{name}_labels.npy")[:most]
        splits.append(Split(name, len(labels), InMemory(images, labels), labels))
    names = tuple(str(c) for c in range(10))
    return Source(workload.dataset, names, workload.image_shape, *splits, None, digest("peers", workload.dataset))


def read_images(path: str, most: int | None = None) -> np.ndarray:
    """Reads uint8 [N, H, W, C] from a .npy file into memory that tensors can share, without a second copy."""
    with open(path, "rb") as file:
        np.lib.format.read_magic(file)
        shape, _, _ = np.lib.format.read_array_header_1_0(file)
        images = empty_images(min(shape[0], most or shape[0]), shape[1:])
        file.readinto(memoryview(images).cast("B"))
    return images
