"""ViT, the residual networks for CIFAR and the fast one: parameter counts of the papers, positions, options."""
import keras
import numpy as np
import pytest
import tensorflow as tf

from pipeline.errors import UsageError
from pipeline.models import registry
from pipeline.models.speed_cifar import PassingInitializer
from pipeline.models.vit import TransformerBlock, positions
from tests.selection import half_precision, quick

# Trainable parameters. ViT: arXiv:2205.01580 and arXiv:2106.10270 (5.7, 22 and 86 million); WRN-16-8: 11.0 million in
# table 4 of arXiv:1605.07146; ResNet-18 for CIFAR: 11.17 million.
COUNTS = {"vit_ti16": (1000, 224, 5_679_400), "vit_s16": (1000, 224, 21_974_632), "vit_b16": (1000, 224, 86_415_592),
          "wrn16_8": (10, 32, 10_961_370), "resnet18_cifar": (10, 32, 11_173_962), "speed_cifar": (10, 32, 1_971_640)}


@pytest.mark.parametrize("name", quick(list(COUNTS), 5))
def test_parameters_are_those_of_the_papers(name):
    classes, size, count = COUNTS[name]
    model = registry.create(name, classes, (size, size, 3))
    assert sum(w.shape.num_elements() for w in model.trainable_weights) == count
    row = registry.MODELS[name].row
    assert (row.parameters, row.classes, row.example_shape) == (model.count_params(), classes, (size, size, 3))
    assert len({v.path for v in model.variables}) == len(model.variables)


def test_positions_are_sines_and_cosines_of_column_and_row():
    found = positions(3, 5, 16).reshape(3, 5, 16)
    frequencies = 10_000.0 ** -np.linspace(0, 1, 4)
    for row, column in ((0, 0), (2, 1), (1, 4)):
        expected = [f(place * frequencies) for place in (column, row) for f in (np.sin, np.cos)]
        np.testing.assert_allclose(found[row, column], np.concatenate(expected), rtol=1e-12)


def test_a_vision_transformer_takes_other_patches_and_other_sizes():
    model = registry.create("vit_ti16", 5, (32, 32, 3), ("patch_size=8", "drop_path=0.22"))
    assert model.embedding.kernel.shape == (8, 8, 3, 192)
    assert [block.drop_path for block in model.blocks] == pytest.approx(np.linspace(0, 0.22, 12))
    assert model(tf.zeros((2, 40, 24, 3))).shape == (2, 5)
    x = tf.random.stateless_uniform((2, 32, 32, 3), (1, 2))
    moved = tf.concat([x[:, 8:], x[:, :8]], axis=1)
    assert np.abs(model(x) - model(moved)).max() > 1e-3  # The order of the patches counts.
    with tf.GradientTape() as tape:
        loss = tf.reduce_sum(model(x) ** 2)
    gradients = tape.gradient(loss, [w.value for w in model.trainable_weights])
    for weight, gradient in zip(model.trainable_weights, gradients, strict=True):
        if weight.path.endswith("query_key_value/bias"):
            # Softmax does not see what is added to all scores of a query, as the bias of the keys is.
            query, key, value = np.split(gradient, 3)
            assert np.any(query) and np.any(value) and not np.any(key), weight.path
        else:
            assert np.any(gradient), weight.path


def test_attention_is_that_of_keras():
    block = TransformerBlock(16, 4)
    x = tf.random.stateless_normal((2, 6, 16), (3, 4))
    block(x)
    reference = keras.layers.MultiHeadAttention(4, 4)
    reference(x, x)
    kernel, bias = (v.numpy() for v in block.attention.query_key_value.weights)
    output = block.attention.output_projection
    rng = np.random.default_rng(0)
    block.attention.query_key_value.bias.assign(bias := rng.normal(size=48))
    output.bias.assign(rng.normal(size=16))
    parts = [(k.reshape(16, 4, 4), b.reshape(4, 4)) for k, b in zip(np.split(kernel, 3, -1), np.split(bias, 3),
                                                                    strict=True)]
    reference.set_weights([value for pair in parts for value in pair] +
                          [output.kernel.numpy().reshape(4, 4, 16), output.bias.numpy()])
    np.testing.assert_allclose(block.attention(x), reference(x, x), atol=2e-6)


@pytest.mark.acceptance
@half_precision
def test_a_vision_transformer_in_half_precision_has_logits_in_float32():
    keras.config.set_dtype_policy("mixed_bfloat16")
    model = registry.create("vit_ti16", 5, (16, 16, 3), ("patch_size=8",))
    x = tf.random.stateless_uniform((2, 16, 16, 3), (1, 2))
    half = model(x)
    assert half.dtype == tf.float32
    keras.config.set_dtype_policy("float32")
    full = registry.create("vit_ti16", 5, (16, 16, 3), ("patch_size=8",))
    full.set_weights(model.get_weights())
    np.testing.assert_allclose(half, full(x), atol=0.05)


def test_the_first_filters_of_the_fast_network_pass_their_inputs_through():
    x = tf.random.stateless_uniform((1, 6, 5, 4), (1, 2))
    layer = keras.layers.Conv2D(7, 3, padding="same", use_bias=False, kernel_initializer=PassingInitializer(seed=1))
    y = layer(x)
    np.testing.assert_array_equal(y[..., :4], x)
    rest = layer.kernel.numpy()[..., 4:]
    assert 0.5 / 6 < np.abs(rest).max() <= 1 / 6 and len(np.unique(rest)) == rest.size


@pytest.mark.parametrize("arguments, message", [
    (("vit_ti16", 10, (28, 28, 3)), "28x28 do not divide into patches of 16x16: give --model_options=patch_size=14"),
    (("vit_s16", 10, (32, 32, 3), ("patch_size=0",)), "patch_size must be at least 1; found 0"),
    (("vit_b16", 10, (32, 32, 3), ("drop_path=1",)), "drop_path must be at least 0 and below 1; found 1"),
    (("wrn16_8", 10, (32, 32, 3), ("dropout=1.5",)), "dropout must be at least 0 and below 1; found 1.5"),
    (("speed_cifar", 10, (8, 32, 3)), "model speed_cifar needs images of at least 9x9; found 8x32x3"),
], ids=lambda value: str(value)[:30])
def test_what_does_not_fit_is_refused_in_one_line(arguments, message):
    with pytest.raises(UsageError) as error:
        registry.create(*arguments)
    assert message in str(error.value) and "\n" not in str(error.value)
