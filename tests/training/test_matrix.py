"""Every model, every precision with one and two replicas, several options at once: trains, resumes, evaluates.

Most rows are in make acceptance alone, and so is every model with one and two replicas, killed and resumed.
"""
import keras
import numpy as np
import pytest

from pipeline.training.checkpoint import CheckpointStore
from pipeline.training.step import TRAIN_COLUMNS
from tests.selection import quick
from tests.training.small import build, run, weights

APPLIED, WAIT = TRAIN_COLUMNS.index("applied"), TRAIN_COLUMNS.index("input_wait")

# Pairs: every precision with 1 and 2 replicas, every augmentation, optimizer and schedule. The time goes into tracing,
# which grows with the layers and the replicas, so the deep models have one number of replicas. mixed_float16 is
# emulated on a CPU, many times slower, so the small models stand for it here.
CELLS = [
    ("mlp", 1, "mixed_float16", dict(optimizer="sgd", augment=("flip", "mixup"), schedule="cosine", warmup="2")),
    ("mlp", 2, "mixed_bfloat16", dict(optimizer="lamb", augment=("color", "cutout"), ema_decay=0.9,
                                      learning_rate=1e-2)),
    ("cnn", 1, "mixed_bfloat16", dict(optimizer="adamw", weight_decay=0.05, label_smoothing=0.1, l2=1e-4)),
    ("cnn", 2, "float32", dict(optimizer="lion", learning_rate=3e-4, weight_decay=0.1, decay_all=True,
                               augment=("crop", "cutmix"), accumulate_steps=2)),
    ("resnet_like", 2, "mixed_bfloat16", dict(sync_batch_norm=False, schedule="step", clip_norm=5.0)),
    ("inception", 1, "mixed_bfloat16", dict(class_weight="balanced", validation_split=0.2)),
    ("mini_inception", 1, "float32", dict(normalize="per_channel", schedule="one-cycle")),
    ("three_apis", 1, "float32", dict(augment=("rotate", "randaugment"), model_options=("api=functional",), xla="on",
                                      clip_norm=1.0)),
    ("three_apis", 2, "mixed_float16", dict(model_options=("api=sequential",), learning_rate=1e-2)),
    ("mlp", 1, "float32", dict(augment=("rotate", "randaugment"), xla="on", clip_norm=1.0)),
    ("mlp", 1, "mixed_bfloat16", dict(optimizer="adamw", weight_decay=0.05, ema_decay=0.9)),
]


@pytest.mark.parametrize("model,replicas,precision,options", quick(CELLS, len(CELLS) - 1))
def test_a_run_continues_from_a_checkpoint_bit_for_bit(strategy, tmp_path, model, replicas, precision, options):
    steps = 24 if model in ("mlp", "three_apis") else 10
    options = dict(model=model, precision=precision, force=True, batch_size=16, steps=steps, seed=1) | options
    whole = build(strategy(replicas), **options)
    rows = run(whole, steps // 2)
    store = CheckpointStore(str(tmp_path / "checkpoints"), whole.state, keep=1)
    store.save(steps // 2)
    rows = np.concatenate([rows, run(whole, steps - steps // 2, start=steps // 2)])  # While the writer may still write.
    store.sync()
    losses = rows[rows[:, APPLIED] == 1, 0]
    assert np.isfinite(losses).all() and losses[-3:].mean() < losses[:3].mean(), losses
    assert {v.dtype for v in whole.state.model.trainable_variables} == {"float32"}

    resumed = build(strategy(replicas), **options | dict(seed=1))
    keras.utils.set_random_seed(99)
    again = CheckpointStore(str(tmp_path / "checkpoints"), resumed.state, keep=1)
    step = again.restore()
    assert step == steps // 2
    np.testing.assert_array_equal(run(resumed, steps - step, start=step)[:, :WAIT], rows[step:, :WAIT])
    assert all((a == b).all() for a, b in zip(weights(whole), weights(resumed), strict=True))
    figures = resumed.evaluate(resumed.source.validation or resumed.source.test).figures
    assert figures["examples"] == (287 if "validation_split" in options else 360)
    assert figures == whole.evaluate(whole.source.validation or whole.source.test).figures
