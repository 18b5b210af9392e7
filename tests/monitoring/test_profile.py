"""Profiles: every moment of a step is counted once, and no failure ends a run."""
import pathlib

import pytest
import tensorflow as tf
from tensorflow.tsl.profiler.protobuf.xplane_pb2 import XSpace

from pipeline.callbacks import Restored
from pipeline.config import ExperimentConfig
from pipeline.errors import UsageError
from pipeline.monitoring.goodput import GoodputTracker
from pipeline.monitoring.launches import Launches
from pipeline.monitoring.operations_table import OperationsTable, render, shortened
from pipeline.monitoring.profile import MARKER, Profile, create_profile
from pipeline.monitoring.trace_operations import in_model, operations
from pipeline.run_directory import RunDirectory
from pipeline.training.cadence import plan
from tests.monitoring.windows import evaluated, window
from tests.small_disk import small_disk

MS = 10**9  # ps


def trace(planes):
    """Makes an XSpace of {plane: {line: [(name, begin ms, end ms, {statistic: str})]}}."""
    space = XSpace()
    for plane_name, lines in planes.items():
        plane = space.planes.add(name=plane_name)
        for line_name, events in lines.items():
            line = plane.lines.add(name=line_name, timestamp_ns=500)
            for name, begin, end, *statistics in events:
                number = len(plane.event_metadata) + 1
                plane.event_metadata[number].name = name
                plane.event_metadata[number].display_name = name.split(":")[-1] if ":" in name else ""
                event = line.events.add(metadata_id=number, offset_ps=begin * MS, duration_ps=(end - begin) * MS)
                for key, value in (statistics[0] if statistics else {}).items():
                    at = len(plane.stat_metadata) + 1
                    plane.stat_metadata[at].name, plane.stat_metadata[at + 1].name = key, value
                    event.stats.add(metadata_id=at, ref_value=at + 1)
    return space


def summarize(space, steps=1, waited=0.0):
    table = OperationsTable()
    table.add(operations(space, MARKER))
    found = table.summary(steps, waited)
    return found, {row["operation"]: row for row in found["operations"]}


def test_on_a_cpu_threads_share_a_moment_and_what_is_contained_counts_once():
    calls = "ExecutorState::ProcessAsync::Start"
    found, rows = summarize(trace({"/host:CPU": {
        "python": [(MARKER, 0, 10), (MARKER, 15, 25)],
        "tf_Compute/1": [
            ("while/body/_1/while/block1/conv/Conv2D:_MklNativeConv2D", 0, 4), ("ThreadpoolListener::Record", 0, 9),
            ("call:Call", 4, 8), ("inner/Relu:Relu", 5, 7),
            ("block1/conv/Conv2D:_MklNativeConv2D", 12, 17)],  # From 12 to 15 no step runs.
        "tf_Compute/2": [("gradient_tape/dense/MatMul:MatMul", 2, 6),
                         (calls, 17, 18, {"kernel_type": "CollectiveReduceV2", "name": "sum"}),
                         (calls, 18, 24, {"kernel_type": "PartitionedCall", "name": "call"})],
        "tf_data_private/3": [("decode:Decode", 19, 20)],
    }}), steps=2, waited=0.005)
    assert found["devices"] == ["CPU"] and found["ms_per_step"] == pytest.approx(10)
    assert {kind: row["ms_per_step"] for kind, row in rows.items()} == pytest.approx(
        {"Conv2D": 3, "MatMul": 2, "Call": 1, "Relu": 1, "CollectiveReduceV2": 0.5, "input pipeline": 0.5})
    # MatMul has half of 2 to 6, shared with Conv2D until 4, Call until 5 and Relu until 6.
    assert {kind: 20 * row["step_share"] for kind, row in rows.items()} == pytest.approx(
        {"Conv2D": 5, "MatMul": 2, "Call": 1.5, "Relu": 1.5, "CollectiveReduceV2": 1, "input pipeline": 1})
    assert 20 * found["idle_share"] == pytest.approx(8) and found["input_wait_share"] == pytest.approx(0.25)
    assert (rows["Conv2D"]["example"], rows["MatMul"]["example"]) == ("block1/conv", "dense")
    assert rows["Conv2D"]["calls_per_step"] == 1 and found["operations"][0]["operation"] == "Conv2D"
    assert sum(row["operations_share"] for row in rows.values()) == pytest.approx(1)


