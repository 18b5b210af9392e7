"""The models: documented counts, reloading, sizes, options, and the order of their variables."""
import pathlib
import subprocess
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf

from pipeline.errors import UsageError
from pipeline.models import registry
from pipeline.models.serialization import constructor_arguments
from pipeline.models.three_apis import APIS, copy_weights
from tests.selection import quick

COUNTS = {"mlp": (50_890, 50_890), "cnn": (1_097_098, 1_096_650), "resnet_like": (2_400_490, 2_397_418),
          "inception": (586_730, 584_938), "mini_inception": (1_656_250, 1_652_826), "three_apis": (20_426, 20_234)}
SMALLEST = {"mlp": 1, "cnn": 1, "resnet_like": 8, "inception": 7, "mini_inception": 7, "three_apis": 19}
CHOICES = [*((name, ()) for name in COUNTS), ("resnet_like", ("identity_kernel=3",)),
           *(("three_apis", (f"api={api}",)) for api in APIS[1:])]


def create(name, *options, classes=10, **arguments):
    return registry.create(name, classes, registry.MODELS[name].row.example_shape, options, **arguments)


def images(name, batch=2, shape=None):
    return tf.random.stateless_uniform((batch, *(shape or registry.MODELS[name].row.example_shape)), (1, 2))


@pytest.mark.parametrize("name", quick(list(COUNTS), 0, 1, 5))
def test_parameter_counts(name):
    row = registry.MODELS[name].row
    assert (row.parameters, row.classes) == (COUNTS[name][0], 10)
    model = create(name)
    assert (model.count_params(), sum(w.shape.num_elements() for w in model.trainable_weights)) == COUNTS[name]


def test_resnet_like_with_3x3_identity_is_the_larger_variant_on_record():
    assert create("resnet_like", "identity_kernel=3").count_params() == 2_990_570


def test_feature_maps_of_resnet_like_halve():
    model, x, sides = create("resnet_like"), images("resnet_like"), []
    for block in (model.block1, model.block2, model.block3):
        x = block(x)
        sides.append(x.shape[1])
    assert sides == [14, 7, 3]


@pytest.mark.parametrize("name, options", quick(CHOICES, 1, 7), ids=str)
def test_saved_models_reload(name, options, tmp_path):
    model = registry.create(name, 4, (32, 32, 3), options, batch_norm_momentum=0.8)
    rng = np.random.default_rng(0)
    model.set_weights([w + rng.uniform(0.01, 0.1, w.shape) for w in model.get_weights()])
    model.save(tmp_path / "model.keras")
    again = keras.saving.load_model(tmp_path / "model.keras")
    assert type(again) is type(model) and again.get_config() == model.get_config()
    for argument in constructor_arguments(type(model)):
        assert getattr(again, argument) == getattr(model, argument), argument
    assert [v.path for v in again.variables] == [v.path for v in model.variables]
    for ours, theirs in zip(model.get_weights(), again.get_weights(), strict=True):
        np.testing.assert_array_equal(ours, theirs)
    x = images(name, shape=(32, 32, 3))
    np.testing.assert_array_equal(model(x), again(x))
    fresh = registry.create(name, 4, (32, 32, 3), options, batch_norm_momentum=0.8)
    model.save_weights(tmp_path / "model.weights.h5")
    fresh.load_weights(tmp_path / "model.weights.h5")
    np.testing.assert_array_equal(model(x), fresh(x))


@pytest.mark.parametrize("name", quick(list(SMALLEST), 0, 5))
def test_smallest_size_works_and_one_less_is_refused(name):
    size, model_class = SMALLEST[name], registry.model_class(name)
    assert model_class.minimum_size == size
    for channels, classes in ((1, 2), (5, 13)):
        model = registry.create(name, classes, (size, size + 3, channels))
        logits = model(images(name, shape=(size, size + 3, channels)), training=True)
        assert logits.shape == (2, classes) and np.all(np.isfinite(logits))
    if size > 1:
        with pytest.raises(UsageError, match=f"{name} needs images of at least {size}x{size}; found 40x{size - 1}x3"):
            registry.create(name, 10, (40, size - 1, 3))
        # It is the smallest that works, not merely one that does.
        with pytest.raises((ValueError, tf.errors.OpError)):
            model_class()(tf.zeros((1, size - 1, size - 1, 3)))


@pytest.mark.parametrize("name, policy", quick(
    [(name, policy) for name in ("mlp", "cnn", "three_apis")
     for policy in ("float32", "mixed_bfloat16", "float64", "mixed_float16")], 0, 1, 2, 11))
def test_logits_are_float32_in_every_precision(name, policy, tmp_path):
    keras.config.set_dtype_policy(policy)
    model = create(name)
    assert model(images(name)).dtype == ("float64" if policy == "float64" else "float32")
    model.save(tmp_path / "model.keras")
    keras.config.set_dtype_policy("float32")
    again = keras.saving.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(model(images(name)), again(images(name)))  # In the precision it was saved in.


