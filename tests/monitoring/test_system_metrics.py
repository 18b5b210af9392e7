"""System metrics and evaluations of a run: correct, and the same in TensorBoard as in metrics.jsonl."""
import json

import numpy as np
import pytest
import tensorflow as tf
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from pipeline.metrics.evaluation import evaluation
from pipeline.monitoring import known_rates
from pipeline.monitoring import system_metrics as room
from pipeline.monitoring.ceiling import QUICK_SECONDS
from pipeline.monitoring.goodput import GoodputTracker, summarize
from pipeline.monitoring.launches import Launches
from pipeline.monitoring.memory import DeviceMemory
from pipeline.monitoring.recorder import Recorder
from pipeline.run_directory import RunDirectory
from tests.commands import metrics, mirrorline, result
from tests.monitoring.windows import evaluated, window
from tests.selection import quick
from tests.training import small

CEILING = 1e6  # 1e9 operations/s: no machine is so fast, so that the share can be checked.
STEPS, BATCH, REPLICAS = 60, 32, 2
ALONE = {"loss", "accuracy", "top5_accuracy", "learning_rate"}
OF_LOSS_SCALE = {"optimization/loss_scale", "optimization/skipped_steps"}
IN_SECTIONS = {"optimization/gradient_norm", "optimization/weight_norm", "optimization/update_ratio",
               "speed/examples_per_second",
               "speed/examples_per_second_per_replica", "speed/ceiling_share", "speed/input_wait", "speed/goodput",
               "memory/host_memory_mib", "memory/host_memory_share", "memory/host_memory_full"}


@pytest.fixture(scope="module", params=quick(["mixed_float16", "float32"], 1))
def precision(request):
    """That of the run."""
    return request.param


@pytest.fixture(scope="module")
def workdir(tmp_path_factory, precision):
    """The directory of a real run on a machine whose ceiling is known."""
    folder = tmp_path_factory.mktemp("metrics")
    known_rates.write_rate(known_rates.machine_key(precision, "CPU"), str(folder / "cache"), CEILING)
    done = mirrorline("train", "--model=mlp", f"--steps={STEPS}", f"--batch_size={BATCH}", f"--replicas={REPLICAS}",
                      f"--precision={precision}", "--force", "--evaluate_every=20", "--tensorboard=scalars",
                      f"--cache_dir={folder / 'cache'}", "--workdir=run", "--augment=", "--warmup=0",
                      "--schedule=constant", cwd=folder)
    assert done.returncode == 0, done.stderr
    return folder / "run"


def _scalars(workdir, part):
    """Returns {tag: {step: value}} as TensorBoard reads them."""
    accumulator = EventAccumulator(str(workdir / "tensorboard" / part), size_guidance={"scalars": 0})
    accumulator.Reload()
    return {tag: {e.step: e.value for e in accumulator.Scalars(tag)} for tag in accumulator.Tags()["scalars"]}


def test_tensorboard_and_metrics_have_the_same_values_for_every_step(workdir, precision):
    records = metrics(workdir, "train")
    shown = _scalars(workdir, "train")
    assert set(shown) == ALONE | IN_SECTIONS | (OF_LOSS_SCALE if precision == "mixed_float16" else set())
    for tag, values in shown.items():
        name = tag.rpartition("/")[2]
        assert values == pytest.approx({r["step"]: r[name] for r in records if name in r}, rel=1e-6), tag
    every = list(range(1, STEPS + 1))
    assert all(list(shown[tag]) == every for tag in {"loss", "top5_accuracy"} | OF_LOSS_SCALE & set(shown))
    assert list(shown["optimization/weight_norm"]) == list(shown["optimization/update_ratio"]) == [20, 40, 60]
    assert all(r["accuracy"] <= r["top5_accuracy"] <= 1 for r in records) and records[0]["top5_accuracy"] > 0.2


