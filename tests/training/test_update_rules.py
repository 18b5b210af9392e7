"""Every optimizer computes its paper's formulas, under what else a step does, on one replica and on two."""
import dataclasses
import functools

import keras
import numpy as np
import pytest

from pipeline.choices import OPTIMIZERS
from pipeline.config import ExperimentConfig
from pipeline.errors import UsageError
from pipeline.internals.keras_internals import reduced_optimizer
from pipeline.training import update_rules
from pipeline.training.step import TRAIN_COLUMNS, StepFunctions
from tests import replicas
from tests.selection import quick
from tests.training import by_hand, rules_by_hand
from tests.training.small import build, distance, run
from tests.training.test_unfreezing import values

FACTORS = dict.fromkeys(by_hand.NAMES, 1.0)
SLOWER = {"hidden/w": 0.5, "hidden/b": 0.5, "classifier/w": 1.0, "classifier/b": 1.0}
STEPS, CUT = 20, 9
NEW = ("rmsprop", "lars", "adafactor", "muon", "schedule_free")


def with_loss_scale(experiment):
    """Gives an experiment in float64 the dynamic loss scale of half precision, a power of two."""
    experiment.settings = dataclasses.replace(experiment.settings, scale_loss=True)
    experiment.state.fit_precision(True)
    experiment.steps = StepFunctions(experiment.strategy, experiment.state, experiment.steps.schedule,
                                     experiment.settings)


@functools.cache
def first_batches():
    """Returns those of all experiments here."""
    return by_hand.batches(build(replicas.strategy(1)), STEPS)


# New optimizers with the rate of each weight and without, on one replica and on two; Keras's in acceptance. LAMB,
# whose update is not that of Keras, is in make test too.
@pytest.mark.parametrize("optimizer, count, thaws", quick([
    *((name, 1 + i % 2, False) for i, name in enumerate(NEW)),
    *((name, 2 - i % 2, True) for i, name in enumerate(NEW)),
    *((name, 1 + i % 2, bool(i % 2)) for i, name in enumerate(("sgd", "adam", "adamw", "lamb", "lion")))],
    2, 3, 4, 2 * len(NEW) + 3))  # Lars and RMSprop in make test by the test below.
def test_an_optimizer_computes_its_formulas(strategy, tmp_path, optimizer, count, thaws):
    stages = dict(freeze=("backbone",), unfreeze_at=("5",), layer_decay=0.5) if thaws else {}
    experiment = build(strategy(count), optimizer=optimizer, learning_rate=by_hand.RATE, clip_norm=0.5,
                       accumulate_steps=2, weight_decay_exclude=("head",), **stages, **by_hand.OPTIONS[optimizer])
    with_loss_scale(experiment)
    before, begins = values(experiment), dict.fromkeys(FACTORS, 0)
    if thaws:
        begins.update({"hidden/w": 5, "hidden/b": 5})
    expected, norms = by_hand.train(before, first_batches(), optimizer, begins,
                                    SLOWER if thaws else FACTORS, 0.5, undecayed=["classifier/w"])
    rows = [run(experiment, CUT)]
    saved = experiment.state.checkpoint().write(str(tmp_path / "checkpoint"))
    run(experiment, 2, start=CUT)
    experiment.state.checkpoint().read(saved).assert_consumed()
    rows.append(run(experiment, STEPS - CUT, start=CUT))
    after = values(experiment)
    assert distance([expected[name] for name in before], [after[name] for name in before]) < 1e-10
    np.testing.assert_allclose(np.concatenate(rows)[:, TRAIN_COLUMNS.index("gradient_norm")], norms, rtol=1e-9)


# Adafactor and Muon see the axes of a kernel of a convolution.
@pytest.mark.parametrize("name, shape", [
    ("adafactor", (3, 2, 4, 5)), ("muon", (3, 3, 2, 6)), ("muon", (2, 2, 1, 8)), ("lars", (3, 3, 2, 6)), ("lars", (7,)),
    ("rmsprop", (3, 3, 2, 6))])
