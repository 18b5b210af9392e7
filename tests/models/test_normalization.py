"""Batch normalization: the numbers of Keras's layer, whichever way they are computed."""
import keras
import numpy as np
import pytest
import tensorflow as tf

from pipeline.models.blocks import ConvBlock
from pipeline.models.context import StepContext, step_context
from pipeline.models.normalization import BatchNormalization
from tests.selection import half_precision, quick

ROUNDING = {"float32": 2e-5, "float64": 1e-12, "mixed_float16": 4e-3, "mixed_bfloat16": 3e-2}


def context(updates=0, synchronize=False, num_replicas=1):
    zero = tf.constant(0, tf.int64)
    return StepContext(0, zero, zero, tf.constant(updates, tf.int64), synchronize, num_replicas)


def pair(shape, policy="float32", momentum=0.8):
    """Returns our layer and Keras's, built, with the same random weights."""
    layers = [cls(momentum=momentum, dtype=policy) for cls in (BatchNormalization, keras.layers.BatchNormalization)]
    rng = np.random.default_rng(1)
    values = [rng.uniform(0.5, 1.5, shape[-1]) for _ in range(4)]
    for layer in layers:
        layer.build(shape)
        layer.set_weights(values)
    return layers


def evaluate(layer, x, weighting, training):
    with tf.GradientTape() as tape:
        tape.watch(x)
        y = layer(x, training=training)
        loss = tf.reduce_sum(tf.cast(y, tf.float64) ** 3 * weighting)
    grads = tape.gradient(loss, [x, layer.gamma.value, layer.beta.value])
    return [np.asarray(tf.cast(t, tf.float64)) for t in (y, *grads, layer.moving_mean, layer.moving_variance)]


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("shape, policy", quick(
    [(shape, policy) for shape in ((2, 1, 1, 3), (4, 5, 3, 2), (16, 4), (2, 3, 4, 5, 2)) for policy in ROUNDING],
    0, 4, 5, 6, 7, 8, 13), ids=str)
def test_agrees_with_keras(shape, policy, training):
    ours, theirs = pair(shape, policy)
    rng = np.random.default_rng(0)
    x = tf.constant(rng.normal(0.7, 2.0, shape), ours.compute_dtype)
    weighting = rng.normal(size=shape)
    results = [evaluate(layer, x, weighting, training) for layer in (ours, theirs)]
    for name, a, b in zip(("y", "dx", "dgamma", "dbeta", "mean", "variance"), *results, strict=True):
        scale = max(np.abs(b).max(), 1.0)
        np.testing.assert_allclose(a / scale, b / scale, atol=ROUNDING[policy], err_msg=name)
    if not training:
        np.testing.assert_array_equal(ours.moving_mean.numpy(), pair(shape, policy)[0].moving_mean.numpy())


def test_two_values_keep_the_population_variance():
    layer = BatchNormalization(momentum=0.5)
    layer(tf.reshape(tf.constant([1.0, 3.0]), (2, 1, 1, 1)), training=True)
    assert layer.moving_variance.numpy() == pytest.approx([0.5 * 1 + 0.5 * 1.0])  # Not 0.5 + 0.5 * 2.


def test_one_value_has_no_variance():
    layer = BatchNormalization(momentum=0.5)
    y = layer(tf.ones((1, 1, 1, 2)), training=True)
    np.testing.assert_array_equal(layer.moving_variance.numpy(), [0.5, 0.5])
    np.testing.assert_array_equal(y.numpy(), np.zeros((1, 1, 1, 2)))


@half_precision
def test_weights_are_those_of_keras():
    ours, theirs = BatchNormalization(dtype="mixed_float16"), keras.layers.BatchNormalization(dtype="mixed_float16")
    for layer in (ours, theirs):
        layer(tf.zeros((2, 4, 4, 3)))
    assert [(w.name, w.shape, w.dtype, w.trainable) for w in ours.weights] == \
           [(w.name, w.shape, w.dtype, w.trainable) for w in theirs.weights]
    for a, b in zip(ours.get_weights(), theirs.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)
    assert BatchNormalization(dtype="float64").variable_dtype == "float64"


@half_precision
def test_half_precision_keeps_small_differences_of_statistics():
    layer = BatchNormalization(momentum=0.5, dtype="mixed_float16")
    x = np.where(np.arange(64)[:, None, None, None] % 2, 1.0, 1.0 + 2**-10) * np.ones((64, 4, 4, 1))
    y = layer(tf.constant(x, tf.float16), training=True)
    assert y.dtype == tf.float16
    # Half precision has 2**-10 between 1 and the next number: a mean kept in it could not lie between the two.
    assert layer.moving_mean.numpy()[0] == pytest.approx(0.5 * (1 + 2**-11), abs=1e-7)