def test_the_speed_of_a_window_is_that_of_its_steps(workdir):
    records = metrics(workdir, "train")
    steady = [r for r in records if "examples_per_second" in r]
    assert len(steady) >= 3 and steady[0]["step"] > 1  # The first window is traced.
    operations = 2 * (2 * 28 * 28 * 64 + 3 * 64 * 10)  # Of an example of mlp: forward and backward.
    for record in steady:
        rate = record["examples_per_second"]
        assert rate == pytest.approx(REPLICAS * record["examples_per_second_per_replica"])
        assert record.get("ceiling_share", 0) == pytest.approx(operations * rate / (CEILING * 1e9), abs=1e-12) or (
            record is steady[0])  # What a step costs is counted after the first steady window.
        assert 0 <= record["input_wait"] <= 1
        assert 100 < record["host_memory_mib"] < 20_000
        limit = record["host_memory_mib"] / record["host_memory_share"]
        assert limit == pytest.approx(steady[0]["host_memory_mib"] / steady[0]["host_memory_share"])
    assert "ceiling_share" in steady[-1] and result(workdir)["examples_per_second"] == pytest.approx(
        np.median([r["examples_per_second"] for r in steady]))


def test_running_goodput_becomes_that_of_the_result(workdir):
    found = [r["goodput"] for r in metrics(workdir, "train") if "goodput" in r]
    seconds = result(workdir)["goodput"]["seconds"]
    assert found[0] == 0 and 0 < found[-1] < 1  # Nothing is known of the first window, which is mostly compiling.
    # When the last window ends all steps are done, and the seconds of evaluating and saving are not all spent yet.
    assert found[-1] * sum(seconds.values()) >= 0.98 * seconds["steps"]


def test_evaluations_have_figures_for_each_class(workdir):
    shown = _scalars(workdir, "validation")
    records = metrics(workdir, "evaluation")
    assert [r["step"] for r in records] == [20, 40, 60]
    assert set(shown) == {"loss", "accuracy", "calibration_error", "top5_accuracy",
                          *(f"per_class_accuracy/{digit}" for digit in range(10))}
    for record in records:
        for tag in ("loss", "accuracy", "calibration_error", "top5_accuracy"):
            assert shown[tag][record["step"]] == pytest.approx(record[tag], rel=1e-6)
        assert list(record["per_class_accuracy"]) == [str(digit) for digit in range(10)]
        for name, share in record["per_class_accuracy"].items():
            assert shown[f"per_class_accuracy/{name}"][record["step"]] == pytest.approx(share, rel=1e-6)
        assert record["top5_accuracy"] > record["accuracy"] > 0.15 and 0 < record["calibration_error"] < 0.7
        # 36 examples of a class, about: their mean is the accuracy, nearly.
        assert np.mean(list(record["per_class_accuracy"].values())) == pytest.approx(record["accuracy"], abs=0.02)


def test_skipped_steps_add_up_and_go_back_with_a_rollback(tmp_path):
    recorder = Recorder(RunDirectory(str(tmp_path)), 10, scale_loss=True)
    recorder.on_window(window(4, 4, applied=[1, 0, 0, 1]))
    recorder.on_window(window(6, 2, applied=[0, 1]))
    recorder.cut_after(3)
    recorder.on_window(window(5, 2, applied=[1, 0]))
    recorder.close()
    again = Recorder(RunDirectory(str(tmp_path)), 10, scale_loss=True)
    again.cut_after(5)
    again.on_window(window(6))
    again.close()
    assert [r["skipped_steps"] for r in metrics(tmp_path, "train")] == [0, 1, 2, 2, 3, 3]
    assert _scalars(tmp_path, "train")["optimization/skipped_steps"] == {1: 0, 2: 1, 3: 2, 4: 2, 5: 3, 6: 3}


def test_many_classes_are_in_metrics_alone_and_absent_ones_nowhere(tmp_path):
    rows = np.array([[0, 0, 0.9, 0.1, 0], [2, 0, 0.8, 1.0, 1]], np.float32)
    for classes in (3, 60):
        folder = tmp_path / str(classes)
        recorder = Recorder(RunDirectory(str(folder)), 10, class_names=tuple(f"class/{i}" for i in range(classes)))
        recorder.on_evaluation(evaluated(5, evaluation([1.1, 1, 2], rows, classes)))
        recorder.close()
        stored = metrics(folder)[0]["per_class_accuracy"]
        assert len(stored) == classes and [stored["class/0"], stored["class/1"], stored["class/2"]] == [1, None, 0]
        shown = {tag for tag in _scalars(folder, "validation") if tag.startswith("per_class_accuracy/")}
        assert shown == ({"per_class_accuracy/class/0", "per_class_accuracy/class/2"} if classes == 3 else set())
        assert recorder.last_evaluation(5, "test")["calibration_error"] == pytest.approx(0.45)


