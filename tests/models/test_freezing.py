"""--freeze: frozen weights keep every bit, the others train as in Keras, on any number of replicas."""
import keras
import numpy as np
import pytest

from pipeline.errors import UsageError
from pipeline.models import registry
from pipeline.models.freezing import freeze
from pipeline.models.weight_names import named
from pipeline.training.step import TRAIN_COLUMNS
from tests.parity_cells import EVERYTHING
from tests.selection import quick
from tests.training.small import build, copies, distance, run, weights

LOSS, NORM = TRAIN_COLUMNS.index("loss"), TRAIN_COLUMNS.index("gradient_norm")
SMALL = dict(model="cnn", image_size=8, freeze=("block1", "block?/norm"))


def values(experiment):
    """Returns {name: numpy array} of the model's float variables."""
    return {name: keras.ops.convert_to_numpy(v) for name, v in named(experiment.state.model).items()}


def use_statistics(experiment):
    """Gives moving statistics, and their averages, values that rounding does not leave alone as it does 0 and 1."""
    for name, variable in named(experiment.state.model).items():
        if "/moving_" in name:
            spread = np.linspace(0.3, 0.7, variable.shape[0])
            variable.assign(spread if name.endswith("variance") else -spread)  # So that rectifiers let most through.
    for average, variable in zip(experiment.state.ema, experiment.state.averaged(), strict=False):
        average.assign(variable.value)


def assert_frozen(before, after, is_frozen):
    """Checks that exactly the variables for whose name is_frozen holds have kept every bit."""
    kept = {name for name in before if np.array_equal(before[name], after[name])}
    assert kept == {name for name in before if is_frozen(name)}


@pytest.mark.parametrize("counts", quick([[1], [3], [1, 3]], 0), ids=str)
def test_frozen_weights_keep_every_bit_on_one_replica_and_on_three(strategy, counts):
    """A value that went through the mean of three would not come back to the last bit."""
    options, runs = {**SMALL, **EVERYTHING, "decay_all": True, "ema_decay": 0.5, "accumulate_steps": 2}, {}
    if counts == [1]:
        options.update(augment=(), accumulate_steps=1)
    for replicas in counts:
        experiment = build(strategy(replicas), **options, batch_size=12)
        use_statistics(experiment)
        before, losses = values(experiment), run(experiment, 3)[:, LOSS]
        averages = dict(zip(before, map(np.asarray, experiment.state.ema), strict=True))
        for after in (values(experiment), averages):
            assert_frozen(before, after, lambda name: name.startswith("block1/") or "/norm/" in name)
        assert all((copy == every[0]).all() for every in copies(experiment) for copy in every)
        runs[replicas] = losses, weights(experiment)
    if len(counts) > 1:
        np.testing.assert_allclose(runs[3][0], runs[1][0], rtol=1e-8)
        assert distance(runs[1][1], runs[3][1]) < 1e-8


@pytest.mark.parametrize("replicas,options", quick([
    (1, dict(optimizer="sgd", precision="mixed_bfloat16", clip_norm=0.1)),
    (2, dict(optimizer="lion", precision="mixed_float16", force=True, weight_decay=0.1)),
]))
def test_a_frozen_backbone_stays_in_mixed_precision(strategy, replicas, options):
    experiment = build(strategy(replicas), model="cnn", image_size=8, freeze=("backbone",), **options)
    use_statistics(experiment)
    before = values(experiment)
    experiment.state.loss_scale.assign(8.0 if replicas == 2 else 1.0)
    run(experiment, 3)
    assert_frozen(before, values(experiment), lambda name: not name.startswith("classifier/"))


def test_the_fused_kernel_leaves_frozen_weights_alone(strategy):
    experiment = build(strategy(1), model="cnn", image_size=14, precision="float32", freeze=("block1", "block2"))
    before = values(experiment)
    run(experiment, 2)
    # A bias before a normalization that trains gets no gradient.
    assert_frozen(before, values(experiment), lambda name: name.startswith(("block1/", "block2/"))
                  or name == "block3/convolution/bias")
    # Neither gradients nor the optimizer have room for them.
    trained = experiment.state.model.trainable_variables
    assert [v.path.split("/")[1] for v in trained] == ["block3"] * 4 + ["classifier"] * 2
    assert len(experiment.state.optimizer.variables) == 2 + 2 * len(trained)


def test_a_step_is_that_of_keras_with_layers_that_do_not_train(strategy):
    # In float32 because of its fused kernel, which has no gradient of the mean.
    experiment = build(strategy(1), **SMALL, optimizer="sgd", momentum=0.0, learning_rate=0.1, l2=1e-3,
                       precision="float32")
    model, k = experiment.state.model, keras.layers
    blocks = [(k.Conv2D(n, 3, padding="same"), k.BatchNormalization(), k.ReLU()) for n in (32, 64, 128)]
    reference = keras.Sequential([*(layer for block in blocks for layer in block), k.Flatten(), k.Dense(10)])
    reference(np.zeros((1, 8, 8, 1)))
    use_statistics(experiment)
    reference.set_weights(model.get_weights())
    for layer in (blocks[0][0], *(block[1] for block in blocks)):
        layer.trainable = False
    for variable in reference.trainable_variables:
        variable.regularizer = keras.regularizers.L2(1e-3) if len(variable.shape) > 1 else None
    batch = next(iter(experiment.train_iterator(0)))
    reference.compile(keras.optimizers.SGD(0.1), keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    history = reference.fit(batch["image"].numpy() / 255.0, batch["label"].numpy(), batch_size=16, verbose=0)
    rows = run(experiment, 1)
    assert rows[0, LOSS] == pytest.approx(history.history["loss"][0], rel=1e-5)
    assert distance(reference.get_weights(), model.get_weights()) < 1e-5  # The biases of convolutions among them.


def test_the_gradient_norm_is_that_of_the_trained_weights(strategy):
    whole, frozen = (build(strategy(1), freeze=patterns) for patterns in ((), ("hidden",)))
    gradients, _ = whole.steps.reduced_gradients(whole.train_iterator(0))
    expected = np.sqrt(sum(np.sum(g.numpy() ** 2) for g in gradients[2:]))  # Of the classifier.
    assert run(frozen, 1)[0, NORM] == pytest.approx(expected, rel=1e-12)
    assert frozen.freezing.describe() == {"variables": ["hidden/w", "hidden/b"], "parameters": 50240,
                                        "trained_parameters": 650}


@pytest.mark.parametrize("model", ["mlp", "three_apis"])
def test_backbone_is_everything_but_the_last_layer(model):
    made = registry.create(model, 10, (28, 28, 3))
    freeze(made, ("backbone",), (28, 28, 3))
    assert {v.path.split("/")[-2] for v in made.trainable_variables} == {"classifier"}
    normalizations = [layer for layer in made._flatten_layers() if type(layer).__name__ == "BatchNormalization"]
    assert len(normalizations) == {"mlp": 0, "three_apis": 2}[model]
    assert not any(layer.trainable for layer in normalizations)


@pytest.mark.parametrize("patterns,says", [
    (("blok1",), "--freeze=blok1 matches no weight of model cnn: did you mean 'block1'?"),
    (("block1", "backbon"), "did you mean 'backbone'?"),
    (("*/moving_mean",), "matches no weight"),
    (("backbone", "classifier"), "--freeze=backbone,classifier leaves nothing of model cnn to train"),
])
def test_invalid_patterns_are_refused(patterns, says):
    with pytest.raises(UsageError) as error:
        freeze(registry.create("cnn", 10, (8, 8, 1)), patterns, (8, 8, 1))
    assert says in str(error.value)
