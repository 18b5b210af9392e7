"""Basic layers and blocks: numbers, weights, precision, and that they reload from their configuration."""
import keras
import numpy as np
import pytest
import tensorflow as tf

from pipeline.models.blocks import ConvBlock, DownsampleBlock, InceptionBlock, ResidualBlock
from pipeline.models.dropout import Dropout
from pipeline.models.layers import Convolution, Dense, ReLU
from pipeline.models.normalization import BatchNormalization
from pipeline.models.serialization import KeepsArguments, constructor_arguments
from tests.selection import half_precision

LAYERS = [Dense(7), ReLU(), Dropout(0.2), BatchNormalization(momentum=0.7, epsilon=1e-4),
          Convolution(5, 3, strides=2, padding="same"), ConvBlock(4, (3, 1), strides=2, padding="valid"),
          InceptionBlock(3, 5, batch_norm_momentum=0.6), DownsampleBlock(6, batch_norm_momentum=0.6),
          ResidualBlock((4, 5, 6), identity_kernel=3, batch_norm_momentum=0.6)]


def test_dense_makes_its_weights_when_called():
    layer = Dense(3)
    assert not layer.weights
    x = tf.random.stateless_normal((4, 200), (0, 1))
    y = layer(x)
    assert [(w.name, tuple(w.shape)) for w in layer.weights] == [("w", (200, 3)), ("b", (3,))]
    assert np.std(layer.w) == pytest.approx(0.05, rel=0.15) and not np.any(layer.b)  # Keras's random_normal.
    layer.b.assign([1.0, 2.0, 3.0])
    np.testing.assert_allclose(layer(x), y + [1.0, 2.0, 3.0], rtol=1e-5)
    np.testing.assert_allclose(y, np.asarray(x) @ np.asarray(layer.w), rtol=1e-4, atol=1e-5)
    with pytest.raises(ValueError, match="ndim=2"):
        layer(tf.zeros((1, 2, 200)))


def test_relu_is_the_larger_of_x_and_zero():
    np.testing.assert_array_equal(ReLU()(tf.constant([-1.5, 0.0, 2.5])), [0.0, 0.0, 2.5])


def test_convolution_leaves_out_its_bias_only_when_asked():
    layer, x = Convolution(2, 3, padding="same"), tf.random.stateless_normal((1, 4, 4, 3), (0, 0))
    layer(x)
    layer.bias.assign([5.0, -5.0])
    np.testing.assert_allclose(layer(x), layer(x, with_bias=False) + [5.0, -5.0], atol=1e-5)


def gradients_of(layer, x, upstream):
    """Returns (outputs, gradients of the weights and of x, kinds of the operations), in training."""
    def step():
        with tf.GradientTape() as tape:
            tape.watch(x)
            y = layer(x, training=True)
        return y, tape.gradient(y, [*(w.value for w in layer.trainable_weights), x], upstream)
    function = tf.function(step, autograph=False).get_concrete_function()
    return *step(), {op.type for op in function.graph.get_operations()}


@pytest.mark.parametrize("kernel_size, use_bias", [(1, True), (1, False), (3, True)])
def test_gradients_of_a_convolution_are_those_of_keras_and_of_1x1_products_of_matrices(kernel_size, use_bias):
    options = {"filters": 6, "kernel_size": kernel_size, "use_bias": use_bias, "activation": "swish"}
    ours, theirs = Convolution(**options), keras.layers.Conv2D(**options)
    x, upstream = (tf.random.stateless_normal((3, size, size, channels), (0, channels)) for size, channels in (
        (5, 4), (6 - kernel_size, 6)))
    ours(x), theirs(x)
    theirs.set_weights(ours.get_weights())
    y, found, kinds = gradients_of(ours, x, upstream)
    expected, wanted, _ = gradients_of(theirs, x, upstream)
    np.testing.assert_allclose(y, expected, rtol=0, atol=1e-6)
    for gradient, other in zip(found, wanted, strict=True):
        np.testing.assert_allclose(gradient, other, rtol=1e-4, atol=1e-5)
    assert ("Conv2DBackpropFilter" in kinds) == ("Conv2DBackpropInput" in kinds) == (kernel_size == 3)


