"""The cost model, against values calculated by hand."""
import pytest

from pipeline.benchmark.projection import (
    FARTHEST,
    GpuCluster,
    Link,
    bound_from,
    choose,
    hierarchical_ms,
    project,
    replica_counts,
    ring_ms,
)
from pipeline.errors import UsageError
from tests.benchmark.reports import cell, failed

# Inside 100 GB/s and 10 microseconds a message, between 10 GB/s and 100 microseconds: 100 MB take 1 ms and 10 ms.
FAST, SLOW = Link("fast", 100.0, 10.0, "made up"), Link("slow", 10.0, 100.0, "made up")
CLUSTER = GpuCluster("made up", 4, FAST, SLOW, reached=1.0)
STEP = {"rate": 6400.0, "batch_size": 64, "reduced_bytes": 100_000_000}  # 10 ms a step.
NONE = {"statistics_reductions": None}


@pytest.mark.parametrize("reduce, devices, milliseconds", [
    (ring_ms, 1, 0.0), (hierarchical_ms, 1, 0.0),
    (ring_ms, 2, 1.0 + 0.02),  # 2 * 1/2 of the bytes and 2 * 1 messages.
    (hierarchical_ms, 2, 1.02), (ring_ms, 4, 1.5 + 0.06), (hierarchical_ms, 4, 1.56),
    # Five on two machines: all of the ring is as slow as its slowest link, two of its eight messages go between them.
    (ring_ms, 5, 16.0 + 6 * 0.01 + 2 * 0.1), (hierarchical_ms, 5, 1.56 + 10.0 + 0.2),
    (ring_ms, 8, 17.5 + 12 * 0.01 + 2 * 0.1), (hierarchical_ms, 8, 1.56 + 10.0 + 0.2),
    # 256 machines of 4: 2 * 1023/1024 of the bytes, 1,536 messages inside and 510 between.
    (ring_ms, 1024, 19.98046875 + 15.36 + 51.0), (hierarchical_ms, 1024, 1.56 + 19.921875 + 51.0),
])
def test_reductions_take_the_time_of_their_formulas(reduce, devices, milliseconds):
    assert reduce(100e6, devices, CLUSTER) == pytest.approx(milliseconds, rel=1e-12)


def test_a_link_reaches_a_share_of_its_bandwidth_and_all_of_its_latency():
    half = GpuCluster("made up", 4, FAST, SLOW, reached=0.5)
    assert ring_ms(100e6, 4, half) == pytest.approx(3.0 + 0.06)
    assert hierarchical_ms(100e6, 8, half) == pytest.approx(3.06 + 20.0 + 0.2)
    assert ring_ms(100e6, 2, GpuCluster("fast between", 1, SLOW, FAST, reached=1.0)) == pytest.approx(10.0 + 0.02)


def test_efficiency_is_the_step_over_the_step_and_all_that_the_network_takes():
    projected = project(cell(**STEP, **NONE), 8, [CLUSTER], reached=1.0)
    reductions = projected["clusters"][0]["reductions"]
    points = reductions["hierarchical"]["points"]
    assert [point["replicas"] for point in points] == [1, 2, 4, 8]
    assert [point["machines"] for point in points] == [1, 1, 1, 2]
    assert projected["step_ms"] == pytest.approx(10.0) and projected["batch_a_replica"] == 64
    assert points[-1]["gradients_ms"] == pytest.approx(11.76) and points[-1]["statistics_ms"] == 0
    assert points[-1]["efficiency"] == pytest.approx(10 / 21.76)
    assert points[-1]["examples_per_second"] == pytest.approx(8 * 64 / 21.76e-3)
    assert points[0]["efficiency"] == 1.0
    assert reductions["ring"]["points"][-1]["efficiency"] == pytest.approx(10 / 27.82)
    step = reductions["ring"]["step_ms_for_90_percent"]
    assert step / (step + 17.82) == pytest.approx(0.9)


