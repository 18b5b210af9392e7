"""A trained model from its run directory: weights of one checkpoint, of several, or their moving average."""
import os
import shutil

import numpy as np
import pytest

from pipeline.errors import UsageError
from pipeline.evaluation.trained_model import TrainedModel
from pipeline.files import write_json
from pipeline.run_directory import RunDirectory
from pipeline.stored_checkpoint import find_checkpoint, remove
from pipeline.training import stored_weights
from pipeline.training.checkpoint import CheckpointStore
from pipeline.training.run_records import describe
from pipeline.training.state import averaged
from pipeline.training.stored_weights import latest_checkpoints
from tests.training.small import build, run, weights


@pytest.fixture(scope="module")
def trained(strategy, tmp_path_factory):
    """(experiment, RunDirectory, {step: the variables it had}) with checkpoints of steps 2, 4 and 6."""
    experiment = build(strategy(1), model="three_apis", precision="float32", ema_decay=0.5, normalize="per_channel")
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


def test_a_trained_model_computes_what_its_experiment_computes(trained):
    experiment, directory, _ = trained
    model = TrainedModel.load(directory, ema=False)
    test = experiment.source.test
    assert (model.step, model.image_shape, model.class_names) == (6, (28, 28, 1), experiment.source.class_names)
    found = model.logits(test.reader.images[:50])  # More than one batch of 16, the last one short.
    np.testing.assert_allclose(found, experiment.outputs(test).logits[:50], rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(model.probabilities(test.reader.images[:50]).sum(1), 1.0, rtol=1e-6)


def test_checkpoints_are_chosen_and_averaged(trained):
    _, directory, values = trained
    for a, b in zip(variables(TrainedModel.load(directory, "4", ema=False)), values[4], strict=True):
        np.testing.assert_array_equal(a, b)
    mean = TrainedModel.load(directory, average=2, ema=False)
    assert mean.steps == (6, 4)
    for a, b, c in zip(variables(mean), values[4], values[6], strict=True):
        np.testing.assert_allclose(a, (b.astype(np.float64) + c) / 2, rtol=1e-6, atol=1e-9)
    with pytest.raises(UsageError, match=r"has 3 good ones up to step 6 \(6, 4, 2\)"):
        TrainedModel.load(directory, average=4)


def test_a_checkpoint_given_by_path_is_averaged_with_those_of_its_own_run(trained, strategy, tmp_path):
    """The given run has other checkpoints before that step, with other weights."""
    experiment, directory, values = trained
    other = RunDirectory(str(tmp_path))
    write_json(other.file("config.json"), describe(experiment))
    store = CheckpointStore(other.file("checkpoints"), experiment.state, keep=3)
    for step in (1, 5):
        store.save(step, best=step == 5)
    store.sync()
    path = directory.file("checkpoints", "ckpt-6")
    assert [c.path for c in latest_checkpoints(find_checkpoint(other.file("checkpoints"), path), 2)] == [
        path, directory.file("checkpoints", "ckpt-4")]
    best = latest_checkpoints(find_checkpoint(other.file("checkpoints"), "best"), 2)
    assert [os.path.relpath(c.path, tmp_path) for c in best] == ["checkpoints/best/ckpt-5", "checkpoints/ckpt-1"]
    with pytest.raises(UsageError, match=rf"{directory.file('checkpoints')} has 3 good ones up to step 6"):
        TrainedModel.load(other, path, average=4)


def test_a_checkpoint_removed_by_a_concurrent_training_is_looked_up_again(trained, tmp_path, monkeypatch):
    _, directory, values = trained
    copy, reads = RunDirectory(str(tmp_path / "run")), []
    shutil.copytree(directory.path, copy.path)
    read = stored_weights.read_weights

    def removed(model, checkpoints, ema):
        reads.append([c.step for c in checkpoints])
        if len(reads) == 1:
            remove(copy.file("checkpoints"), "ckpt-6")
        read(model, checkpoints, ema)

    monkeypatch.setattr(stored_weights, "read_weights", removed)
    model = TrainedModel.load(copy, ema=False)
    assert reads == [[6], [4]] and model.steps == (4,)
    for a, b in zip(variables(model), values[4], strict=True):
        np.testing.assert_array_equal(a, b)


def test_the_moving_average_is_read_from_the_checkpoint(trained):
    experiment, directory, values = trained
    averages = [a.numpy() for a in experiment.state.ema]
    model = TrainedModel.load(directory).model  # What a run with an average evaluates.
    floats = [np.asarray(v) for v in averaged(model)]
    assert any(not np.array_equal(a, b) for a, b in zip(floats, values[6], strict=False))
    for a, b in zip(floats, averages, strict=True):
        np.testing.assert_array_equal(a, b)


def test_saliency_shows_the_pixels_on_which_the_class_depends(trained):
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
