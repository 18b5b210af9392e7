"""Lines about a run: a short run is not of 0 epochs, and every metric names its split."""
import math

import numpy as np
import pytest

from pipeline.config import ExperimentConfig
from pipeline.metrics.evaluation import evaluation
from pipeline.monitoring.alerts import AlertContext, Alerts
from pipeline.sweep.records import Trial
from pipeline.sweep.tables import epochs_text
from pipeline.training.cadence import plan
from pipeline.training.divergence import Divergence
from tests.monitoring.windows import evaluated


@pytest.mark.parametrize("steps, examples, text", [
    (3, 1_281_167, "0.00015"), (20, 60_000, "0.0213"), (938, 60_000, "1"), (1_000, 60_000, "1.07"),
    (10_000, 64, "10000"),
])
def test_a_short_run_is_not_shown_as_zero_epochs(steps, examples, text):
    assert plan(ExperimentConfig.from_flat({"steps": steps}), examples).epochs_text == text


@pytest.mark.parametrize("length, done, text", [
    (0.02, 0.0103, "0.01/0.02"), (0.02, 0.02, "0.02"), (0.5, 0.0004, "0.0004/0.5"), (4.0, 1.3, "1.3/4"),
    (4.0, 4.0, "4"),
])
def test_a_short_trial_is_not_shown_as_zero_epochs(length, done, text):
    trial = Trial(1, {}, "stopped", [{"step": 1, "epoch": done, "accuracy": 0.5, "loss": 1.0, "examples": 9}], 9, 1.0)
    trial.epochs = length
    assert epochs_text(trial) == text


@pytest.mark.parametrize("split", ["validation", "test"])
def test_warnings_name_the_split_of_their_figures(split):
    rows = np.zeros([40, 5], np.float32)
    rows[:, 0] = np.arange(40) % 4
    for loss, message in ((1e6, "loss"), (1.4, "accuracy")):
        lines = []
        alerts = Alerts(AlertContext("host", True, 100, 0, 10, 4, math.log(4)), lines.append)
        alerts.on_evaluation(evaluated(100, evaluation([loss * 40, 10, 40], rows, 4), split))
        assert lines and all(f"steps the {split} " in line for line in lines)
        assert any(f"the {split} {message}" in line for line in lines)


def test_a_divergence_is_of_the_training_loss():
    assert str(Divergence(4, 9, 4.66)) == "the training loss diverged in steps 4 to 9 (loss 4.66 in the last)"
