"""--layer_decay, --lr_multipliers and --weight_decay_exclude: each weight's own rate, by hand in NumPy."""
import numpy as np
import pytest

from pipeline.errors import UsageError
from pipeline.internals import keras_internals
from pipeline.training.step import TRAIN_COLUMNS
from tests.models.test_freezing import assert_frozen, values
from tests.selection import quick
from tests.training import by_hand
from tests.training.own_models import offer
from tests.training.small import build, distance, run, weights
from tests.training.test_unfreezing import operations

RATES = dict(layer_decay=0.5, lr_multipliers=("head=4", "hidden/b=0.25"))
FACTORS = {"hidden/w": 0.5, "hidden/b": 0.125, "classifier/w": 4.0, "classifier/b": 4.0}
KERNELS = {"adamw": "ResourceApplyAdam", "sgd": "ResourceApplyKerasMomentum"}


# The fused kernels and Keras's operations, with what else a step does.
@pytest.mark.parametrize("optimizer, replicas, fused, options", quick([
    ("adamw", 2, True, dict(clip_norm=0.5, accumulate_steps=2, weight_decay_exclude=("head",))),
    ("adamw", 1, False, {}), ("sgd", 1, True, dict(clip_norm=0.5)), ("sgd", 2, False, {}),
    ("adamw", 1, True, dict(freeze=("backbone",), unfreeze_at=("3",)))], 0))
def test_each_weight_has_its_own_rate_by_hand(strategy, monkeypatch, optimizer, replicas, fused, options):
    monkeypatch.setattr(keras_internals, "FUSED_ELEMENTS", 2**9 if fused else 2**30)
    experiment = build(strategy(replicas), optimizer=optimizer, learning_rate=by_hand.RATE, **RATES, **options,
                       **by_hand.OPTIONS[optimizer])
    assert {name: experiment.trained.factors[name] for name in FACTORS} == FACTORS
    before, begins = values(experiment), dict.fromkeys(FACTORS, 0)
    if "freeze" in options:
        begins.update({"hidden/w": 3, "hidden/b": 3})
    expected, norms = by_hand.train(
        before, by_hand.batches(experiment, 6), optimizer, begins, FACTORS, options.get("clip_norm", np.inf),
        undecayed=["classifier/w"] if "weight_decay_exclude" in options else [])
    rows, after = run(experiment, 6), values(experiment)
    assert distance([expected[name] for name in before], [after[name] for name in before]) < 1e-12
    np.testing.assert_allclose(rows[:, TRAIN_COLUMNS.index("gradient_norm")], norms, rtol=1e-10)
    large = sum(before[name].size >= 2**9 for name in FACTORS)
    assert operations(experiment).count(KERNELS[optimizer]) == (replicas * large if fused else 0)


@pytest.mark.parametrize("optimizer", quick(["sgd", "lion", "lamb", "adam"]))
def test_a_rate_of_a_half_everywhere_is_half_the_learning_rate(strategy, optimizer):
    """In every optimizer and its decay the weight's own rate is used wherever one is."""
    common = dict(weight_decay=0.125, ema_decay=0.5, precision="float32", optimizer=optimizer)
    half = build(strategy(1), learning_rate=2.0**-9, **common)
    factor = build(strategy(1), learning_rate=2.0**-8, lr_multipliers=("all=0.5",), **common)
    for experiment in (half, factor):
        run(experiment, 4)
    assert distance(weights(half), weights(factor)) < 1e-6


def test_a_rate_of_zero_freezes_and_one_changes_nothing(strategy):
    experiment = build(strategy(1), model="cnn", image_size=8, precision="float32",
                       lr_multipliers=("block1=0", "block2/convolution=0"))
    assert experiment.freezing.frozen.names == tuple(
        f"block{i}/{name}" for i, name in [*((1, n) for n in (
            "convolution/kernel", "convolution/bias", "norm/gamma", "norm/beta")),
            (2, "convolution/kernel"), (2, "convolution/bias")])
    assert operations(experiment).count("Conv2DBackpropFilter") == 1
    before = values(experiment)
    run(experiment, 2)
    assert_frozen(before, values(experiment), lambda name: name.startswith(("block1/", "block2/convolution"))
                  or name == "block3/convolution/bias")
    plain, ones = build(strategy(1)), build(strategy(1), lr_multipliers=("all=1",))
    assert [keras_internals.PerVariable in type(e.state.optimizer).__mro__ for e in (plain, ones)] == [False, False]


@pytest.mark.parametrize("batch_norm, updates", quick([("inference", False), ("train", True)], 1))
def test_frozen_batch_normalization(strategy, monkeypatch, batch_norm, updates):
    """`train` uses the statistics of the batch and updates the moving ones; its scale and offset stay."""
    offer(monkeypatch)
    experiment = build(strategy(1), model="pooled", image_size=8, freeze=("backbone",), frozen_batch_norm=batch_norm)
    before = values(experiment)
    loss = run(experiment, 1)[0, 0]
    assert_frozen(before, values(experiment), lambda name: not name.startswith("classifier/")
                  and not (updates and "/moving_" in name))
    other = build(strategy(1), model="pooled", image_size=8)
    # With the statistics of the batch, as where everything trains.
    assert (abs(loss - run(other, 1)[0, 0]) < 1e-12) == updates


@pytest.mark.parametrize("options, says", [
    (dict(lr_multipliers=("head",)), "--lr_multipliers must be PATTERN=FACTOR with a factor of 0 or more"),
    (dict(lr_multipliers=("head=-1",)), "found 'head=-1'"), (dict(lr_multipliers=("head=inf",)), "found 'head=inf'"),
    (dict(lr_multipliers=("haed=1",)), "--lr_multipliers=haed matches no weight of model mlp: did you mean 'head'?"),
    (dict(lr_multipliers=("all=0",)), "every learning rate of model mlp is 0: --lr_multipliers leaves nothing"),
    (dict(weight_decay_exclude=("hiden",)), "--weight_decay_exclude=hiden matches no weight"),
    (dict(layer_decay=0.0), "--layer_decay must be > 0 and <= 1; found 0"),
    (dict(frozen_batch_norm="train"), "--frozen_batch_norm=train belongs to --freeze"),
])
def test_rates_that_cannot_be_are_refused(strategy, options, says):
    with pytest.raises(UsageError) as error:
        build(strategy(1), **options)
    assert says in str(error.value)
