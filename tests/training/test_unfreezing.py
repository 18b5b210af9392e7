"""--unfreeze_at: what thaws begins as in a new optimizer, on any number of replicas and after any resume."""
import keras
import numpy as np
import pytest
import tensorflow as tf

from pipeline.errors import UsageError
from pipeline.internals import keras_internals
from pipeline.models.weight_names import named
from pipeline.training.step import TRAIN_COLUMNS, StepFunctions
from tests.models.test_freezing import use_statistics
from tests.parity_cells import EVERYTHING
from tests.selection import quick
from tests.training import by_hand
from tests.training.small import build, copies, distance, run, weights

NORM = TRAIN_COLUMNS.index("gradient_norm")
STAGES = dict(freeze=("backbone",), unfreeze_at=("hidden/w@2", "all@4"))
BEGINS = {"classifier/w": 0, "classifier/b": 0, "hidden/w": 2, "hidden/b": 4}


def values(experiment):
    return {name: keras.ops.convert_to_numpy(v) for name, v in named(experiment.state.model).items()}


# Each kernel fused and not, each optimizer on one replica and on two.
@pytest.mark.parametrize("optimizer, replicas, fused, bad", quick([
    ("sgd", 1, True, ()), ("adamw", 2, True, (1, 3, 5)), ("adamw", 1, False, ()), ("sgd", 2, True, (1, 2)),
    ("adamw", 1, True, ()), ("sgd", 1, False, ())], 1))
def test_a_run_equals_stages_with_new_optimizers_by_hand(strategy, monkeypatch, optimizer, replicas, fused, bad):
    """`bad`: steps whose gradient is not finite, before a point and after it: a new optimizer does not count them."""
    monkeypatch.setattr(keras_internals, "FUSED_ELEMENTS", 2**9 if fused else 2**30)
    experiment = build(strategy(replicas), optimizer=optimizer, learning_rate=by_hand.RATE, clip_norm=0.5, **STAGES,
                       **by_hand.OPTIONS[optimizer])
    experiment.steps = StepFunctions(
        experiment.strategy, experiment.state, experiment.steps.schedule, experiment.settings,
        fault=lambda grads, replica, step: [
            tf.where(tf.reduce_any(step == tf.constant(bad, tf.int64)), tf.cast(np.inf, g.dtype), g) for g in grads])
    before, batches = values(experiment), by_hand.batches(experiment, 8)
    expected, norms = by_hand.train(before, batches, optimizer, BEGINS, limit=0.5, skipped=bad)
    rows, after = run(experiment, 8), values(experiment)
    assert distance([expected[name] for name in before], [after[name] for name in before]) < 1e-12
    applied = [step for step in range(8) if step not in bad]
    np.testing.assert_allclose(rows[applied, NORM], np.array(norms)[applied], rtol=1e-10)
    assert all((copy == every[0]).all() for every in copies(experiment) for copy in every)


# A small model, and one with everything that a step has, on one replica and on several.
@pytest.mark.parametrize("replicas, options", quick([
    *((n, dict(freeze=("backbone",), unfreeze_at=("2",), optimizer="adam", ema_decay=0.5)) for n in (1, 2)),
    *((n, dict(EVERYTHING, model="cnn", image_size=8, freeze=("backbone",), ema_decay=0.5, accumulate_steps=2,
               unfreeze_at=("block3@2", "block2/norm@3", "all@5"), precision="float32", batch_size=12,
               augment=("flip",))) for n in (1, 3))], 0))
def test_every_step_around_a_point_continues_with_the_same_bits(strategy, tmp_path, replicas, options):
    whole, resumed = (build(strategy(replicas), rewarmup="2", **options) for _ in range(2))
    points, steps = whole.plan.unfreeze_at, whole.plan.unfreeze_at[-1] + 2
    use_statistics(whole)
    saved = []
    for step in range(steps):
        saved.append(whole.state.checkpoint().write(str(tmp_path / str(step))))
        run(whole, 1, start=step)
    # Back across points too: after the last one the state of the first is read.
    for cut in sorted({step for point in points for step in (point - 1, point, point + 1)}, reverse=True):
        resumed.state.checkpoint().read(saved[cut]).assert_consumed()
        run(resumed, steps - cut, start=cut)
        for state in ("model", "optimizer"):
            pairs = zip(getattr(whole.state, state).variables, getattr(resumed.state, state).variables, strict=True)
            assert all(np.array_equal(a.numpy(), b.numpy()) for a, b in pairs), (cut, state)
        assert all(np.array_equal(a, b) for a, b in zip(whole.state.ema, resumed.state.ema, strict=True))


