"""A user's model in the training step: what it may be, what it keeps of the promises, and what is refused."""
import functools
import re

import keras
import numpy as np
import pytest
import tensorflow as tf

from pipeline import extension
from pipeline.config import ExperimentConfig
from pipeline.data.load import load
from pipeline.errors import UsageError
from pipeline.models import model_checks, registry
from pipeline.models.normalization import BatchNormalization
from pipeline.models.registry import register
from pipeline.training.checkpoint import CheckpointStore
from pipeline.training.settings import preprocess, step_settings
from pipeline.verification.measure import unclaimed_parity
from tests.commands import REPOSITORY
from tests.selection import quick
from tests.training.small import build, copies, distance, run, weights

KERAS_LAYERS = str(REPOSITORY / "tests" / "extension" / "keras_layers.py")


@pytest.fixture
def plain():
    """Loads the extension whose model, `plain`, has Keras's own layers."""
    extension.load((KERAS_LAYERS,))


def small(**options):
    return {"model": "plain", "batch_size": 16, "precision": "float32", **options}


@pytest.mark.acceptance
def test_layers_without_the_training_argument_train(strategy, plain):
    experiment = build(strategy(1), **small())
    moving = [v for v in experiment.state.model.variables if "moving" in v.path]
    before = [v.numpy() for v in moving]
    rows = run(experiment, 3)
    assert len(moving) == 2 and all(not np.array_equal(v, b) for v, b in zip(moving, before, strict=True))
    without = build(strategy(1), **small(model_options=("rate=0",)))
    assert rows[0, 0] != run(without, 1)[0, 0]  # Dropout drops.


@pytest.mark.parametrize("replicas", quick([1, 2], 0))
def test_keras_layers_resume_bit_for_bit(strategy, plain, tmp_path, replicas):
    whole = build(strategy(replicas), **small())
    run(whole, 3)
    store = CheckpointStore(str(tmp_path / "checkpoints"), whole.state, keep=1)
    store.save(3)
    store.sync()
    losses = run(whole, 3, start=3)[:, 0]
    goes_on = build(strategy(replicas), **small())
    run(goes_on, 1, start=9)  # Something to be overwritten.
    CheckpointStore(str(tmp_path / "checkpoints"), goes_on.state, keep=1).restore()
    np.testing.assert_array_equal(run(goes_on, 3, start=3)[:, 0], losses)
    for a, b in zip(copies(whole), copies(goes_on), strict=True):
        assert all(np.array_equal(a[0], copy) for copy in (*a, *b))  # And the replicas agree with each other.


@pytest.mark.acceptance
def test_synchronized_statistics_are_those_of_one_replica(strategy, plain):
    options = small(precision="float64", model_options=("synchronized=true", "rate=0"))
    one, two = build(strategy(1), **options), build(strategy(2), **options)
    np.testing.assert_allclose(run(two, 4)[:, 0], run(one, 4)[:, 0], rtol=1e-10)
    assert distance(weights(one), weights(two)) < 1e-8  # A bias before the normalization drifts by rounding.
    assert unclaimed_parity(two.state.model, True) == ""
    apart = build(strategy(2), **small(precision="float64", model_options=("rate=0",)))
    assert distance(weights(one), (run(apart, 4), weights(apart))[1]) > 1e-4
    with pytest.raises(UsageError, match="--xla=on with several replicas: .*batch_normalization.* is synchronized"):
        build(strategy(2), **small(model_options=("synchronized=true",), xla="on", sync_batch_norm=False))


def test_layers_that_differ_between_replicas_are_named(strategy, plain):
    experiment = build(strategy(2), **small())
    assert [what for what, _ in model_checks.departures(experiment.state.model)] == [
        "Keras's own BatchNormalization takes the statistics of each replica's part",
        "Dropout draws the same on every replica"]
    next(x for x in experiment.state.model.body if isinstance(x, keras.layers.BatchNormalization)).trainable = False
    # Its moving statistics are the same everywhere.
    assert unclaimed_parity(experiment.state.model, True) == "Dropout draws the same on every replica"