class Steady:
    """A ceiling that is known."""

    def __init__(self, rate):
        self.gflops, self.measured = rate, []

    def rate(self, trained):
        """The rate."""
        return self.gflops

    def measure(self, trained):
        """Counts measurements."""
        self.measured.append(trained)


def _system_metrics(tmp_path, ceiling, operations):
    launches = Launches(str(tmp_path / "launches.jsonl"))
    launches.record("start", 0, age=0.0)
    return room.SystemMetrics(16, 1, ceiling, room.RunningGoodput(launches.path), GoodputTracker(launches, 0.0),
                              DeviceMemory([]), operations)


def _of(metrics, *arguments, **more):
    """Returns the metrics added to a window."""
    made = window(*arguments, **more)
    metrics.on_window(made)
    return made.system


def test_operations_are_counted_without_tracing_again_and_a_share_above_one_is_not_reported(tmp_path, strategy):
    experiment = small.build(strategy(1), precision="float32")
    iterator = experiment.train_iterator(0)
    experiment.steps.train_steps(iterator, tf.constant(1))
    ceiling = Steady(1.0)  # 1e9 operations/s.
    found = _system_metrics(tmp_path, ceiling, lambda: experiment.step_operations)
    assert "ceiling_share" not in _of(found, 1, 10)  # Not counted yet.
    experiment.count_operations(iterator)
    assert experiment.steps.train_steps.experimental_get_tracing_count() == 1
    each = 16 * 2 * (2 * 28 * 28 * 64 + 3 * 64 * 10)
    steady = _of(found, 11, 10, input_wait=0.025)
    assert steady["ceiling_share"] == pytest.approx(10 * each / 1e9) and steady["input_wait"] == pytest.approx(0.25)
    assert "ceiling_share" not in _of(found, 21, 10, 1e-3) and len(ceiling.measured) == 1
    assert not {"ceiling_share", "examples_per_second", "input_wait"} & set(_of(found, 31, 10, steady=False))


def test_a_ceiling_is_measured_once_it_costs_less_than_a_fiftieth(tmp_path, monkeypatch):
    measured = []
    monkeypatch.setattr(room, "quick_matrix_product_rate", lambda *_: measured.append(50.0) or measured[-1])
    ceiling = room.Ceiling("float32", "GPU", 4, str(tmp_path))
    monkeypatch.setattr(known_rates, "machine_key", lambda *_: {"precision": "float32"})
    assert ceiling.rate(49 * QUICK_SECONDS) is None and measured == []
    assert ceiling.rate(51 * QUICK_SECONDS) == 4 * 50 and ceiling.rate(1e9) == 200 and len(measured) == 1
    # The next run knows it from its first window on; where it was too low, it is measured once more.
    after = room.Ceiling("float32", "GPU", 1, str(tmp_path))
    assert after.rate(0.1) == 50 and len(measured) == 1
    monkeypatch.setattr(room, "quick_matrix_product_rate", lambda *_: measured.append(80.0) or measured[-1])
    after.measure(51 * QUICK_SECONDS)
    after.measure(1e9)
    assert after.rate(0.1) == 80 and len(measured) == 2
    assert known_rates.read_rate({"precision": "float32"}, str(tmp_path)) == 80


def test_running_goodput_is_that_of_the_tracker(tmp_path):
    path, clock = tmp_path / "launches.jsonl", [0.0]
    path.write_text("".join(json.dumps({"wall_time": 0.0, **r}) + "\n" for r in (
        {"event": "start", "step": 0}, {"event": "spent", "step": 10, "seconds": {"starting": 4.0, "steps": 6.0}},
        {"event": "start", "step": 10})))
    goodput = room.RunningGoodput(str(path), lambda: clock[0])
    assert summarize(str(path))["share"] == 0.6
    clock[0] = 5.0
    assert goodput.share(11, 1, 3.0, 0.0) == pytest.approx(6 / 15)  # What of it was compiling is not known yet.
    clock[0] = 10.0
    assert goodput.share(21, 10, 5.0, 1.0) == pytest.approx((6 + 0.5 + 4) / 20)
    clock[0] = 12.0
    assert goodput.share(25, 4, 2.0, 0.0) == pytest.approx((6 + 0.5 + 4 + 2) / 22)
    goodput.cut_after(21)
    clock[0] = 14.0
    assert goodput.share(25, 4, 1.0, 0.0) == pytest.approx((6 + 0.5 + 4 + 1) / 24)
