"""Learning curves and cost."""
import pytest

from pipeline.evaluation import history


def test_learning_curves_are_means_of_ranges():
    records = [{"kind": "train", "step": i + 1, "loss": None if i == 3 else float(i), "accuracy": 0.5,
                "learning_rate": 0.1} for i in range(1000)]
    records += [{"kind": "evaluation", "step": s, "split": "test", "loss": 1.0 / s, "accuracy": s / 1000}
                for s in (500, 1000)]
    curves = history.learning_curves(records)
    train = curves["train"]
    assert {len(values) for values in train.values()} == {500}
    assert train["step"][:2] == [1.5, 3.5] and train["loss"][:3] == [0.5, 2.0, 4.5] and train["step"][-1] == 999.5
    assert curves["evaluation"] == {"test": {"step": [500, 1000], "loss": [0.002, 0.001], "accuracy": [0.5, 1.0]}}
    assert history.learning_curves([])["train"] == {"step": [], "loss": [], "accuracy": [], "learning_rate": []}


def test_a_range_without_a_number_is_none():
    assert history.learning_curves([{"kind": "train", "step": 1, "loss": None}])["train"]["loss"] == [None]


def test_cost_of_all_launches():
    goodput = {"seconds": {"steps": 3000.0, "lost": 600.0}}
    gpu = history.cost(goodput, 1000, {"kind": "GPU", "count": 4, "cores": 64}, flops_per_example=5.0)
    assert gpu == {"wall_seconds": 3600, "examples_seen": 1000, "training_flops": 15_000, "gpu_hours": 4}
    assert history.cost(goodput, 1000, {"kind": "CPU", "count": 1, "cores": 2})["core_hours"] == pytest.approx(2)
    assert history.cost(goodput, 1000) == {"wall_seconds": 3600, "examples_seen": 1000, "training_flops": None}