def test_unrecorded_operations_of_xla_have_the_time_that_no_other_has():
    found, rows = summarize(trace({"/host:CPU": {
        "python": [(MARKER, 0, 10)],
        "tf_Compute/1": [("CpuExecutable::ExecuteAsyncOnStream", 1, 9),
                         ("convolution.12", 2, 3, {"hlo_op": "convolution.12"})],
        "tf_numa/2": [("fusion.3", 5, 7, {"hlo_op": "fusion.3"})]}}))
    assert {kind: row["step_share"] for kind, row in rows.items()} == pytest.approx(
        {"XLA in parallel": 0.5, "XLA convolution": 0.1, "XLA fusion": 0.2})
    assert found["idle_share"] == pytest.approx(0.2)


def test_on_gpus_kernels_count_under_their_operation_as_a_mean_over_the_gpus():
    kernel = {"tf_op": "while/body/_1/while/block1/conv/Conv2D:Conv2D"}
    found, rows = summarize(trace({
        "/host:CPU": {"python": [(MARKER, 0, 10)], "tf_Compute/1": [("block1/conv/Conv2D:Conv2D", 0, 10)]},
        "/device:GPU:0": {"Stream #7(Compute)": [("cudnn::kernel<float>(int)", 0, 4, kernel)],
                          "Stream #8(MemcpyH2D)": [("MemcpyH2D", 2, 6)],
                          "TensorFlow Ops": [("Conv2D", 0, 10)]},  # Derived from the streams.
        "/device:GPU:1": {"Stream #7(Compute)": [("loop_fusion", 0, 2, {"hlo_op": "loop_fusion.4"})]}}))
    assert found["devices"] == ["GPU:0", "GPU:1"] and found["ms_per_step"] == pytest.approx(10)
    assert {kind: row["step_share"] for kind, row in rows.items()} == pytest.approx(
        {"Conv2D": 0.15, "MemcpyH2D": 0.15, "XLA loop_fusion": 0.1})
    assert found["idle_share"] == pytest.approx((0.4 + 0.8) / 2) and rows["Conv2D"]["example"] == "block1/conv"
    assert "where n streams work at once" in render(found, "profile")