@pytest.mark.acceptance
def test_replicas_agree_across_points(strategy):
    options = dict(EVERYTHING, model="cnn", image_size=8, freeze=("backbone",), unfreeze_at=("block3@2", "all@5"),
                   batch_size=12)
    found = []
    for replicas in (1, 3):
        experiment = build(strategy(replicas), **options)
        use_statistics(experiment)
        found.append((run(experiment, 8)[:, 0], weights(experiment)))
    np.testing.assert_allclose(found[0][0], found[1][0], rtol=1e-8)
    assert distance(found[0][1], found[1][1]) < 1e-8


def operations(experiment):
    """Returns the operations of the step as it is traced now."""
    graph = experiment.steps.train_steps.get_concrete_function(
        experiment.train_iterator(0), tf.constant(1)).graph.as_graph_def()
    return [node.op for function in graph.library.function for node in function.node_def]


def test_frozen_layers_have_no_gradient_in_the_graph(strategy):
    experiment = build(strategy(1), model="cnn", image_size=8, precision="float32", freeze=("backbone",),
                       unfreeze_at=("block3@2", "all@3"))
    found = []
    for step in range(1, 4):
        experiment.enter_phase(step)
        nodes = operations(experiment)
        found.append((nodes.count("Conv2DBackpropFilter"), nodes.count("Conv2DBackpropInput"),
                      sum(op.startswith("FusedBatchNormGrad") for op in nodes), nodes.count("MaxPoolGrad")))
    assert found == [(0, 0, 0, 0), (1, 1, 1, 0), (3, 3, 3, 0)]
    assert experiment.freezing.describe()["unfreeze_at"][0] == {
        "step": 2, "variables": [f"block{i}/{name}" for i in (1, 2) for name in (
            "convolution/kernel", "convolution/bias", "norm/gamma", "norm/beta")],
        "parameters": 320 + 64 + 18496 + 128, "trained_parameters": 73856 + 256 + 81930}


def test_the_rate_rises_again_after_each_point(strategy):
    experiment = build(strategy(1), **STAGES, schedule="cosine", learning_rate=0.5, rewarmup="3", steps=8)
    plain = build(strategy(1), schedule="cosine", learning_rate=0.5, steps=8)
    rates = [np.array([e.learning_rate(step) for step in range(8)]) for e in (experiment, plain)]
    np.testing.assert_allclose(rates[0], rates[1] * [1, 1, 1 / 3, 2 / 3, 1 / 3, 2 / 3, 1, 1], rtol=1e-6)


@pytest.mark.parametrize("options, says", [
    (dict(unfreeze_at=("2",)), "--unfreeze_at=2 needs --freeze"),
    (dict(rewarmup="5"), "--rewarmup=5 follows the points of --unfreeze_at, and there are none"),
    (dict(STAGES, unfreeze_at=("hidden",)), "'hidden' has no time; give hidden@1epoch or hidden@100 (steps)"),
    (dict(STAGES, unfreeze_at=("hidden@0",)), "'hidden@0' needs names before @ and a time of more than 0"),
    (dict(STAGES, unfreeze_at=("hidden@3s",)), "cannot read '3s'"),
    (dict(STAGES, unfreeze_at=("hidden/w@3", "all@3")), "is after 3, 3 steps: give each point a later time"),
    (dict(STAGES, unfreeze_at=("all@20",)), "step 20 is not inside this run of 20 steps"),
    (dict(STAGES, unfreeze_at=("hiden@3",)), "matches no weight of model mlp: did you mean 'hidden'?"),
    (dict(STAGES, unfreeze_at=("head@3",)), "head of model mlp trains already; a point must unfreeze something of hid"),
])
def test_points_that_cannot_be_are_refused(strategy, options, says):
    with pytest.raises(UsageError) as error:
        build(strategy(1), **options)
    assert says in str(error.value)
