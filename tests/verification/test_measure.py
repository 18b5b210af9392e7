"""Measurements of a verification inside a process, on real experiments."""
import keras
import numpy as np
import pytest
import tensorflow as tf

from pipeline.training import gradients, inference, step
from pipeline.training.step import TRAIN_COLUMNS
from pipeline.verification import measure
from tests.selection import half_precision, quick
from tests.training.small import build


@pytest.mark.parametrize("replicas, precision", quick([(2, "float32"), (1, "mixed_float16")], 0))
def test_bad_gradients_change_nothing_and_are_counted(strategy, replicas, precision):
    experiment = build(strategy(replicas), precision=precision, force=True, ema_decay=0.9)
    variables, counters = measure.bad_gradients(experiment)
    assert (variables.difference, variables.verdict, counters.verdict) == (0.0, "ok", "ok"), counters
    assert f"{2 * replicas} such steps" in counters.compared
    assert ("loss scale halved" in counters.compared) == (precision == "mixed_float16")
    assert int(experiment.state.skipped_steps.numpy()) == 2 * replicas
    assert int(experiment.state.global_step.numpy()) == 4 * replicas + 1


def test_a_bad_gradient_that_is_applied_is_seen(strategy, monkeypatch):
    assert step.is_finite is gradients.is_finite
    monkeypatch.setattr(step, "is_finite", lambda norm, loss: tf.constant(True))
    variables, counters = measure.bad_gradients(build(strategy(1)))
    assert variables.verdict == counters.verdict == "VIOLATED"
    assert variables.difference == np.inf and "Inf on replica 0" in counters.note


@half_precision
def test_counters_that_are_wrong_after_a_skipped_step_are_seen(strategy):
    experiment, row = build(strategy(1), precision="mixed_float16", force=True), np.zeros(len(TRAIN_COLUMNS))
    for name, value in (("global_step", 2), ("skipped_steps", 1), ("position", 32), ("loss_scale", 512)):
        getattr(experiment.state, name).assign(value)
    assert measure.miscounted(experiment, row, 1) == []
    experiment.state.loss_scale.assign(32768)
    row[measure.APPLIED] = 1
    assert measure.miscounted(experiment, row, 1) == ["the step was applied", "loss_scale is 32768 instead of 512"]


def test_copies_that_part_are_a_change():
    before = [[np.ones(2), np.ones(2)]]
    assert measure.largest_change(before, [[np.ones(2), np.array([1.0, 1.5])]]) == 0.5
    assert measure.largest_change(before, [[np.ones(2), np.array([1.0, np.nan])]]) == np.inf
    assert measure.largest_change(before, before) == 0.0


@pytest.mark.parametrize("sizes, expected", [
    ((360, 16, 2), [1, 15, 16, 17]), ((360, 16, 4), [1, 3, 15, 16, 17]), ((16, 16, 2), [1, 15, 16]),
    ((360, 1, 1), [1, 2]),
])
def test_sizes_that_fit_nothing(sizes, expected):
    assert measure.ragged_sizes(*sizes) == expected


@pytest.mark.parametrize("model", quick(["three_apis", "mlp"], 1))
def test_ragged_evaluations_agree_with_example_by_example(strategy, model):
    rows = measure.ragged_evaluations(build(strategy(2), model=model, normalize="per_channel"))
    assert [row.verdict for row in rows] == ["ok", "ok"] and "1, 15, 16, 17" in rows[0].compared
    assert rows[1].difference < 1e-12


@pytest.mark.parametrize("name, function, row", quick([
    ("masked", lambda values, weight: values, 1),
    ("is_correct", lambda logits, label: tf.ones_like(logits[:, 0]), 1),
], 1))
def test_a_wrong_evaluation_is_seen(strategy, monkeypatch, name, function, row):
    monkeypatch.setattr(inference, name, function)
    rows = measure.ragged_evaluations(build(strategy(2)))
    assert rows[row].verdict == "VIOLATED" and rows[row].difference > 1e-3


class Noisy(keras.Model):
    """A model as a user may write it."""

    def __init__(self, layer):
        super().__init__()
        self.layer, self.last = layer, keras.layers.Dense(3)

    def call(self, x, training=False):
        return self.last(self.layer(x, training=training))


@pytest.mark.parametrize("layer, reason", [
    (keras.layers.Dropout(0.5), "Dropout draws the same"),
    (keras.layers.GaussianNoise(0.5), "GaussianNoise draws the same"),
    (keras.layers.BatchNormalization(), "Keras's own BatchNormalization"), (keras.layers.Dropout(0.0), ""),
])
def test_parity_is_not_claimed_where_keras_draws_or_normalizes_by_replica(layer, reason):
    model = Noisy(layer)
    model(np.zeros((2, 4)))
    found = measure.unclaimed_parity(model, synchronize=True)
    assert found.startswith(reason) and bool(found) == bool(reason)


@pytest.mark.parametrize("model, unsynchronized", [("three_apis", False), ("mlp", True)])
def test_parity_needs_synchronized_statistics_where_there_are_any(strategy, model, unsynchronized):
    model = build(strategy(1), model=model).state.model
    assert measure.unclaimed_parity(model, True) == ""
    assert (measure.unclaimed_parity(model, False) == "") == unsynchronized