def test_the_table_has_the_ten_most_expensive_and_the_sum_of_the_rest():
    events = [(f"layer{i}/Kind{i}:Kind{i}", i * (i - 1) // 2, i * (i + 1) // 2) for i in range(1, 13)]
    found, _ = summarize(trace({"/host:CPU": {"python": [(MARKER, 0, 100)], "tf_Compute/1": events}}))
    lines = render(found, "profile of steps 1 to 1").splitlines()
    assert lines[0].startswith("profile of steps 1 to 1: 100.00 ms a step on CPU")
    assert lines[2].split() == ["12.0%", "15.4%", "12.000", "1.0", "Kind12", "layer12"]
    assert lines[11].split()[4] == "Kind3"
    assert lines[12].split() == ["3.0%", "3.8%", "3.000", "2.0", "2", "other", "kinds"]
    assert lines[13].split() == ["22.0%", "idle"] and max(map(len, lines)) <= 115


@pytest.mark.parametrize("name, kind, shown", [
    ("while/body/_1/while/block2_1/norm_1/add", "AddV2", "block2_1/norm_1/add"),
    ("while/body/_7/gradient_tape/replica_1/while/conv/MatMul_1", "MatMul", "conv"), ("MatMul", "MatMul", "MatMul")])
def test_names_are_those_of_the_model(name, kind, shown):
    assert in_model(name, kind) == shown


def test_a_long_name_keeps_its_layer():
    assert shortened("inception1/conv_3x3/convolution", 24) == "inception1/conv_3x3/..."
    assert shortened("A" * 30, 10) == "A" * 7 + "..." and shortened("a/b", 10) == "a/b"


def test_windows_of_steps_end_where_the_profile_begins_and_ends():
    options = dict(steps=30, evaluate_every="12", checkpoint_every="12", profile="5:15")
    p = plan(ExperimentConfig.from_flat(options), 1000)
    assert [p.steps_to_boundary(step) for step in (0, 5, 12, 15)] == [5, 7, 3, 9]


@pytest.mark.parametrize("text", ["5", "5:5", "12:5", "0:1001", "a:b", "1.5:3", "-1:4", "", "1:2:3", "\u0661:\u0663"])
def test_an_invalid_range_is_refused(text):
    with pytest.raises(UsageError, match="--profile=.*from:to.*e.g. --profile=100:120"):
        ExperimentConfig.from_flat({"profile": text})


@pytest.fixture
def looker(tmp_path):
    """Returns look(folder, (first, last)): a Profile, and the lists of what it shows and warns of."""
    def look(folder, steps, evaluated_at=()):
        shown, warned = [], []
        tracker = GoodputTracker(Launches(str(tmp_path / "launches.jsonl")), 0.0)
        return Profile(steps, RunDirectory(str(folder)), tracker, shown.append, warned.append, lambda text: None,
                       evaluated_at.__contains__), (shown, warned)
    return look


multiply = tf.function(tf.linalg.matmul)


def work(profile, step, until):
    """Does what a call of the steps from `step` to `until` does."""
    with tf.profiler.experimental.Trace(MARKER, step_num=step, _r=1):
        multiply(tf.ones([300, 300]), tf.ones([300, 300])).numpy()
    profile.on_window(window(until, until - step))


def traces(folder):
    return {p.name for p in (folder / "tensorboard/train/plugins/profile").glob("*")}


def test_a_rollback_into_the_range_restarts_the_profile(looker, tmp_path):
    profile, (shown, warned) = looker(tmp_path, (2, 6))
    profile.on_start(Restored(0))
    for step, until in ((0, 2), (2, 4)):
        work(profile, step, until)
    assert profile._running
    profile.on_rollback(Restored(0))
    for step, until in ((0, 2), (2, 3), (3, 6), (6, 8)):
        work(profile, step, until)
    assert not profile._running and warned == [] and len(shown) == 1
    assert shown[0].startswith("profile of steps 3 to 6: ") and "  MatMul  " in shown[0]
    assert traces(tmp_path) == {"steps_3_to_4", "steps_3_to_6"}
    assert not (tmp_path / "profile.tmp").exists()


def test_an_evaluation_inside_the_range_is_not_profiled(looker, tmp_path):
    profile, (shown, warned) = looker(tmp_path, (0, 4), evaluated_at=(0, 2))
    profile.on_start(Restored(0))
    assert not profile._running  # A run that was stopped before this evaluation makes up for it first.
    profile.on_evaluation(evaluated(0, None))
    work(profile, 0, 2)
    assert not profile._running and shown == []
    profile.on_evaluation(evaluated(2, None))
    work(profile, 2, 4)
    assert traces(tmp_path) == {"steps_1_to_2", "steps_3_to_4"} and warned == []
    assert len(shown) == 1 and shown[0].startswith("profile of steps 1 to 4: ")


@pytest.mark.parametrize("end", [lambda profile: profile.close(), lambda profile: profile.on_rollback(Restored(0))])
def test_a_trace_without_a_step_is_not_kept(looker, tmp_path, end):
    profile, (shown, warned) = looker(tmp_path, (2, 4))
    profile.on_start(Restored(0))
    work(profile, 0, 2)
    assert profile._running
    end(profile)
    assert not profile._running and traces(tmp_path) == set() and shown == warned == []
    assert not (tmp_path / "profile.tmp").exists()


def test_on_a_full_disk_the_run_continues_without_a_profile(looker, tmp_path):
    with small_disk(tmp_path / "disk", 1) as disk:
        profile, (shown, warned) = looker(disk.folder, (0, 2))
        disk.least = 0  # A trace of three small steps fits into little.
        disk.fill()
        profile.on_start(Restored(0))
        work(profile, 0, 1)
        work(profile, 1, 2)
        work(profile, 2, 3)
        assert len(warned) == 1 and "--profile=0:2: the profile could not be written" in warned[0] and not shown
        assert not profile._running and not (pathlib.Path(disk.folder) / "profile.tmp").exists()


@pytest.mark.parametrize("step, profiled, message", [
    (0, "40:50", "ends at step 40"), (30, "20:30", "continues from step 30"), (40, "30:60", "continues from step 40"),
    (10, "5:15", None), (0, "30:60", None), (0, None, None)])
def test_a_range_that_is_never_reached_is_reported(step, profiled, message):
    p, lines = plan(ExperimentConfig.from_flat(dict(steps=40, profile=profiled)), 1000), []
    made = create_profile(p, step, None, None, None, lines.append, None)
    assert (made is None) == (message is not None or profiled is None)
    assert len(lines) == (message is not None) and (message is None or message in lines[0])