def test_reductions_of_batch_statistics_pay_their_messages_each():
    statistics = {"count": 20, "bytes": 2_000_000}  # 20 of 100 kB.
    projected = project(cell(**STEP, statistics_reductions=statistics), 4, [CLUSTER], reached=1.0)
    points = projected["clusters"][0]["reductions"]["ring"]["points"]
    # At 2 replicas 100 kB each, 0.001 ms; at 4 3/2 of them: 0.0015 ms; 2 and 6 messages of 0.01 ms.
    assert [point["statistics_ms"] for point in points] == pytest.approx([0, 20 * 0.021, 20 * 0.0615])
    assert points[1]["efficiency"] == pytest.approx(10 / (10 + 1.02 + 0.42))
    assert any("20 more reductions a step, of 2000 kB together" in line for line in projected["assumptions"])
    assert not any("more reductions" in line for line in project(cell(**STEP, **NONE), 4)["assumptions"])


@pytest.mark.parametrize("reduce, step_ms, first", [
    (ring_ms, 1.0, 2),  # 1.02 ms between two.
    (ring_ms, 1.5, 4), (ring_ms, 10.0, 5), (hierarchical_ms, 10.0, 5),
    # Ten machines: 1.56 + 18 + 1.8 ms; nine: 1.56 + 17.78 + 1.6 ms.
    (hierarchical_ms, 21.0, 37), (ring_ms, 1e9, None), (hierarchical_ms, 1e9, None),
])
def test_the_network_bounds_the_step_from_where_it_takes_longer(reduce, step_ms, first):
    facts = {"step_ms": step_ms, "reduced_bytes": 100e6, "statistics_reductions": None}
    assert bound_from(reduce, CLUSTER, facts) == first
    if first:
        assert reduce(100e6, first, CLUSTER) > step_ms >= reduce(100e6, first - 1, CLUSTER)
    else:
        assert reduce(100e6, FARTHEST, CLUSTER) < step_ms


def test_another_step_may_be_given():
    projected = project(cell(**STEP, **NONE), 8, [CLUSTER], reached=1.0, step_ms=1.5)
    found = projected["clusters"][0]["reductions"]["ring"]
    assert projected["step_ms"] == 1.5 and found["network_bound_from"] == 4
    assert found["points"][1]["efficiency"] == pytest.approx(1.5 / 2.52)
    assert any("was given (--project_step_ms)" in line for line in projected["assumptions"])


@pytest.mark.parametrize("several, words", [({"replicas": 2}, "2 replicas"), ({"workers": 2}, "2 workers")])
def test_the_reduction_of_several_replicas_is_subtracted(several, words):
    split = {"forward": 3.0, "backward": 4.0, "reduction": 2.0, "update": 0.5, "rest": 0.5}
    projected = project(cell(**STEP, **several, split_ms=split), 4, [CLUSTER])
    assert projected["step_ms"] == pytest.approx(8.0) and projected["batch_a_replica"] == 32
    assert any(f"measured with {words}; its own" in line for line in projected["assumptions"])


def test_every_assumption_is_listed():
    text = " ".join(project(cell(**STEP), 64)["assumptions"])
    for part in ("10 ms", "100 MB", "80%", "batch grows", "2(n-1)/n", "Nothing overlaps", "all-gather"):
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
    assert choose([failed(), cell(rate=2000.0, replicas=2), cell(rate=2000.0, workers=2), slow, emulated, fast]) is fast
    assert choose([failed(), cell(reduced_bytes=None)]) is None


@pytest.mark.parametrize("chosen, most, words", [(cell(), 1, "at least 2"), (failed(), 8, "no cell of this benchmark"),
                                                 (cell(reduced_bytes=None), 8, "no cell of this benchmark")])
def test_what_cannot_be_projected_is_refused(chosen, most, words):
    with pytest.raises(UsageError, match=words):
        project(chosen, most)
