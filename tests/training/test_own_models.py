"""Losses, dropout and variables of a user's own model reach the step and the checkpoint."""
import keras
import numpy as np
import pytest

from pipeline.errors import UsageError
from pipeline.models import registry
from pipeline.training.checkpoint import CheckpointStore
from tests.selection import quick
from tests.training.own_models import offer
from tests.training.small import build, distance, run, weights


@pytest.mark.parametrize("replicas,micro_batches", quick([(1, 2), (2, 1), (2, 2)], 1))
def test_penalties_of_layers_are_in_the_loss_once(strategy, monkeypatch, replicas, micro_batches):
    offer(monkeypatch)
    experiment = build(strategy(replicas), model="penalized", optimizer="sgd", accumulate_steps=micro_batches)
    single = build(strategy(1), model="penalized", optimizer="sgd")
    model, batch = single.state.model, next(iter(single.train_iterator(0)))
    logits = model(batch["image"].numpy() / 255.0, training=True)
    penalties = [float(p) for p in model.losses]
    assert len(penalties) == 2 and min(penalties) > 0
    expected = np.mean(keras.losses.sparse_categorical_crossentropy(batch["label"], logits, from_logits=True))
    rows = run(experiment, 4)
    assert rows[0, 0] == pytest.approx(expected + sum(penalties), rel=1e-12)
    np.testing.assert_allclose(rows[:, 0], run(single, 4)[:, 0], rtol=1e-12)
    assert distance(weights(single), weights(experiment)) < 1e-12


@pytest.mark.acceptance
def test_micro_batches_with_dropout_and_mixing_agree_on_any_number_of_replicas(strategy, monkeypatch):
    offer(monkeypatch)
    options = dict(model="penalized", model_options=("rate=0.4",), accumulate_steps=2, augment=("crop", "mixup"))
    one, several = build(strategy(1), **options), build(strategy(2), **options)
    np.testing.assert_allclose(run(several, 6)[:, 0], run(one, 6)[:, 0], rtol=1e-10)
    assert distance(weights(one), weights(several)) < 1e-10
    without = build(strategy(1), **{**options, "model_options": ()})
    run(without, 6)
    assert distance(weights(one), weights(without)) > 1e-2  # The dropout does something.


def test_layers_in_lists_of_lists_are_restored(strategy, monkeypatch, tmp_path):
    offer(monkeypatch)
    experiment = build(strategy(2), model="nested", precision="float32")
    expected = weights(experiment)
    assert len(expected) == 8
    store = CheckpointStore(str(tmp_path / "checkpoints"), experiment.state, keep=1)
    store.save(1)
    store.sync()
    for variable in experiment.state.model.variables:
        variable.assign(variable + 1)
    store.restore()
    for name, old, new in zip([v.path for v in experiment.state.model.variables], expected, weights(experiment),
                              strict=True):
        np.testing.assert_array_equal(new, old, err_msg=name)


def test_a_checkpoint_is_not_restored_into_a_model_without_variables(strategy, monkeypatch, tmp_path):
    experiment = build(strategy(2), precision="float32", optimizer="sgd", momentum=0.0)
    store = CheckpointStore(str(tmp_path / "checkpoints"), experiment.state, keep=1)
    store.save(1)
    store.sync()
    monkeypatch.setattr(registry, "build", lambda model, input_shape: None)
    unbuilt = build(strategy(2), precision="float32", optimizer="sgd", momentum=0.0)
    assert not unbuilt.state.model.variables
    with pytest.raises(UsageError, match="it has 4 variables of that kind, here there are 0"):
        CheckpointStore(str(tmp_path / "checkpoints"), unbuilt.state, keep=1).restore()
