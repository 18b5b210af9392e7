"""A run goes on with another number of replicas: the same stream, the same numbers to rounding."""
import keras
import numpy as np

from pipeline.training.checkpoint import CheckpointStore
from tests.parity_cells import EVERYTHING
from tests.training.small import build, distance, run, weights


def _everything(experiment):
    state = experiment.state
    return [*weights(experiment), *(keras.ops.convert_to_numpy(v) for v in state.optimizer.variables),
            *(a.numpy() for a in state.ema)]


def test_one_four_and_one_again_agree_with_the_uninterrupted_run(strategy, tmp_path):
    options = dict(EVERYTHING, model="three_apis", image_size=20, batch_size=8, ema_decay=0.9, schedule="cosine",
                   steps=12)
    whole = build(strategy(1), **options)
    losses, parts = run(whole, 12)[:, 0], []
    for launch, replicas in enumerate((1, 4, 1)):
        experiment = build(strategy(replicas), **options)
        if launch:  # Nothing may come from the fresh model.
            for variable in experiment.state.model.variables:
                variable.assign(variable * 0)
        store = CheckpointStore(str(tmp_path / "checkpoints"), experiment.state, keep=2)
        assert store.restore() == 4 * launch
        assert int(experiment.state.position.numpy()) == 4 * launch * 8
        parts.append(run(experiment, 4, start=4 * launch)[:, 0])
        store.save(4 * launch + 4)
        store.sync()
    np.testing.assert_allclose(np.concatenate(parts), losses, rtol=1e-8)
    assert distance(_everything(whole), _everything(experiment)) < 1e-8