def test_a_conv_block_has_six_weights_four_of_them_trainable():
    block = ConvBlock(96, 3, strides=1)
    assert block(tf.ones((2, 32, 32, 3))).shape == (2, 32, 32, 96)
    assert (len(block.weights), len(block.trainable_weights), block.count_params()) == (6, 4, 3072)


def test_shapes_of_blocks():
    x = tf.zeros((2, 9, 10, 3))
    assert InceptionBlock(4, 5)(x).shape == (2, 9, 10, 9)
    assert DownsampleBlock(4)(x).shape == (2, 4, 4, 7)
    assert ResidualBlock((4, 5, 6))(x).shape == (2, 4, 5, 6)


@pytest.mark.parametrize("block", [ConvBlock(4), InceptionBlock(2, 2), DownsampleBlock(2), ResidualBlock((2, 3, 4))],
                         ids=lambda b: type(b).__name__)
def test_training_reaches_every_normalization(block):
    block(tf.zeros((2, 8, 8, 3)))
    before = [w.numpy() for w in block.non_trainable_weights]
    block(tf.random.stateless_normal((2, 8, 8, 3), (1, 1)), training=False)
    assert all((a == b.numpy()).all() for a, b in zip(before, block.non_trainable_weights, strict=True))
    block(tf.random.stateless_normal((2, 8, 8, 3), (1, 1)), training=True)
    assert all((a != b.numpy()).any() for a, b in zip(before, block.non_trainable_weights, strict=True))


def test_residual_block_adds_a_projection_of_its_input():
    block, x = ResidualBlock((4, 5, 6)), tf.random.stateless_normal((2, 4, 4, 3), (2, 2))
    block(x)
    inner = block.conv2(block.conv1(x))
    expected = block.pool(block.conv3(inner + keras.ops.conv(x, block.identity.kernel, padding="same")))
    np.testing.assert_allclose(block(x), expected, rtol=1e-5, atol=1e-6)


@half_precision
@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16"])
def test_mixed_precision_computes_in_half_with_full_weights(policy):
    half = policy.removeprefix("mixed_")
    for layer, shape in ((Dense(4, dtype=policy), (2, 6)), (Convolution(4, 3, dtype=policy), (2, 6, 6, 3)),
                         (ResidualBlock((2, 3, 4), dtype=policy), (2, 8, 8, 3))):
        function = tf.function(lambda x, layer=layer: layer(x))
        assert layer(tf.zeros(shape)).dtype == half
        assert {w.dtype for w in layer.weights} == {"float32"}
        graph = function.get_concrete_function(tf.TensorSpec(shape)).graph
        kernels = [op.inputs[1].dtype for op in graph.get_operations() if op.type in ("Conv2D", "MatMul")]
        assert kernels and set(kernels) == {tf.as_dtype(half)}


@pytest.mark.parametrize("layer", LAYERS, ids=lambda layer: type(layer).__name__)
def test_layers_reload_from_their_configuration(layer):
    config = keras.saving.serialize_keras_object(layer)
    assert config["registered_name"] == f"mirrorline>{type(layer).__name__}"
    again = keras.saving.deserialize_keras_object(config)
    assert type(again) is type(layer) and again.get_config() == layer.get_config()
    for argument in constructor_arguments(type(layer)) if isinstance(layer, KeepsArguments) else ():
        assert getattr(again, argument) == getattr(layer, argument), argument
    x = tf.zeros((2, 8, 8, 3)) if not isinstance(layer, Dense) else tf.zeros((2, 8))
    assert again(x).shape == layer(x).shape
    assert [w.shape for w in again.weights] == [w.shape for w in layer.weights]
