"""--average_last: the mean of the weights at the ends of the last epochs, exact through any resume."""
import numpy as np
import pytest
import tensorflow as tf

from pipeline.errors import UsageError
from pipeline.models.weight_names import named
from pipeline.training.step import StepFunctions
from tests.commands import kill_at_step, metrics, result, start, succeed
from tests.selection import quick
from tests.training.small import build, distance, run, weights

EPOCHS = dict(subset=4, batch_size=16, steps=12)  # Of four steps each.


# A model with moving statistics, on two replicas; the skipped step is one at which an epoch ends.
@pytest.mark.parametrize("model, replicas, epochs, bad", quick([
    ("mlp", 1, 2, 8), ("cnn", 2, 3, 4), ("cnn", 1, 3, -1), ("mlp", 2, 1, -1)], 0))
def test_it_is_the_mean_at_the_ends_of_the_last_epochs(strategy, tmp_path, model, replicas, epochs, bad):
    whole, resumed = (build(strategy(replicas), model=model, image_size=8, average_last=epochs, **EPOCHS)
                      for _ in range(2))
    for experiment in (whole, resumed):
        experiment.steps = StepFunctions(
            experiment.strategy, experiment.state, experiment.steps.schedule, experiment.settings,
            fault=lambda grads, replica, step: [grads[0] / tf.cast(step + 1 != bad, grads[0].dtype), *grads[1:]])
    at_ends = []
    for step in range(12):
        run(whole, 1, start=step)
        if step + 1 in (4, 8, 12)[-epochs:]:
            at_ends.append(floats(whole))
        expected = np.mean(at_ends, axis=0) if at_ends else floats(whole)
        assert distance([expected], [np.concatenate([a.numpy().ravel() for a in whole.state.ema])]) < 1e-14, step
        if step + 1 == 7:
            saved = whole.state.checkpoint().write(str(tmp_path / "7"))
    resumed.state.checkpoint().read(saved).assert_consumed()
    run(resumed, 5, start=7)
    assert all(np.array_equal(a, b) for a, b in zip(whole.state.ema, resumed.state.ema, strict=True))
    with whole.evaluated_weights():
        averaged = weights(whole)
    assert (epochs == 1) == all(np.array_equal(a, b) for a, b in zip(averaged, weights(whole), strict=True))
    assert int(whole.state.skipped_steps.numpy()) == (bad > 0)


def floats(experiment):
    """Returns all float variables of the model as one array."""
    return np.concatenate([v.numpy().ravel() for v in named(experiment.state.model).values()])


@pytest.mark.acceptance  # In make test the one above, and tests/launch/test_moving_average.py with --ema_decay.
def test_a_killed_run_ends_with_the_same_average_which_is_evaluated(tmp_path):
    train = ("train", "--dataset=digits", "--model=mlp", "--batch_size=16", "--subset=4", "--steps=12", "--augment=",
             "--learning_rate=0.03", "--average_last=2", "--checkpoint_every=3", "--steps_per_loop=1",
             "--schedule=constant", "--tensorboard=scalars")
    succeed(*train, "--workdir=whole", cwd=tmp_path)
    kill_at_step(start(*train, "--workdir=killed", cwd=tmp_path), tmp_path / "killed", 9)
    succeed(*train, "--workdir=killed", "--replicas=1", cwd=tmp_path)
    whole, killed = (result(tmp_path / name) for name in ("whole", "killed"))
    assert whole["ema_weights_sha256"] == killed["ema_weights_sha256"] != whole["weights_sha256"]
    assert whole["test_loss"] == killed["test_loss"] == metrics(tmp_path / "whole", "evaluation")[-1]["loss"]
    assert whole["evaluated_weights"] == "moving average of the weights"
    longer = start(*train, "--workdir=whole", "--steps=16", cwd=tmp_path)
    assert longer.wait() == 2  # The length decides which epochs are the last.


@pytest.mark.parametrize("options, says", [
    (dict(ema_decay=0.9), "--ema_decay=0.9 and --average_last=2 are two averages of the weights: give one"),
    (dict(optimizer="schedule_free"), "--average_last=2: schedule_free keeps an average of the weights of its own"),
    (dict(early_stopping_patience=2), "which --early_stopping_patience=2 may not reach"),
    (dict(average_last=4), "--average_last=4: the run has 3 epochs; give at most as many, or a longer run"),
])
def test_what_contradicts_it_is_refused(strategy, options, says):
    with pytest.raises(UsageError) as error:
        build(strategy(1), **{**EPOCHS, "average_last": 2, **options})
    assert says in str(error.value)