class Mixed(keras.Model):
    """An activity penalty before synchronized statistics: the calls of the replicas take turns in the middle."""

    def __init__(self, num_classes=10):
        super().__init__()
        self.flatten = keras.layers.Flatten()
        self.penalized = keras.layers.Dense(4, activity_regularizer=keras.regularizers.L2(0.1))
        self.normalization = BatchNormalization()
        self.dense = keras.layers.Dense(num_classes, kernel_regularizer=keras.regularizers.L2(0.01), dtype="float32")

    def call(self, x):
        return self.dense(self.normalization(self.penalized(self.flatten(x))))


@pytest.mark.acceptance
def test_penalties_before_synchronized_statistics_are_in_the_loss(strategy):
    register("mixed")(Mixed)
    one, two = (build(strategy(n), **small(model="mixed", precision="float64")) for n in (1, 2))
    assert {v.dtype for v in one.state.model.trainable_variables} == {"float64"}  # Its float32 layer too.
    first, second = run(one, 3)[:, 0], run(two, 3)[:, 0]
    np.testing.assert_allclose(second, first, rtol=1e-10)
    model, batch = one.state.model, next(iter(one.train_iterator(3)))
    logits = model(batch["image"].numpy() / 255.0, training=True)
    expected = np.mean(keras.losses.sparse_categorical_crossentropy(batch["label"], logits, from_logits=True))
    penalties = [float(p) for p in model.losses]
    assert len(penalties) == 2 and run(one, 1, start=3)[0, 0] == pytest.approx(expected + sum(penalties), rel=1e-10)


def made(call, extra=lambda model: None, classes=3, shape=(6, 6, 1), options=()):
    """Registers a model whose call is `call(model, x)` and makes it."""
    @register("made")
    class Made(keras.Model):
        def __init__(self, num_classes, width: "int" = 4, sure: bool = False, scale=0.5, way: str = "up", *,
                     odd=None):
            super().__init__()
            self.num_classes, self.given = num_classes, (width, sure, scale, way)
            self.flatten, self.dense = keras.layers.Flatten(), keras.layers.Dense(num_classes)
            extra(self)

        def call(self, x):
            return call(self, self.dense(self.flatten(x)))

    return registry.create("made", classes, shape, options)


@functools.cache
def generator():
    """Made in the test: what was made before, tests/conftest.py takes out of the sight of the garbage collector."""
    return keras.random.SeedGenerator(1)


@pytest.mark.parametrize("call, message", [
    (lambda model, x: keras.ops.softmax(x), "model made returns probabilities, and the loss takes logits: leave its"),
    (lambda model, x: x[:, :2], r"must return logits, a float tensor of shape \(batch, 3\); of 2 images it returned "
                                r"\(2, 2\) of float32"),
    (lambda model, x: {"logits": x}, "it returned dict"),
    (lambda model, x: x + keras.random.normal((3,)), "draws without a seed generator of its own"),
    (lambda model, x: x + keras.random.normal((3,), seed=generator()), "draws without a seed generator of its own"),
    (lambda model, x: tf.nn.dropout(x, 0.5), r"draws with TensorFlow's RandomUniform \(made.*/dropout/"),
    (lambda model, x: x * model.missing, r"model made: .*test_models.py, line \d+: AttributeError: .*missing"),
])
def test_a_model_that_breaks_the_guarantees_of_the_step_is_refused(call, message):
    with pytest.raises(UsageError, match=message) as caught:
        made(call)
    assert "\n" not in str(caught.value) and "\x1b" not in str(caught.value)


def test_a_variable_unknown_to_keras_is_refused():
    def add(model):
        model.hidden = {"scale": (tf.Variable(1.0, name="scale"),)}

    with pytest.raises(UsageError, match="uses the variable 'scale:0' that Keras does not know of"):
        made(lambda model, x: x * model.hidden["scale"][0], add)


def test_a_seed_generator_and_a_function_are_accepted():
    def add(model):
        model.generator = keras.random.SeedGenerator(3)

    model = made(lambda model, x: x + keras.random.normal((3,), seed=model.generator), add)
    assert "seed_generator" in model.non_trainable_variables[0].path

    @register("sequence", wanted_channels=3)
    def sequence(num_classes, width=5):
        return keras.Sequential([keras.layers.Flatten(), keras.layers.Dense(width), keras.layers.Dense(num_classes)])

    assert registry.wanted_channels("sequence", 1) == 3
    assert registry.create("sequence", 2, (3, 3, 3), ("width=7",)).count_params() == 28 * 7 + 8 * 2


