"""The step computes the right numbers, and the same on any number of replicas."""
import math

import keras
import numpy as np
import pytest
import tensorflow as tf
from sklearn.metrics import top_k_accuracy_score
from tensorflow.python.eager import context

from pipeline.config import ExperimentConfig
from pipeline.errors import UsageError
from pipeline.models.weight_names import named
from pipeline.training.step import TRAIN_COLUMNS, StepFunctions
from tests.models.test_freezing import values
from tests.parity_cells import EVERYTHING, PARITY
from tests.selection import half_precision, quick
from tests.training.own_models import offer
from tests.training.small import build, copies, distance, run, weights

LOSS, ACCURACY, RATE, NORM, SCALE, APPLIED, WEIGHT_NORM, UPDATE_RATIO, TOP5, WAIT = range(len(TRAIN_COLUMNS))


@pytest.mark.acceptance  # In make test test_parity trains with the same.
@pytest.mark.parametrize("several", [2, 4])
def test_replicas_agree_with_everything_on(strategy, several):
    runs = {}
    for replicas in (1, several):
        experiment = build(strategy(replicas), **EVERYTHING)
        runs[replicas] = run(experiment, 12), weights(experiment)
        assert all((c == every[0]).all() for every in copies(experiment) for c in every)
    for column in (LOSS, ACCURACY, TOP5):
        np.testing.assert_allclose(runs[several][0][:, column], runs[1][0][:, column], rtol=1e-8)
    assert distance(runs[1][1], runs[several][1]) < 1e-8


@pytest.mark.acceptance
def test_statistics_are_equal_on_every_replica_without_synchronization(strategy, monkeypatch):
    offer(monkeypatch)
    experiment = build(strategy(2), model="nested", sync_batch_norm=False)
    run(experiment, 3)
    assert all((every[0] == every[1]).all() for every in copies(experiment))
    synchronized = build(strategy(2), model="nested")
    run(synchronized, 3)
    assert distance(weights(experiment), weights(synchronized)) > 1e-6  # The option does something.


def _of_keras(model):
    """The same network with the same weights, cnn from Keras's own layers."""
    if model.name == "cnn":
        k = keras.layers
        blocks = [(k.Conv2D(n, 3, padding="same"), k.BatchNormalization(), k.ReLU()) for n in (32, 64, 128)]
        reference = keras.Sequential([*(layer for block in blocks for layer in block), k.Flatten(), k.Dense(10)])
    else:
        reference = model.__class__.from_config(model.get_config())
    reference(np.zeros((1, 8, 8, 1)))
    reference.set_weights(model.get_weights())
    for variable in reference.trainable_variables:
        variable.regularizer = keras.regularizers.L2(1e-3) if len(variable.shape) > 1 else None
    return reference


@pytest.mark.parametrize("name,optimizer", quick([("cnn", "sgd"), ("cnn", "adam"), ("resnet_like", "sgd")], 1))
def test_one_step_is_that_of_keras_fit(strategy, name, optimizer):
    experiment = build(strategy(1), model=name, optimizer=optimizer, learning_rate=0.01, l2=1e-3, image_size=8)
    model = experiment.state.model
    reference = _of_keras(model)
    batch = next(iter(experiment.train_iterator(0)))
    images, labels = batch["image"].numpy() / 255.0, batch["label"].numpy()
    reference.compile(keras.optimizers.SGD(0.01, momentum=0.9) if optimizer == "sgd" else keras.optimizers.Adam(0.01),
                      keras.losses.SparseCategoricalCrossentropy(from_logits=True), metrics=["accuracy"])
    logits = reference(images, training=True).numpy()
    history = reference.fit(images, labels, batch_size=16, shuffle=False, verbose=0)
    rows = run(experiment, 1)
    assert rows[0, LOSS] == pytest.approx(history.history["loss"][0], rel=1e-6)
    assert rows[0, ACCURACY] == history.history["accuracy"][0]
    assert rows[0, TOP5] == top_k_accuracy_score(labels, logits, k=5, labels=range(10)) > rows[0, ACCURACY]
    # Keras follows the rounding noise in the gradient of a bias before a normalization.
    kept = [i for i, v in enumerate(model.trainable_variables) if not v.path.endswith("convolution/bias")]
    ours, theirs = ([keras.ops.convert_to_numpy(of.trainable_variables[i]) for i in kept]
                    for of in (model, reference))
    # Keras's Adam rounds 0.999 to float32 in the correction of the bias and nowhere else: 6.7e-6 of a first step.
    assert len(kept) > 8 and distance(theirs, ours) < (1e-5 if optimizer == "adam" else 1e-6)


