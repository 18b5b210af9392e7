"""The architectures of keras.applications: Keras's functions, with this package's layers and input ranges."""
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf

from pipeline.architectures import ARCHITECTURES
from pipeline.config import ExperimentConfig
from pipeline.errors import UsageError
from pipeline.internals.keras_internals import layers_of, named_from_the_start
from pipeline.models import registry
from pipeline.models.context import StepContext, step_context
from pipeline.models.dropout import Dropout
from pipeline.models.freezing import freeze
from pipeline.models.normalization import BatchNormalization, InputNormalization
from pipeline.models.pixels import normalize
from pipeline.monitoring import operations
from pipeline.preprocessing import INPUT_RANGES
from tests.selection import quick

NAMES = list(ARCHITECTURES)
FOREIGN = (keras.layers.BatchNormalization, keras.layers.Dropout)
CLASSES = 7


def of_keras(name, size, **options):
    """Returns the model of keras.applications as a process that makes no other names it."""
    with named_from_the_start():
        return getattr(keras.applications, ARCHITECTURES[name].constructor)(
            weights=None, input_shape=(size, size, 3), classes=CLASSES, classifier_activation=None, **options)


def pair(name, size, *options, **arguments):
    """Returns (ours, Keras's) with the same weights, of which every vector was moved away from what it began with."""
    ours, theirs = registry.create(name, CLASSES, (size, size, 3), options, **arguments), of_keras(name, size)
    rng = np.random.default_rng(0)
    for mine, other in zip(ours.weights, theirs.weights, strict=True):
        assert (mine.path, mine.shape, mine.dtype) == (other.path, other.shape, other.dtype)
        vector = len(mine.shape) == 1
        mine.assign(other.numpy() + rng.uniform(0.01, 0.1, mine.shape) * vector)
        other.assign(mine)
    for layer in theirs.layers:
        if isinstance(layer, keras.layers.Normalization):
            layer.finalize_state()  # It computes with copies.
    return ours, theirs


def images(size, count=2, values=1):
    return np.random.default_rng(1).uniform(0, values, (count, size, size, 3)).astype(np.float32)


def test_every_architecture_of_keras_has_a_row():
    there = {name for name in dir(keras.applications) if name[0].isupper()}
    assert {row.constructor for row in ARCHITECTURES.values()} == there
    for name, row in ARCHITECTURES.items():
        assert name.replace("_", "") == row.constructor.lower() and row.top1 and row.input_range in INPUT_RANGES


@pytest.mark.parametrize("name", quick(NAMES, NAMES.index("mobilenet_v3_small")))
def test_it_is_the_same_function_of_the_same_weights_bit_for_bit(name):
    size, row = ARCHITECTURES[name].smallest, ARCHITECTURES[name]
    ours, theirs = pair(name, size)
    x = images(size, values=255 if row.preprocessing_inside else 1)
    np.testing.assert_array_equal(ours(x), theirs(x))
    assert ours.count_params() == theirs.count_params() and ours.name == name
    assert not [layer for layer in layers_of(ours) if isinstance(layer, FOREIGN)]
    kinds = [sum(isinstance(layer, kind) for layer in layers_of(model)) for model, kind in (
        (ours, BatchNormalization), (theirs, keras.layers.BatchNormalization))]
    assert kinds[0] == kinds[1]


@pytest.mark.parametrize("name", quick([name for name, entry in registry.MODELS.items() if not entry.location]))
def test_the_figures_of_the_table_are_those_of_the_model(name):
    row = registry.MODELS[name].row
    model = registry.create(name, row.classes, row.example_shape)
    with tf.__internal__.FuncGraph("forward").as_default() as graph:
        model(tf.compat.v1.placeholder(tf.float32, (1, *row.example_shape)), training=False)
    assert (model.count_params(), operations.count(graph)) == (row.parameters, 2 * row.multiply_adds)


@pytest.mark.acceptance  # In make test a step of cnn is that of Keras.
def test_biases_before_a_normalization_have_no_gradient_and_statistics_are_those_of_keras():
    ours, theirs = pair("resnet50", 32, batch_norm_momentum=0.99)
    x = images(32, 4)
    np.testing.assert_array_equal(ours(x[:2]), theirs(x[:2]))
    with tf.GradientTape() as tape:
        loss = tf.reduce_sum(ours(x, training=True) ** 2)
    theirs(x, training=True)
    weights = ours.trainable_weights
    for weight, gradient in zip(weights, tape.gradient(loss, [w.value for w in weights]), strict=True):
        skipped = "_conv/bias" in weight.path
        assert (gradient is None) == skipped, weight.path
    for mine, other in zip(ours.non_trainable_weights, theirs.non_trainable_weights, strict=True):
        np.testing.assert_allclose(mine, other, rtol=1e-3, atol=1e-4, err_msg=mine.path)
    norm = ours.get_layer("conv1_bn")
    norm.trainable = False  # Now the bias has an effect.
    with tf.GradientTape() as tape:
        loss = tf.reduce_sum(ours(x, training=True) ** 2)
    assert tape.gradient(loss, ours.get_layer("conv1_conv").bias.value) is not None


def rates(model):
    found = [layer for layer in layers_of(model) if isinstance(layer, Dropout)]
    return [[layer.rate for layer in found if (layer.noise_shape is None) == values] for values in (True, False)]


