"""A run continues on another number of replicas: the same stream, the same numbers to rounding."""
import keras
import numpy as np
import pytest

from pipeline.training.checkpoint import CheckpointStore
from tests.parity_cells import EVERYTHING
from tests.selection import quick
from tests.training.own_models import offer
from tests.training.small import build, distance, run, weights


def _everything(experiment):
    state = experiment.state
    return [*weights(experiment), *(keras.ops.convert_to_numpy(v) for v in state.optimizer.variables),
            *(a.numpy() for a in state.ema)]


@pytest.mark.parametrize("replicas, more", quick([(2, {"model": "mlp", "augment": ("flip",)}),
                                                  (4, {"model": "nested"})], 0))
def test_one_several_and_one_again_agree_with_the_uninterrupted_run(strategy, monkeypatch, tmp_path, replicas, more):
    offer(monkeypatch)
    options = {**EVERYTHING, "batch_size": 8, "ema_decay": 0.9, "schedule": "cosine", "steps": 12, **more}
    one, several = build(strategy(1), **options), build(strategy(replicas), **options)
    losses = run(one, 4)[:, 0]
    store = CheckpointStore(str(tmp_path / "checkpoints"), one.state, keep=2)
    store.save(4)
    store.sync()
    losses, parts = np.concatenate([losses, run(one, 8, start=4)[:, 0]]), [losses]
    whole = _everything(one)
    for start, experiment in ((4, several), (8, one)):
        for variable in experiment.state.model.variables:
            variable.assign(variable * 0)  # Nothing may come from the model as it was.
        store = CheckpointStore(str(tmp_path / "checkpoints"), experiment.state, keep=2)
        assert store.restore() == start and int(experiment.state.position.numpy()) == start * 8
        parts.append(run(experiment, 4, start=start)[:, 0])
        store.save(start + 4)
        store.sync()
    np.testing.assert_allclose(np.concatenate(parts), losses, rtol=1e-8)
    assert distance(whole, _everything(one)) < 1e-8