def test_a_functional_model_is_made_for_its_images_and_declares_their_range():
    @register("functional", wanted_channels=3, input_range="caffe")
    def functional(num_classes, input_shape, width=5):
        image = keras.Input(input_shape)
        x = keras.layers.Dense(width, name="hidden")(keras.layers.Flatten()(image))
        return keras.Model(image, keras.layers.Dense(num_classes, name="classifier")(x))

    model = registry.create("functional", 2, (3, 4, 3), ("width=7",))
    assert model.input_shape == (None, 3, 4, 3) and model.count_params() == 37 * 7 + 8 * 2
    config = ExperimentConfig.from_flat({"model": "functional", "dataset": "synthetic:3x4x1", "batch_size": 4})
    source = load(config.data, 4)
    settings = step_settings(config, source, 3, 1)
    assert settings.input_range == "caffe"
    seen = preprocess(tf.constant(np.full((1, 3, 4, 1), 200, np.uint8)), settings)
    np.testing.assert_allclose(seen[0, 0, 0], 200 - np.array([103.939, 116.779, 123.68]), rtol=1e-6)
    # A run goes on with what it began with, here before models declared a range.
    before = {"data": {"image_shape": [3, 4, 1]}, "normalization": {"mean": [0.5], "deviation": [0.25]}}
    normalized = config.replace(normalize="per_channel")
    assert step_settings(normalized, source, 3, 1, before).input_range == "0..1"
    with pytest.raises(UsageError, match="--normalize=per_channel: model functional takes values in a range of"):
        step_settings(normalized, source, 3, 1)
    with pytest.raises(UsageError, match="input_range of model 'mine' '0..256': did you mean '0..255'"):
        register("mine", input_range="0..256")


def test_options_are_read_by_their_types():
    model = made(lambda model, x: x, options=("width=7", "sure=true", "scale=2", "way=down"))
    assert model.given == (7, True, 2.0, "down")
    for options, message in ((("sure=perhaps",), "option sure of model made is of type bool; "
                              "found 'perhaps'"),
                             (("odd=1",), "option odd of model made cannot be given as text: its type is none of "),
                             (("widht=1",), "unknown option of model made 'widht': did you mean 'width'?")):
        with pytest.raises(UsageError, match=message):
            made(lambda model, x: x, options=options)


def test_its_configuration_has_the_given_arguments(plain, tmp_path):
    for name, options, expected in (("plain", ("rate=0.1",), {"num_classes": 3, "synchronized": False, "rate": 0.1}),
                                    ("made", ("width=7",), {"num_classes": 3, "width": 7, "sure": False, "scale": 0.5,
                                                            "way": "up", "odd": None})):
        if name == "made":
            made(lambda model, x: x)
        model = registry.create(name, 3, (6, 6, 1), options)
        assert model.get_config() == expected
        path, image = str(tmp_path / f"{name}.keras"), np.random.RandomState(0).rand(2, 6, 6, 1).astype("float32")
        model.save(path)
        again = keras.saving.load_model(path)
        assert type(again) is type(model)
        # Keras numbers the layers that it names itself.
        paths = [[re.sub(r"_\d+(?=/|$)", "", v.path) for v in one.variables] for one in (again, model)]
        assert paths[0] == paths[1]
        np.testing.assert_array_equal(again(image), model(image))


class Without(keras.Model):
    """Takes no number of classes."""

    def __init__(self, classes=3):
        super().__init__()


def needing(num_classes, depth):
    """Wants more than anybody gives."""


@pytest.mark.parametrize("model, message", [
    (Without, "does not take the argument num_classes: give it to Without.__init__"),
    (needing, "has no default for its argument depth"),
    (dict, "is neither a subclass of keras.Model nor a function"),
    (3, "is neither a subclass of keras.Model nor a function"),
])
def test_an_invalid_model_is_refused_where_it_is_registered(model, message):
    with pytest.raises(UsageError, match=rf"test_models.py, line \d+: model 'wrong' {message}"):
        register("wrong")(model)


def test_a_function_that_returns_no_model_is_refused():
    register("tuples")(lambda num_classes: (num_classes,))
    with pytest.raises(UsageError, match="model tuples is a tuple, not a keras.Model"):
        registry.create("tuples", 3, (4, 4, 1))