@pytest.mark.parametrize("name, options, dropout, paths, largest", quick([
    ("convnext_tiny", ("drop_path=0.34", "dropout=0.1"), [0.1], 17, 0.34), ("resnet50", ("dropout=0.3",), [0.3], 0, 0),
    ("efficientnet_v2_b0", (), [0.2], 15, 0.2 * 20 / 21), ("mobilenet_v3_small", ("dropout=0",), [0], 0, 0),
    ("efficientnet_b0", ("dropout=0.4", "drop_path=0.32"), [0.4], 9, 0.32 * 14 / 16)], 0), ids=str)
def test_rates_of_dropout_are_options(name, options, dropout, paths, largest):
    single, whole = rates(registry.create(name, 3, (32, 32, 3), options))
    assert single == dropout and len(whole) == paths
    assert max(whole, default=0) == pytest.approx(largest) and sorted(whole) == whole


def test_dropped_paths_are_those_of_the_examples_on_any_number_of_replicas():
    def context(first_row):
        zero = tf.constant(0, tf.int64)
        return StepContext(7, tf.constant(5, tf.int64), tf.constant(first_row, tf.int64), zero)

    layer, x = Dropout(0.4, noise_shape=(None, 1, 1, 1)), tf.ones((64, 3, 2, 5))
    with step_context(context(0)):
        whole = layer(x, training=True).numpy()
    with step_context(context(24)):
        part = layer(x[24:40], training=True).numpy()
    np.testing.assert_array_equal(part, whole[24:40])
    assert set(np.unique(whole)) == {0, np.float32(1 / 0.6)}
    assert (whole == whole[:, :1, :1, :1]).all() and 0.2 < (whole == 0).mean() < 0.6
    np.testing.assert_array_equal(layer(x), x)


def test_normalization_of_the_input_computes_with_its_weights():
    image, x = keras.Input((4, 4, 3)), images(4)
    model = keras.Model(image, InputNormalization(name="normalization")(image))
    np.testing.assert_array_equal(model(x), x)
    mean, variance, _ = model.weights
    mean.assign([0.1, 0.2, 0.3])
    variance.assign([4.0, 1.0, 0.25])
    np.testing.assert_allclose(model(x), (x - [0.1, 0.2, 0.3]) / [2, 1, 0.5], rtol=1e-6, atol=1e-7)


def test_statistics_of_the_input_pass_through_no_reduction():
    image = keras.Input((4, 4, 3))
    features = keras.layers.Flatten()(InputNormalization(name="normalization")(image))
    model = keras.Model(image, keras.layers.Dense(2, name="classifier")(features))
    frozen = freeze(model, (), (4, 4, 3)).frozen
    assert [v.path for v in frozen.held] == ["normalization/mean", "normalization/variance"] and not frozen.names


@pytest.mark.parametrize("name", NAMES)
def test_the_network_sees_what_preprocess_input_of_keras_makes(name):
    row = ARCHITECTURES[name]
    pixels = np.random.default_rng(0).integers(0, 256, (2, 40, 40, 3), np.uint8)
    pixels[0, 0, :, 0] = 0
    pixels[1].flat[:256] = range(256)
    theirs = sys.modules[getattr(keras.applications, row.constructor).__module__].preprocess_input
    seen = normalize(tf.cast(pixels, tf.float32) / 255.0, 3, input_range=row.input_range)
    np.testing.assert_array_equal(seen, theirs(pixels.astype(np.float32)))
    gray = tf.cast(pixels[..., :1], tf.float32) / 255.0
    repeated = np.repeat(pixels[..., :1], 3, axis=-1).astype(np.float32)
    np.testing.assert_array_equal(normalize(gray, 3, input_range=row.input_range), theirs(repeated))


@pytest.mark.parametrize("arguments, message", [
    (("resnet50", 10, (31, 40, 3)), "model resnet50 needs images of at least 32x32; found 31x40x3"),
    (("xception", 10, (64, 64, 3)), "model xception needs images of at least 71x71; found 64x64x3"),
    (("resnet50", 10, (32, 32, 4)), "takes images of 3 channels, or of 1, which is repeated; found 4: take a"),
    (("resnet50", 10, (32, 32, 3), ("dropout=1",)), "dropout of model resnet50 must be at least 0 and below 1"),
    (("convnext_tiny", 10, (32, 32, 3), ("drop_path=-1",)), "drop_path of model convnext_tiny must be at least 0"),
    (("resnet50", 10, (32, 32, 3), ("alpha=0.5",)), "unknown option of model resnet50 'alpha'"),
    (("mobilenet", 10, (32, 32, 3), ("alpha=0",)), "model mobilenet cannot be made with alpha=0"),
    (("resnet_50", 10, (32, 32, 3)), "did you mean 'resnet50'"),
], ids=lambda value: str(value)[:40])
def test_what_does_not_fit_is_refused_in_one_line(arguments, message):
    with pytest.raises(UsageError) as error:
        registry.create(*arguments)
    assert message in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize("name", ["resnet50", "mobilenet", "densenet121", "convnext_tiny"])
def test_another_normalization_is_refused(name):
    with pytest.raises(UsageError, match=rf"--normalize=per_channel: model {name} takes values in a range of its own"):
        ExperimentConfig.from_flat({"model": name, "normalize": "per_channel"})


def test_width_is_an_option():
    small = registry.create("mobilenet", 3, (32, 32, 3), ("alpha=0.25", "dropout=0.5"))
    assert small.count_params() == of_keras("mobilenet", 32, alpha=0.25).count_params() - 4 * (256 + 1)
    assert registry.wanted_channels("mobilenet", 1) == 3