def _poisoned(monkeypatch, poison, replica, at_step):
    """Adds a value to the first gradient of one replica at one step."""
    pure = StepFunctions._pure

    def poisoning(self, params, state, batch, draw_index, first_row, statistics_updates, loss_scale):
        grads, state, sums = pure(self, params, state, batch, draw_index, first_row, statistics_updates, loss_scale)
        here = (first_row == replica * self.micro_batch_size) & (draw_index == at_step)
        return [grads[0] + tf.where(here, tf.constant(poison, grads[0].dtype), 0), *grads[1:]], state, sums

    monkeypatch.setattr(StepFunctions, "_pure", poisoning)


@half_precision
@pytest.mark.parametrize("poison, replica", quick([(np.inf, 0), (np.nan, 1)], 1))
def test_an_infinite_gradient_of_any_replica_skips_the_step_on_all(strategy, monkeypatch, poison, replica):
    _poisoned(monkeypatch, poison, replica, at_step=2)
    offer(monkeypatch)
    experiment = build(strategy(2), model="nested", precision="mixed_float16", force=True, ema_decay=0.9)
    experiment.state.loss_scale.assign(8.0)
    run(experiment, 2)
    before = weights(experiment), int(experiment.state.optimizer.iterations.numpy())
    averages = [a.numpy() for a in experiment.state.ema]
    rows = run(experiment, 1, start=2)
    assert rows[0, APPLIED] == 0 and rows[0, SCALE] == 8
    assert all((a == b).all() for a, b in zip(before[0], weights(experiment), strict=True))
    assert all((a == b.numpy()).all() for a, b in zip(averages, experiment.state.ema, strict=True))
    state = experiment.state
    assert (int(state.global_step.numpy()), int(state.skipped_steps.numpy()), int(state.position.numpy())) == (3, 1, 48)
    assert float(state.loss_scale.numpy()) == 4.0 and int(state.optimizer.iterations.numpy()) == before[1]
    assert run(experiment, 1, start=3)[0, APPLIED] == 1
    assert all(np.isfinite(w).all() for w in weights(experiment))


@half_precision
def test_the_loss_scale_doubles_after_enough_finite_steps(strategy):
    experiment = build(strategy(1), precision="mixed_float16", force=True)
    experiment.state.loss_scale.assign(16.0)
    experiment.state.finite_steps.assign(1998)
    scales = run(experiment, 3)[:, SCALE]
    assert scales.tolist() == [16, 16, 32] and int(experiment.state.finite_steps.numpy()) == 1


def test_clipping_acts_on_the_reduced_gradient(strategy):
    experiment = build(strategy(2), optimizer="sgd", momentum=0.0, learning_rate=1.0, clip_norm=0.25)
    before = weights(experiment)
    rows = run(experiment, 1)
    assert rows[0, NORM] > 0.25  # The norm reported is that before clipping.
    moved = math.sqrt(sum(np.sum((a - b) ** 2) for a, b in zip(before, weights(experiment), strict=True)))
    assert moved == pytest.approx(0.25, rel=1e-6)


def test_adaptive_clipping_acts_on_each_output_of_a_layer(strategy, monkeypatch):
    """On reduced gradients, in proportion to the weights, which are at least 1e-3 long; not on the last layer."""
    offer(monkeypatch)
    ratio, options = 0.01, dict(optimizer="sgd", momentum=0.0, learning_rate=1.0, model="pooled", image_size=8)
    plain, clipped = (build(strategy(2), **options, **more) for more in ({}, {"clip": f"agc:{ratio}"}))
    before, scaled = values(plain), 0
    for experiment in (plain, clipped):
        run(experiment, 1)
    for name, variable in named(plain.state.model).items():
        weight, moved, found = before[name], before[name] - values(plain)[name], before[name] - values(clipped)[name]
        if variable.trainable and not name.startswith("classifier/"):
            own, slope = (np.sqrt(np.sum(part**2, tuple(range(weight.ndim - 1)) or None, keepdims=True))
                          for part in (weight, moved))
            expected = moved * np.minimum(1, ratio * np.maximum(own, 1e-3) / np.maximum(slope, 1e-30))
            scaled += not np.allclose(expected, moved)
            np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-15)
        elif variable.trainable:
            np.testing.assert_array_equal(found, moved)
    assert scaled > 3


