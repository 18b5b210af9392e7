"""The cost model, against sums done by hand."""
import pytest

from pipeline.benchmark import projection
from pipeline.benchmark.projection import Cluster, Link, all_reduce_ms, choose, project, replica_counts, ring_ms
from pipeline.errors import UsageError
from tests.benchmark.reports import cell, failed

# 100 GB/s and 10 GB/s once the reached share is taken off; 10 and 100 microseconds a message.
FAST = Link("fast", 100.0 / projection.REACHED, 10.0, "made up")
SLOW = Link("slow", 10.0 / projection.REACHED, 100.0, "made up")
CLUSTER = Cluster("made up", 4, FAST, SLOW)
STEP = {"rate": 6400.0, "batch_size": 64, "reduced_bytes": 100_000_000}  # 10 ms a step.


@pytest.mark.parametrize("devices, milliseconds", [
    (1, 0.0),
    (2, 2 * (1 / 2 * 1.0 + 1 * 0.01)),  # 1 ms for all bytes at 100 GB/s.
    (4, 2 * (3 / 4 * 1.0 + 3 * 0.01)),
])
def test_a_ring_moves_its_share_of_the_bytes_and_pays_each_message(devices, milliseconds):
    assert ring_ms(100e6, devices, FAST) == pytest.approx(milliseconds)
    assert all_reduce_ms(100e6, devices, CLUSTER) == pytest.approx(milliseconds)


def test_between_machines_the_slow_link_is_paid_as_well():
    inside = 2 * (3 / 4 * 1.0 + 3 * 0.01)
    assert all_reduce_ms(100e6, 8, CLUSTER) == pytest.approx(inside + 2 * (1 / 2 * 10.0 + 0.1))
    assert all_reduce_ms(100e6, 16, CLUSTER) == pytest.approx(inside + 2 * (3 / 4 * 10.0 + 0.3))


def test_efficiency_with_and_without_overlap():
    split = {"forward": 3.0, "backward": 6.0, "reduction": 0.0, "update": 0.5, "rest": 0.5}
    projected = project(cell(**STEP, split_ms=split), 8, [CLUSTER])
    points = projected["clusters"][0]["points"]
    assert [point["replicas"] for point in points] == [1, 2, 4, 8]
    assert [point["machines"] for point in points] == [1, 1, 1, 2]
    assert projected["step_ms"] == pytest.approx(10.0)
    reduction = 1.56 + 10.2  # Inside a machine of four, then between two.
    assert points[-1]["reduction_ms"] == pytest.approx(reduction)
    assert points[-1]["efficiency_without_overlap"] == pytest.approx(10 / (10 + reduction))
    assert points[-1]["efficiency_with_overlap"] == pytest.approx(10 / (10 + reduction - 6))
    assert points[2]["efficiency_with_overlap"] == 1.0
    assert points[0]["efficiency_without_overlap"] == 1.0
    step = projected["clusters"][0]["step_ms_for_90_percent"]
    assert step / (step + reduction) == pytest.approx(0.9)


def test_small_reductions_of_the_forward_pass_never_hide():
    split = {"forward": 3.0, "backward": 60.0, "reduction": 0.0, "update": 0.5, "rest": 0.5}
    few = project(cell(**STEP, split_ms=split, small_reductions={"count": 20, "bytes": 20_000}), 2, [CLUSTER])
    inner = 20 * 2 * (1000 / 2 / 100e9 * 1e3 + 0.01)
    point = few["clusters"][0]["points"][-1]
    assert point["small_reductions_ms"] == pytest.approx(inner)
    assert point["efficiency_with_overlap"] == pytest.approx(10 / (10 + inner))
    assert any("20 small reductions" in line for line in few["assumptions"])


def test_without_a_split_there_is_no_upper_edge_and_the_page_is_told():
    projected = project(cell(**STEP, split_ms=None), 4, [CLUSTER])
    assert {p["efficiency_with_overlap"] for p in projected["clusters"][0]["points"]} == {None}
    assert any("No overlap" in line for line in projected["assumptions"])


def test_a_step_of_several_replicas_gives_its_own_reduction_back():
    split = {"forward": 3.0, "backward": 4.0, "reduction": 2.0, "update": 0.5, "rest": 0.5}
    projected = project(cell(**STEP, replicas=2, split_ms=split), 4, [CLUSTER])
    assert projected["step_ms"] == pytest.approx(8.0)
    assert any("measured with 2 replicas" in line for line in projected["assumptions"])


def test_every_assumption_stands_beside_the_figures():
    text = " ".join(project(cell(**STEP), 64)["assumptions"])
    for part in ("10 ms", "100 MB", "80%", "batch grows", "2(n-1)/n", "backward pass"):
        assert part in text
    for cluster in project(cell(**STEP), 64)["clusters"]:
        assert all(link["gigabytes_per_second"] > 0 and link["microseconds"] > 0 and link["source"]
                   for link in cluster["links"])


@pytest.mark.parametrize("most, counts", [(2, [1, 2]), (3, [1, 2, 3]), (64, [1, 2, 4, 8, 16, 32, 64]),
                                          (100, [1, 2, 4, 8, 16, 32, 64, 100])])
def test_replica_counts_double_up_to_the_most(most, counts):
    assert replica_counts(most) == counts


def test_the_fastest_cell_of_one_replica_is_projected():
    fast, slow = cell(rate=900.0), cell(rate=500.0)
    emulated = cell(precision="mixed_bfloat16", rate=950.0)
    assert choose([failed(), cell(rate=2000.0, replicas=2), slow, emulated, fast]) is fast
    assert choose([failed(), cell(reduced_bytes=None)]) is None


@pytest.mark.parametrize("chosen, most, words", [(cell(), 1, "at least 2"), (failed(), 8, "no cell of this benchmark"),
                                                 (cell(reduced_bytes=None), 8, "no cell of this benchmark")])
def test_what_cannot_be_projected_is_refused(chosen, most, words):
    with pytest.raises(UsageError, match=words):
        project(chosen, most)
