"""One cell, measured in this process."""
import json

import numpy as np
import pytest

from pipeline.benchmark import measure
from tests.selection import quick
from tests.training import small

QUICK = measure.Extent(repeats=5, repeat_seconds=0.02, calls=30)


@pytest.fixture(scope="module")
def measured(strategy):
    """(Experiment, figures, reported phases)."""
    output = []
    experiment = small.build(strategy(2), model="mlp", precision="float32", augment=("crop",), batch_size=16)
    return experiment, measure.measure(experiment, QUICK, output.append), output


def test_every_figure_is_there_and_plausible(measured):
    _, found, output = measured
    json.dumps(found, allow_nan=False)
    assert len(found["repeats"]) == 5 and min(found["repeats"]) > 0
    assert found["examples_per_second"] == np.median(found["repeats"])
    assert found["spread"] == [min(found["repeats"]), max(found["repeats"])]
    assert found["examples_per_second_per_replica"] == found["examples_per_second"] / 2
    assert found["synthetic_examples_per_second"] > 0 and 0 <= found["input_wait_share"] < 1
    assert 0 < found["step_ms"]["p50"] <= found["step_ms"]["p90"] <= found["step_ms"]["p99"]
    assert list(found["split_ms"]) == ["forward", "backward", "reduction", "update", "rest"]
    assert min(found["split_ms"].values()) >= 0 and found["split_ms"]["forward"] > 0
    assert found["trace_seconds"] > 0.01 and found["compile_seconds"] is None  # Nothing was compiled by XLA.
    assert found["peak_memory_mib"]["host"] > 200 and found["peak_memory_mib"]["device"] is None
    assert found["applied_share"] == 1
    assert output == ["tracing", "first step", "warming up", "single steps", "throughput", "parts of a step"]


@pytest.mark.acceptance
def test_a_step_that_makes_its_own_batches_has_no_input_wait(strategy, monkeypatch):
    experiment = small.build(strategy(1), model="mlp", precision="float32", cache="device")
    slower = {"examples_per_second": 1.0, "input_wait_share": 0.5}
    monkeypatch.setattr(measure, "throughput", lambda *_: dict(slower))
    monkeypatch.setattr(measure, "split", lambda *_: {})
    assert measure.measure(experiment, QUICK)["input_wait_share"] == 0


def test_what_is_measured_is_the_step_of_a_training(measured, strategy):
    _, found, _ = measured
    again = small.build(strategy(2), model="mlp", precision="float32", augment=("crop",), batch_size=16)
    assert found["first_losses"] == small.run(again, measure.FIRST_LOSSES)[:, measure.LOSS].tolist()


def test_operations_and_bytes_are_those_of_the_model(measured):
    _, found, _ = measured
    inputs, hidden, classes = 28 * 28, 64, 10
    assert found["gradient_bytes"] == 4 * 50_890
    assert found["reduced_bytes"] == 4 * (50_890 + 4)
    # Forward, and backward to the weights of both layers and to the activations between them.
    assert found["flops_per_example"] == 2 * (2 * inputs * hidden + 3 * hidden * classes)


# Layers of 32 and 64 channels: two sums of each and a number of values in float64, two sums of each in float32.
FORWARD, BACKWARD = (2 * (32 + 64) + 2) * 8, 2 * (32 + 64) * 4


@pytest.mark.parametrize("options, count, size", quick([
    ({}, 4, FORWARD + BACKWARD), ({"accumulate_steps": 2}, 8, 2 * (FORWARD + BACKWARD)),
    ({"precision": "float64"}, 4, 2 * FORWARD), ({"model": "mlp"}, 0, 0)], 1, 3))
def test_batch_statistics_are_two_reductions_a_layer_and_micro_batch(strategy, options, count, size):
    experiment = small.build(strategy(1), **{"model": "three_apis", "precision": "float32", **options})
    assert measure.statistics_reductions(experiment) == {"count": count, "bytes": size}


def test_the_step_is_traced_once(measured):
    experiment, found, _ = measured
    assert len(found["first_losses"]) == measure.FIRST_LOSSES
    assert experiment.steps.train_steps.experimental_get_tracing_count() == 1


def test_phases_are_differences_of_the_times_to_their_ends():
    reached = {"forward": 10.0, "backward": 30.0, "reduction": 31.0, "update": 40.0}
    assert measure.differences(reached, 42.0) == {"forward": 10, "backward": 20, "reduction": 1, "update": 9, "rest": 2}
    noisy = {"forward": 10.0, "backward": 45.0, "reduction": 31.0, "update": 40.0}
    parts = measure.differences(noisy, 39.0)
    assert min(parts.values()) == 0 and sum(parts.values()) == 40