def test_symbolic():
    image = keras.Input((8, 6, 3))
    layer = BatchNormalization()
    y = layer(image, training=True)
    assert y.shape == (None, 8, 6, 3) and y.dtype == "float32"
    assert keras.Model(image, y)(tf.zeros((2, 8, 6, 3))).shape == (2, 8, 6, 3)
    half = BatchNormalization(dtype="mixed_bfloat16")
    assert half.compute_output_spec(keras.KerasTensor((None, 5))).dtype == "bfloat16"


def test_a_frozen_layer_uses_its_moving_statistics():
    layer, _ = pair((4, 3, 3, 2))
    layer.trainable = False
    x = tf.random.stateless_normal((4, 3, 3, 2), (1, 2))
    np.testing.assert_array_equal(layer(x, training=True), layer(x, training=False))


def test_stateless_call_returns_new_statistics_and_leaves_the_variables():
    layer = BatchNormalization(momentum=0.0)
    layer.build((None, 2, 2, 1))
    x = tf.random.stateless_normal((4, 2, 2, 1), (3, 4))
    _, state = layer.stateless_call([v.value for v in layer.trainable_variables],
                                    [v.value for v in layer.non_trainable_variables], x, training=True)
    np.testing.assert_allclose(state[0], [np.mean(x)], rtol=1e-5)
    np.testing.assert_allclose(state[1], [np.var(x)], rtol=1e-5)
    np.testing.assert_array_equal(layer.moving_mean.numpy(), [0.0])


@pytest.mark.parametrize("policy", ["float32", "float64"])
def test_moving_averages_are_corrected_for_their_initial_value(policy):
    layer = BatchNormalization(momentum=0.9, dtype=policy)
    rng = np.random.default_rng(5)
    batches = [rng.normal(3.0, 1e-3, (32, 4, 4, 1)) for _ in range(7)]
    weights = []
    for t, batch in enumerate(batches):
        with step_context(context(updates=t)):
            layer(tf.constant(batch, policy), training=True)
        weights = [w * 0.9 for w in weights] + [0.1]
        # As if the average had begun with the first batch: weights of the batches seen, summing to 1.
        mean = sum(w * b.mean() for w, b in zip(weights, batches, strict=False)) / sum(weights)
        variance = sum(w * b.var() for w, b in zip(weights, batches, strict=False)) / sum(weights)
        assert layer.moving_mean.numpy()[0] == pytest.approx(mean, rel=1e-6)
        # Nothing is left of the initial variance of 1, which is a million times the true one.
        assert layer.moving_variance.numpy()[0] == pytest.approx(variance, rel=2e-3 if policy == "float32" else 1e-9)


def test_a_bias_left_out_moves_the_mean_and_gets_no_gradient():
    block = ConvBlock(4, batch_norm_momentum=0.5)
    x = tf.random.stateless_normal((6, 5, 5, 2), (1, 1))
    block(x)
    block.convolution.bias.assign([1.0, -2.0, 3.0, 0.5])
    reference = keras.Sequential([keras.layers.Conv2D(4, 3, padding="same"),
                                  keras.layers.BatchNormalization(momentum=0.5), keras.layers.ReLU()])
    reference(x)
    reference.set_weights(block.get_weights())
    for training in (True, False):
        np.testing.assert_allclose(block(x, training=training), reference(x, training=training), atol=1e-5)
    for ours, theirs in zip(block.get_weights(), reference.get_weights(), strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-5)
    with tf.GradientTape() as tape:
        loss = tf.reduce_sum(block(x, training=True) ** 2 * tf.random.stateless_normal((6, 5, 5, 4), (2, 2)))
    gradient = tape.gradient(loss, block.convolution.bias.value)
    assert gradient is None or not np.any(gradient)


@half_precision
def test_a_bias_left_out_keeps_its_precision_in_half():
    block = ConvBlock(1, 1, batch_norm_momentum=0.5, dtype="mixed_float16")
    x = tf.zeros((2, 3, 3, 1))
    block(x)
    block.convolution.bias.assign([1 + 2**-14])
    block(x, training=True)
    assert block.norm.moving_mean.numpy()[0] == np.float32(0.5 * (1 + 2**-14))