@pytest.mark.parametrize("name", quick(list(COUNTS), 1, 5))
def test_training_moves_every_moving_statistic_and_reaches_every_weight(name):
    model = registry.create(name, 3, (24, 24, 3), batch_norm_momentum=0.5)
    before = [w.numpy() for w in model.non_trainable_weights]
    with tf.GradientTape() as tape:
        loss = tf.reduce_sum(model(images(name, 4, (24, 24, 3)), training=True) ** 2)
    gradients = tape.gradient(loss, [w.value for w in model.trainable_weights])
    for weight, gradient in zip(model.trainable_weights, gradients, strict=True):
        if name != "three_apis" and weight.path.endswith("convolution/bias"):
            assert gradient is None or not np.any(gradient), weight.path  # The normalization after it removes it.
        else:
            assert np.any(gradient), weight.path
    for old, weight in zip(before, model.non_trainable_weights, strict=True):
        assert np.any(old != weight.numpy()), weight.path


def test_momentum_reaches_every_normalization():
    for name in ("cnn", "three_apis"):
        model = create(name, batch_norm_momentum=0.37)
        found = [layer.momentum for layer in model._flatten_layers() if hasattr(layer, "moving_mean")]
        assert found and set(found) == {0.37}


def test_three_apis_agree_in_outputs_and_in_a_training_step():
    models, x = [create("three_apis", f"api={api}") for api in APIS], images("three_apis", 8)
    for other in models[1:]:
        assert np.any(models[0](x) != other(x))
        copy_weights(models[0], other)
    for other in models[1:]:
        np.testing.assert_allclose(other(x), models[0](x), rtol=1e-6, atol=1e-7)
    for model in models:
        # The mask of dropout is drawn from the seed generator: all begin at one state.
        next(v for v in model.variables if "seed_generator" in v.name).assign([3, 0])
        model.compile(keras.optimizers.SGD(0.5), keras.losses.SparseCategoricalCrossentropy(from_logits=True))
        before = model.get_weights()
        model.train_on_batch(x, np.arange(8) % 3)
        assert all(np.any(a != b) for a, b in zip(before, model.get_weights(), strict=True))
    for other in models[1:]:
        for a, b in zip(models[0].get_weights(), other.get_weights(), strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)
    with pytest.raises(ValueError, match="differ"):
        copy_weights(models[0], create("three_apis", classes=3))


@pytest.mark.parametrize("name", quick(list(COUNTS), 0, 5))
def test_build_graph_is_the_same_function(name):
    model, shape = create(name), registry.MODELS[name].row.example_shape
    graph = model.build_graph(shape)
    np.testing.assert_allclose(graph(images(name)), model(images(name)), rtol=1e-5, atol=1e-6)
    lines = []
    graph.summary(print_fn=lambda line, **_: lines.append(line))
    assert f"{COUNTS[name][0]:,}" in "\n".join(lines)


@pytest.mark.parametrize("arguments, message", [
    (("cnnn", 10, (28, 28, 1)), "unknown model 'cnnn': did you mean 'cnn'?"),
    (("resnet_like", 10, (28, 28, 1), ("identity_kernl=3",)), "did you mean 'identity_kernel'?"),
    (("resnet_like", 10, (28, 28, 1), ("identity_kernel=big",)), "is of type int; found 'big'"),
    (("resnet_like", 10, (28, 28, 1), ("identity_kernel=0",)), "identity_kernel must be at least 1; found 0"),
    (("three_apis", 10, (28, 28, 1), ("api=functonal",)), "did you mean 'functional'?"),
    (("cnn", 10, (28, 28, 1), ("depth=3",)), "model cnn has no options; found 'depth=3'"),
    (("cnn", 0, (28, 28, 1)), "at least 1 class; found 0"),
    (("cnn", 10, (28, 0, 1)), "found 28x0x1"),
], ids=lambda value: str(value)[:40])
def test_wrong_arguments_are_one_line_errors(arguments, message):
    with pytest.raises(UsageError) as error:
        registry.create(*arguments)
    assert message in str(error.value) and "\n" not in str(error.value)


def test_one_channel_is_repeated_only_where_the_model_wants_colour():
    assert {name: registry.wanted_channels(name, 1) for name in COUNTS} == {
        "mlp": 1, "cnn": 1, "resnet_like": 1, "inception": 1, "mini_inception": 3, "three_apis": 3}
    assert registry.wanted_channels("mini_inception", 4) == 4 and registry.wanted_channels("cnn", 3) == 3


@pytest.mark.acceptance
def test_variables_have_the_same_names_and_order_in_every_process():
    code = ("from pipeline.models import registry\nregistry.create('mlp', 2, (4, 4, 1))\n"
            "for name in ('three_apis', 'mini_inception'):\n"
            "  for v in registry.create(name, 10, registry.MODELS[name].row.example_shape).variables: print(v.path)")
    ours = [v.path for name in ("three_apis", "mini_inception") for v in create(name).variables]
    root = pathlib.Path(__file__).parents[2]
    theirs = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True).stdout
    theirs = theirs.split()
    assert theirs == ours and len(set(ours)) == len(ours)


def test_build_alone_makes_every_variable():
    model = registry.model_class("cnn")()
    model.build((None, 28, 28, 1))
    assert [v.path for v in model.variables] == [v.path for v in create("cnn").variables]


def test_create_within_a_strategy(strategy):
    scope = strategy(2)
    with scope.scope():
        model = create("cnn")
    assert all(len(scope.experimental_local_results(v.value)) == 2 for v in model.variables)
