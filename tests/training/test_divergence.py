"""Divergence is detected at the same step for any windows, and the layer in which it began is named."""
import numpy as np
import pytest
import tensorflow as tf

from pipeline.config import TrainingConfig
from pipeline.training.divergence import DivergenceGuard, where_it_began
from pipeline.training.step import TRAIN_COLUMNS, StepFunctions
from tests.training.small import build, run

NAN = float("nan")


def _rows(losses, scale=1.0, applied=None):
    """Rows of the step for these losses; a step whose loss is not finite is not applied."""
    rows = np.zeros([len(losses), len(TRAIN_COLUMNS)])
    rows[:, TRAIN_COLUMNS.index("loss")] = losses
    rows[:, TRAIN_COLUMNS.index("loss_scale")] = scale
    rows[:, TRAIN_COLUMNS.index("applied")] = np.isfinite(losses) if applied is None else applied
    return rows


class _State:
    def __init__(self):
        self.diverged_steps = tf.Variable(0, dtype=tf.int64)


def _found(losses, window, again_at=None, **options):
    """Checks losses in windows, from step 1; in a new process, from the state alone, after `again_at` steps."""
    state = _State()
    guard = DivergenceGuard(TrainingConfig(**options), state)
    for start in range(0, len(losses), window):
        if again_at is not None and start >= again_at:
            guard, again_at = DivergenceGuard(TrainingConfig(**options), state), None
        rows = _rows(losses[start:start + window])
        found = guard.look(start + len(rows), TRAIN_COLUMNS, rows)
        if found:
            return found.first_step, found.last_step
    return None


@pytest.mark.parametrize("window", [1, 2, 5, 12])
def test_consecutive_diverged_steps_are_found_in_windows_of_any_length(window):
    losses = [1, 9, NAN, 1, 9, 9, NAN, 9, 1, 1, 1, 1]
    assert _found(losses, window, loss_limit=5.0, divergence_steps=4) == (5, 8)
    assert _found(losses, window, loss_limit=5.0, divergence_steps=5) is None
    assert _found(losses, window, divergence_steps=1) == (3, 3)  # Without a limit only what is not finite counts.
    assert _found(losses, window, divergence_steps=1, on_divergence="ignore") is None


def test_the_count_continues_over_a_restart():
    assert _found([1, NAN, NAN, NAN, NAN], 1, again_at=3, divergence_steps=4) == (2, 5)


def test_infinite_gradients_count_only_if_no_loss_scale_can_be_lowered():
    for scale, expected in ((1024.0, False), (1.0, True)):
        guard = DivergenceGuard(TrainingConfig(divergence_steps=2), _State())
        rows = _rows([1.0, 1.0], scale, applied=[0, 0])
        assert bool(guard.look(2, TRAIN_COLUMNS, rows)) == expected
        assert guard.suspicious == expected


def test_the_first_layer_with_an_infinite_output_is_named(strategy):
    experiment = build(strategy(1), model="cnn", precision="float32", image_size=8)
    kernel = next(v for v in experiment.state.model.trainable_variables if v.path == "cnn/block2/convolution/kernel")
    kernel.assign(kernel + np.inf)
    # Not by the loss: oneDNN's kernel of a normalization and its ReLU makes 0 of what is no number.
    assert run(experiment, 1)[0, TRAIN_COLUMNS.index("applied")] == 0.0
    assert "layer cnn/block2/convolution, whose output is not finite" in where_it_began(experiment, 1)


def test_an_infinite_gradient_behind_finite_outputs_is_named(strategy):
    experiment = build(strategy(2), model="mlp", precision="float32")

    def fault(grads, replica, step):
        return [grads[0] + tf.where(replica == 1, np.inf, 0.0), *grads[1:]]

    experiment.steps = StepFunctions(experiment.strategy, experiment.state, experiment.steps.schedule,
                                     experiment.settings, fault)
    assert "the gradient of mlp/hidden/w, which is not finite" in where_it_began(experiment, 1)


def test_the_largest_output_is_named_for_a_large_finite_loss(strategy):
    experiment = build(strategy(1), model="mlp", precision="float32")
    kernel = experiment.state.model.trainable_variables[0]
    kernel.assign(kernel * 1e6)
    assert "the largest output is that of layer mlp/hidden" in where_it_began(experiment, 1)
