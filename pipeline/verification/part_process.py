"""One process of `mirrorline verify`: measures with one strategy, and writes its results to files.

Run as `python -m pipeline.verification.part_process ORDER.json`, where the order is {"config": {option: value},
"parts": names, "steps": int, "folder": of the results}. It writes rows.json, a list of complete comparisons, and for
the part "replicas" arrays.npz and facts.json, which are compared with those of another process.
"""
import dataclasses
import json
import os
import sys
from collections.abc import Mapping
from typing import Any

from pipeline import keras_import, silence
from pipeline.choices import MODELS
from pipeline.config import ExperimentConfig
from pipeline.console import Console
from pipeline.errors import RunFailure, UsageError
from pipeline.preprocessing import UNIT
from pipeline.verification.report import Comparison

# Imports inside functions: settings come before TensorFlow is imported.

FLOAT32 = "float32"


def main(path: str) -> int:
    """Runs an order; returns the exit code: 0, 1 for a run failure, 2 for wrong use."""
    with open(path, encoding="utf-8") as file:
        order = json.load(file)
    silence.quiet(order["config"]["verbosity"])
    try:
        measure(order, ExperimentConfig.from_flat(order["config"]))
    except (UsageError, RunFailure) as error:
        print(" ".join(str(error).splitlines()), file=sys.stderr)
        return 2 if isinstance(error, UsageError) else 1
    return 0


def measure(order: Mapping[str, Any], config: ExperimentConfig) -> None:
    """Runs the parts of an order in this process's one strategy."""
    from pipeline.distributed import devices
    strategy = devices.start(config.runtime, config.training, config.optimizer, Console(quiet=True))
    rows: list[Comparison] = []
    if "reduction" in order["parts"]:
        rows += self_test(strategy, config)
    if not any(row.difference for row in rows):  # With a faulty reduction no experiment can be built.
        rows += measure_experiments(order, config, strategy)
    write(order, "rows.json", [dataclasses.asdict(row) for row in rows])


def self_test(strategy: Any, config: ExperimentConfig) -> list[Comparison]:
    """Adds up known values by the step's reduction."""
    from pipeline.training import self_test as reduction
    dtype = "float64" if config.runtime.precision == "float64" else FLOAT32
    fault = reduction.find_fault(strategy, dtype)
    single = "one replica: nothing is reduced" if strategy.num_replicas_in_sync == 1 else ""
    return [Comparison("reduction", f"known values added up by {reduction.reduction_name(strategy)}",
                       float("inf") if fault else 0.0, 0.0, single, fault or "")]


def measure_experiments(order: Mapping[str, Any], config: ExperimentConfig, strategy: Any) -> list[Comparison]:
    """Measures experiments on the user's data."""
    from pipeline.data.load import load
    from pipeline.verification import measure as measuring
    source = load(config.data, config.training.batch_size, Console(quiet=True))
    rows: list[Comparison] = []
    parts, wide = order["parts"], None
    if {"replicas", "ragged"} & set(parts):
        wide = build(parity_config(config), source, strategy)
    if "replicas" in parts:
        measure_replicas(order, config, source, wide)
    if "ragged" in parts:
        rows += measuring.ragged_evaluations(wide)
    if "infinite" in parts:
        rows += measuring.bad_gradients(build(config, source, strategy))
    return rows


def measure_replicas(order: Mapping[str, Any], config: ExperimentConfig, source: Any, wide: Any) -> None:
    """Writes the results that must be the same on any number of replicas; `wide` is an Experiment in float64."""
    from pipeline.models import model_checks
    from pipeline.verification import measure as measuring
    precision, model = config.runtime.precision, wide.state.model
    narrow = wide
    if precision != "float64":
        narrow = build(parity_config(config, precision), source, wide.strategy)
        model.set_weights(narrow.state.model.get_weights())
    coarsest = model_checks.coarsest_dtype(model, (*source.image_shape[:2], wide.settings.image_channels))
    arrays = measuring.first_gradient(narrow)
    if wide.strategy.num_replicas_in_sync == 1:
        arrays.update(measuring.training_and_control(wide, order["steps"], model_checks.rounding_error(coarsest)))
    else:
        arrays.update(measuring.training(wide, order["steps"]))
    write_arrays(order, arrays)
    write(order, "facts.json", {
        "coarsest": coarsest,
        "steps": order["steps"], "precision": precision,
        "normalized": config.data.normalize != wide.config.data.normalize,
        "unclaimed": measuring.unclaimed_parity(model, config.model.sync_batch_norm),
        "rounding": gradient_rounding(config, wide.strategy)})


def parity_config(config: ExperimentConfig, precision: str = "float64") -> ExperimentConfig:
    """Returns the configuration in which N replicas must agree with one: with another precision and normalization.

    On black pixels a convolution gives exactly its bias, which without a gradient stays 0: at the kink of the ReLU the
    sign of a rounding error decides, and no two orders of summation agree. Normalized images have no zeros. A model
    with an input range of its own is given that.
    """
    normalize = "per_channel" if MODELS.find(config.model.model).row.input_range == UNIT else "none"
    return config.replace(precision=precision, normalize=normalize)


def build(config: ExperimentConfig, source: Any, strategy: Any) -> Any:
    """Returns an Experiment with the seed's weights."""
    import keras

    from pipeline.training import experiment as experiments
    keras_import.set_precision(config.runtime.precision)
    keras.utils.set_random_seed(config.training.seed)
    experiment = experiments.build(config, source, strategy)
    experiment.check_batches()
    return experiment


def gradient_rounding(config: ExperimentConfig, strategy: Any) -> str:
    """Returns why the gradient's bound is not claimed in the user's precision, "" where it is."""
    import tensorflow as tf

    from pipeline.distributed.input_distribution import uses_gpus
    if config.runtime.precision.startswith("mixed"):
        return f"{config.runtime.precision} rounds more coarsely"
    if uses_gpus(strategy) and config.runtime.precision == FLOAT32 and (
            tf.config.experimental.tensor_float_32_execution_enabled()):
        return "TensorFloat-32 rounds more coarsely"
    return ""


def write(order: Mapping[str, Any], name: str, value: Any) -> None:
    """Writes a JSON file of the results, in which numbers may be infinite."""
    with open(os.path.join(order["folder"], name), "w", encoding="utf-8") as file:
        json.dump(value, file)


def write_arrays(order: Mapping[str, Any], arrays: Mapping[str, Any]) -> None:
    """Writes the arrays of the results."""
    import numpy as np
    np.savez(os.path.join(order["folder"], "arrays.npz"), **arrays)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