def test_kernels_of_convolutions(name, shape):
    keras.config.set_floatx("float64")
    row, own, draws = OPTIMIZERS[name], by_hand.OPTIMIZERS[name]("block1/w"), np.random.default_rng(0)
    given = {row.options[option][0]: value for option, value in by_hand.OPTIONS[name].items() if option in row.options}
    optimizer = getattr(update_rules, row.factory.partition(":")[2])(by_hand.RATE, weight_decay=by_hand.DECAY, **given)
    weight = draws.normal(size=shape)
    variable = keras.Variable(weight, name="kernel")
    optimizer.exclude_from_weight_decay([variable] if len(shape) == 1 else [])
    optimizer.build([variable])
    for _ in range(STEPS):
        gradient = draws.normal(size=shape)
        optimizer.apply([keras.ops.convert_to_tensor(gradient)], [variable])
        weight = own.step(weight, gradient, by_hand.RATE, len(shape) > 1)
    assert distance([weight], [variable.numpy()]) < 1e-10


def test_muon_gives_to_adam_what_is_no_matrix(strategy):
    """The last layer, vectors, depthwise kernels and embeddings."""
    optimizer = build(strategy(1), model="cnn", image_size=8, optimizer="muon").state.optimizer
    by_adam = [v is not None for v in optimizer._velocities]
    shapes = [tuple(m.shape) for m, adam in zip(optimizer._momentums, by_adam, strict=True) if not adam]
    assert shapes and all(len(shape) == 4 for shape in shapes)
    muon = reduced_optimizer(update_rules.Muon)()
    kinds = {"kernel": (3, 3, 8, 1), "position_embedding": (16, 8), "patches": (1, 16, 8)}
    assert not any(muon.is_matrix(keras.Variable(np.ones(shape), name=name)) for name, shape in kinds.items())


def test_what_schedule_free_evaluates_is_its_average(strategy):
    experiment = build(strategy(2), optimizer="schedule_free", learning_rate=by_hand.RATE, warmup="4",
                       **by_hand.OPTIONS["schedule_free"])
    before = values(experiment)
    own = {name: rules_by_hand.ScheduleFree(name) for name in by_hand.NAMES}
    trained = dict(before)
    for step, batch in enumerate(first_batches()[:6]):
        grads = by_hand.gradients(trained, *batch)
        rate = experiment.learning_rate(step)
        trained = {name: own[name].step(trained[name], grads[name], rate, name.endswith("/w")) for name in own}
    run(experiment, 6)
    with experiment.evaluated_weights():
        average = values(experiment)
    assert distance([own[name].x for name in before], [average[name] for name in before]) < 1e-10
    assert distance([trained[name] for name in before], [values(experiment)[name] for name in before]) < 1e-10
    assert distance(list(trained.values()), [average[name] for name in trained]) > 1e-3


@pytest.mark.parametrize("options, says", [
    (dict(optimizer="sgd", beta1=0.5), "--beta1=0.5: the optimizer sgd takes --momentum, --nesterov"),
    (dict(optimizer="lion", epsilon=0.1), "--epsilon=0.1: the optimizer lion takes --beta1, --beta2"),
    (dict(optimizer="lars", nesterov=True), "--nesterov=1: the optimizer lars takes --momentum"),
    (dict(optimizer="adafactor", momentum=0.5), "--momentum=0.5: the optimizer adafactor takes --epsilon"),
    (dict(optimizer="schedule_free", beta1=0.0), "--beta1 must be above 0 for schedule_free"),
    (dict(optimizer="schedule_free", ema_decay=0.5), "--ema_decay=0.5: schedule_free keeps an average of the weights"),
    (dict(optimizer="adam", epsilon=0.0), "--epsilon must be > 0; found 0"),
])
def test_an_option_that_an_optimizer_does_not_take_is_refused(options, says):
    with pytest.raises(UsageError) as error:
        ExperimentConfig.from_flat(options)
    assert says in str(error.value)


def test_the_momentum_is_that_of_the_optimizer():
    found = {name: ExperimentConfig.from_flat({"optimizer": name}) for name in OPTIMIZERS}
    assert {name: config.optimizer.momentum for name, config in found.items()} == {
        **dict.fromkeys(found, 0.9), "muon": 0.95}
    assert found["muon"].replace(optimizer="sgd").optimizer.momentum == 0.9
    assert found["muon"].replace(optimizer="sgd", momentum=0.5).optimizer.momentum == 0.5
    # What earlier versions stored with an optimizer that ignores it stays readable.
    assert ExperimentConfig.from_flat({"optimizer": "adam", "momentum": 0.5}).optimizer.momentum == 0.5