@pytest.mark.parametrize("options, says", [
    (dict(clip="agc"), "--clip=agc: give norm:1 (the largest global norm) or agc:0.01"),
    (dict(clip="agc:-1"), "--clip=agc:-1: give norm:1"),
    (dict(clip="value:1"), "--clip=value:1: give"), (dict(clip="agc:0.1", clip_norm=1.0), "both clip: give one"),
    (dict(clip="norm:2", clip_norm=1.0), "--clip=norm:2 and --clip_norm=1 both clip")])
def test_clipping_that_cannot_be_is_refused(options, says):
    with pytest.raises(UsageError) as error:
        ExperimentConfig.from_flat(options)
    assert says in str(error.value)


def test_both_flags_of_the_global_norm_are_one():
    """A run begun with one continues with the other."""
    norm, clip = (ExperimentConfig.from_flat(options) for options in ({"clip_norm": 0.5}, {"clip": "norm:0.5"}))
    assert norm == clip and norm.replace(clip="agc:0.1").optimizer.clip_norm == 0
    assert clip.replace(clip="agc:0.1").replace(clip_norm=2.0).optimizer.clip is None


@pytest.mark.parametrize("count, augment", quick([(2, ("mixup",)), (4, ("crop", "mixup"))], 0))
def test_accumulation_equals_one_large_batch(strategy, count, augment):
    options = dict(batch_size=32, optimizer="adam", augment=augment)
    large, parts = build(strategy(1), **options), build(strategy(1), accumulate_steps=count, **options)
    same = [LOSS, ACCURACY, TOP5]
    np.testing.assert_allclose(run(parts, 5)[:, same], run(large, 5)[:, same], rtol=1e-10)
    assert distance(weights(large), weights(parts)) < 1e-10


@pytest.mark.acceptance
def test_accumulation_with_batch_norm_agrees_on_one_replica_and_two(strategy):
    options = dict(PARITY, model="three_apis", image_size=20, augment=("mixup",))
    one = build(strategy(1), accumulate_steps=2, **options)
    losses, first = run(one, 6)[:, LOSS], weights(one)
    several = build(strategy(2), accumulate_steps=2, **options)
    np.testing.assert_allclose(run(several, 6)[:, LOSS], losses, rtol=1e-8)
    assert distance(first, weights(several)) < 1e-8
    whole = build(strategy(1), **options)  # The statistics are those of a micro-batch.
    assert abs(run(whole, 1)[0, LOSS] - losses[0]) > 1e-3


def test_nothing_is_traced_twice(strategy):
    experiment = build(strategy(1))
    for count in (1, 3, 2):  # Each reads a stream of its own.
        run(experiment, count)
    experiment.evaluate(experiment.source.test)
    experiment.evaluate(experiment.source.test)
    assert experiment.steps.train_steps.experimental_get_tracing_count() == 1
    assert experiment.steps.inference.evaluate_steps.experimental_get_tracing_count() == 1


def test_the_moving_average_follows_its_formula(strategy):
    experiment = build(strategy(1), ema_decay=0.3)
    expected = weights(experiment)
    for step in range(5):
        run(experiment, 1, start=step)
        decay = min(0.3, (1 + step) / (10 + step))
        expected = [decay * e + (1 - decay) * w for e, w in zip(expected, weights(experiment), strict=True)]
    # The decay is a float32 number in the step.
    assert distance(expected, [a.numpy() for a in experiment.state.ema]) < 1e-6
    experiment.state.use_ema()
    assert distance(weights(experiment), expected) < 1e-6


@pytest.mark.parametrize("replicas", quick([2, 4], 0))
def test_every_example_counts_once_in_an_evaluation(strategy, replicas):
    experiment = build(strategy(replicas))
    for size in (1, 3, 15, 16, 17):
        assert_counted(experiment, experiment.source.test.select(np.arange(size)), size)


def assert_counted(experiment, split, size):
    images, labels = split.reader.images, split.reader.labels
    logits = experiment.state.model(images / 255.0, training=False).numpy()
    losses = keras.losses.sparse_categorical_crossentropy(labels, logits, from_logits=True).numpy()
    figures = experiment.evaluate(split).figures
    assert figures["examples"] == size
    assert figures["loss"] == pytest.approx(losses.mean(), rel=1e-12)
    assert figures["accuracy"] == pytest.approx((logits.argmax(-1) == labels).mean(), rel=1e-12)