SHARES = [((8,), (3, 3, 2)), ((4, 4), (3, 3, 2)), ((3, 5), (3, 3, 2)), ((2, 1, 1, 4), (3, 3, 2)), ((1, 1), (1, 1, 2)),
          ((2, 2), (5,))]


@pytest.mark.parametrize("policy, sizes, inner", quick([
    *(("float64", *share) for share in SHARES),
    *((policy, *share) for policy in ROUNDING if policy != "float64" for share in SHARES[::2])], 2, 3, 5, 7, 10, 13),
    ids=str)
def test_synchronized_gradient_is_that_of_the_whole_batch(strategy, policy, sizes, inner):
    replicas, shape = len(sizes), (sum(sizes), *inner)
    rng = np.random.default_rng(0)
    # A mean of its own on every replica, so that local statistics would be far off.
    x = rng.normal(size=shape) + np.repeat(np.arange(replicas), sizes).reshape(-1, *[1] * len(inner))
    weighting = rng.normal(size=shape)
    x = tf.cast(tf.constant(x, keras.DTypePolicy(policy).compute_dtype), tf.float64).numpy()
    _, keras_layer = pair(shape, "float64")
    expected = evaluate(keras_layer, tf.constant(x), weighting, training=True)
    scope = strategy(replicas)
    with scope.scope():
        layer, _ = pair(shape, policy)
    starts = np.cumsum((0, *sizes))
    parts = [scope.experimental_distribute_values_from_function(
        lambda c, whole=whole, dtype=dtype: tf.constant(
            whole[starts[c.replica_id_in_sync_group]:starts[c.replica_id_in_sync_group + 1]], dtype))
        for whole, dtype in ((x, layer.compute_dtype), (weighting, "float64"))]

    @tf.function
    def step(x, weighting):
        def on_replica(x, weighting):
            params = [tf.convert_to_tensor(v.value) for v in layer.trainable_variables]
            state = [tf.convert_to_tensor(v.value) for v in layer.non_trainable_variables]
            with tf.GradientTape() as tape, step_context(context(10**6, True, replicas)):
                tape.watch([x, *params])
                y, state = layer.stateless_call(params, state, x, training=True)
                loss = tf.reduce_sum(tf.cast(y, tf.float64) ** 3 * weighting)
            return [tf.cast(t, tf.float64) for t in (y, *tape.gradient(loss, [x, *params]), *state)]
        return scope.run(on_replica, args=(x, weighting))

    y, dx, dgamma, dbeta, mean, variance = (scope.experimental_local_results(v) for v in step(*parts))
    for name, found, wanted in (("y", np.concatenate(y), expected[0]), ("dx", np.concatenate(dx), expected[1]),
                                ("dgamma", sum(dgamma), expected[2]), ("dbeta", sum(dbeta), expected[3]),
                                *((f"mean {i}", m, expected[4]) for i, m in enumerate(mean)),
                                *((f"variance {i}", v, expected[5]) for i, v in enumerate(variance))):
        scale = max(np.abs(wanted).max(), 1.0)
        np.testing.assert_allclose(found / scale, wanted / scale, rtol=0, atol=ROUNDING[policy], err_msg=name)


@pytest.mark.parametrize("synchronize", [False, True])
@pytest.mark.parametrize("left_out", ["scale", "center"])
def test_agrees_with_keras_without_a_factor_or_an_offset(left_out, synchronize):
    kinds = BatchNormalization, keras.layers.BatchNormalization
    ours, theirs = (kind(momentum=0.8, **{left_out: False}) for kind in kinds)
    x, results = tf.random.stateless_normal((6, 4, 3, 5), (1, 2), 0.7, 2.0), []
    weighting = tf.random.stateless_normal(x.shape, (3, 4))
    for layer in (ours, theirs):
        layer.build(x.shape)
        layer.set_weights([np.linspace(0.5, 1.5, 5)] * 3)
        with tf.GradientTape() as tape, step_context(context(10**6, synchronize)):
            tape.watch(x)
            y = layer(x, training=True)
            loss = tf.reduce_sum(y ** 3 * weighting)
        results.append([y, *tape.gradient(loss, [x, layer.trainable_weights[0].value]), *layer.non_trainable_weights])
    assert [w.path.partition("/")[2] for w in ours.weights] == [w.path.partition("/")[2] for w in theirs.weights]
    for mine, other in zip(*results, strict=True):
        np.testing.assert_allclose(mine, other, atol=2e-4, rtol=2e-5)
    np.testing.assert_allclose(ours(x), theirs(x), atol=1e-5)
