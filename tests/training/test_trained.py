"""A trained model from its run's directory alone: weights of one checkpoint, of several, or their moving average."""
import numpy as np
import pytest

from pipeline.errors import UsageError
from pipeline.files import write_json
from pipeline.trained import TrainedModel
from pipeline.training.checkpoint import CheckpointStore
from pipeline.training.run import describe
from pipeline.training.run_directory import RunDirectory
from pipeline.training.state import averaged
from tests.training.small import build, run, weights


@pytest.fixture(scope="module")
def trained(strategy, tmp_path_factory):
    """(experiment, RunDirectory, {step: the variables it had}) with checkpoints of steps 2, 4 and 6."""
    experiment = build(strategy(2), model="three_apis", precision="float32", ema_decay=0.5, normalize="per_channel")
    directory = RunDirectory(str(tmp_path_factory.mktemp("trained")))
    write_json(directory.file("config.json"), describe(experiment))
    store, values = CheckpointStore(directory.file("checkpoints"), experiment.state, keep=3), {}
    for step in (2, 4, 6):
        run(experiment, 2, start=step - 2)
        store.save(step)
        values[step] = weights(experiment)
    store.sync()
    return experiment, directory, values


def variables(model):
    return [np.asarray(v) for v in model.model.variables]


def test_it_computes_what_the_experiment_computes(trained):
    experiment, directory, _ = trained
    model = TrainedModel.load(directory)
    test = experiment.source.test
    assert (model.step, model.image_shape, model.class_names) == (6, (28, 28, 1), experiment.source.class_names)
    found = model.logits(test.reader.images[:50])  # More than one batch of 16, the last one short.
    np.testing.assert_allclose(found, experiment.outputs(test).logits[:50], rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(model.probabilities(test.reader.images[:50]).sum(1), 1.0, rtol=1e-6)


def test_checkpoints_are_chosen_and_averaged(trained):
    _, directory, values = trained
    for a, b in zip(variables(TrainedModel.load(directory, "4")), values[4], strict=True):
        np.testing.assert_array_equal(a, b)
    mean = TrainedModel.load(directory, average=2)
    assert mean.steps == (6, 4)
    for a, b, c in zip(variables(mean), values[4], values[6], strict=True):
        np.testing.assert_allclose(a, (b.astype(np.float64) + c) / 2, rtol=1e-6, atol=1e-9)
    with pytest.raises(UsageError, match=r"has 3 good ones up to step 6 \(6, 4, 2\)"):
        TrainedModel.load(directory, average=4)


def test_the_moving_average_is_read_from_the_checkpoint(trained):
    experiment, directory, values = trained
    averages = [a.numpy() for a in experiment.state.ema]
    model = TrainedModel.load(directory, ema=True).model
    floats = [np.asarray(v) for v in averaged(model)]
    assert any(not np.array_equal(a, b) for a, b in zip(floats, values[6], strict=False))
    for a, b in zip(floats, averages, strict=True):
        np.testing.assert_array_equal(a, b)


def test_saliency_shows_the_pixels_that_the_class_depends_on(trained):
    _, directory, _ = trained
    model = TrainedModel.load(directory)
    images = np.full([3, 28, 28, 1], 128, np.uint8)
    images[:, 10:18, 10:18] = 255
    found = model.saliency(images, [1, 2, 2])
    assert found.shape == (3, 28, 28) and (found >= 0).all() and found.max() > 0
    np.testing.assert_allclose(found[1], found[2], rtol=1e-5)  # The noise is that of the view, not of the row.
    np.testing.assert_allclose(found[:1], model.saliency(images[:1], [1]), rtol=1e-4, atol=1e-7)


def test_weights_and_updates_are_measured_every_20_steps(strategy):
    experiment = build(strategy(2), model="mlp", optimizer="sgd", momentum=0.0, learning_rate=0.1)
    rows = run(experiment, 19)
    before = weights(experiment)
    last = run(experiment, 1, start=19)[0]
    assert np.isnan(rows[:, 6:8]).all()
    now, change = weights(experiment), 0.1 * last[3]  # Plain SGD moves by rate times gradient.
    norm = np.sqrt(sum((w**2).sum() for w in now))
    assert last[6] == pytest.approx(norm, rel=1e-9)
    assert last[7] == pytest.approx(change / norm, rel=1e-6)
    assert any(not np.array_equal(a, b) for a, b in zip(before, now, strict=True))