@pytest.mark.acceptance
@pytest.mark.parametrize("replicas", [1, 2])
def test_compiled_and_plain_step_agree(strategy, replicas):
    options = dict(precision="float32", model="three_apis", sync_batch_norm=replicas == 1)
    plain, compiled = (run(build(strategy(replicas), **options, xla=xla), 2) for xla in ("off", "on"))
    np.testing.assert_allclose(compiled[:, LOSS], plain[:, LOSS], rtol=1e-4)
    assert (compiled[:, TOP5] == plain[:, TOP5]).all() and plain[0, TOP5] > plain[0, ACCURACY]


def test_a_compiled_core_with_statistics_over_replicas_is_refused(strategy):
    with pytest.raises(UsageError, match="--xla=on with 2 replicas needs --nosync_batch_norm"):
        build(strategy(2), precision="float32", model="three_apis", xla="on")


def test_a_training_batch_is_never_short(strategy):
    experiment = build(strategy(2), batch_size=100)
    experiment.steps.train_steps(experiment.train_iterator(13), tf.constant(2))  # Over the 1,437 examples of an epoch.
    sizes = [len(b["label"]) for b in experiment.train_dataset(13).take(3)]
    assert sizes == [100] * 3


@half_precision
@pytest.mark.acceptance  # A row of the matrix of training shows it too.
@pytest.mark.parametrize("precision", ["mixed_float16", "mixed_bfloat16"])
def test_the_loss_falls_in_mixed_precision(strategy, precision):
    experiment = build(strategy(2), precision=precision, force=True, learning_rate=3e-3)
    losses = run(experiment, 60)[:, LOSS]
    assert losses[-10:].mean() < 0.5 * losses[:5].mean()
    assert {v.dtype for v in experiment.state.model.variables} == {"float32"}


def test_balanced_class_weights_reach_the_loss(strategy):
    plain, balanced = (run(build(strategy(1), class_weight=name), 1)[0, LOSS] for name in ("none", "balanced"))
    assert 0 < abs(plain - balanced) < 0.2  # digits is nearly balanced.


def test_normalization_per_channel_reaches_the_model(strategy):
    from pipeline.training.settings import preprocess
    experiment = build(strategy(1), normalize="per_channel")
    images = next(experiment.train_iterator(0))["image"].numpy()
    seen = preprocess(images, experiment.settings).numpy()
    assert abs(seen.mean()) < 0.1 and seen.std() == pytest.approx(1.0, abs=0.1)


@pytest.mark.parametrize("replicas", quick([1, 2]))
def test_partial_steps_apply_nothing_and_compute_the_loss(strategy, replicas):
    experiment = build(strategy(replicas), batch_size=32, accumulate_steps=2)
    before, steps = weights(experiment), tf.constant(3)
    losses = {phase: partial(experiment.train_iterator(0), steps).numpy()[0]
              for phase, partial in experiment.steps.partial_steps.items()}
    assert distance(before, weights(experiment)) == 0 and int(experiment.state.global_step.numpy()) == 0
    third = experiment.steps.reduced_gradients(experiment.train_iterator(2))[1].numpy()
    assert losses["reduction"] == pytest.approx(third, rel=1e-12)
    if replicas == 1:
        assert losses["forward"] == losses["backward"] == losses["reduction"]


def _convolutions(function, experiment):
    """Returns (forward convolutions, gradients of their filters) in the optimized graph of a function."""
    context.enable_run_metadata()
    function(experiment.train_iterator(0), tf.constant(2)).numpy()
    graphs = context.export_run_metadata().partition_graphs
    context.disable_run_metadata()
    names = [node.op for graph in graphs for node in graph.node if "Conv2D" in node.op]
    return sum("Backprop" not in name for name in names), sum("BackpropFilter" in name for name in names)


@pytest.mark.acceptance
def test_partial_steps_are_not_optimized_away(strategy):
    experiment = build(strategy(1), model="three_apis", precision="float32")
    functions = {**experiment.steps.partial_steps, "update": experiment.steps.train_steps}
    found = {phase: _convolutions(function, experiment) for phase, function in functions.items()}
    assert found == {"forward": (2, 0), "backward": (2, 2), "reduction": (2, 2), "update": (2, 2)}
