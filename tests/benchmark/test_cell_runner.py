"""Figures of a cell with several workers."""
from pipeline.benchmark.cell_runner import chief_and_slowest, results_file


def figures(rate):
    return {"examples_per_second": rate, "step_ms": {"p50": 1e3 / rate}, "input_wait_share": 0.0, "split_ms": {},
            "peak_memory_mib": {"host": rate}, "reduced_bytes": 8}


def test_figures_are_those_of_the_chief_and_of_the_slowest_worker():
    found = chief_and_slowest([figures(100.0), figures(99.0), figures(101.0)])
    slowest = found.pop("slowest_worker")
    assert found == figures(100.0)
    assert (slowest["rank"], slowest["step_ms"], slowest["peak_memory_mib"]) == (1, {"p50": 1e3 / 99}, {"host": 99.0})
    assert chief_and_slowest([figures(1.0), figures(2.0)])["slowest_worker"]["rank"] == 0
    assert chief_and_slowest([figures(1.0)]) == figures(1.0)
    assert chief_and_slowest([figures(1.0), None]) is chief_and_slowest([None]) is None


def test_each_worker_writes_a_file_of_its_own():
    assert [results_file({"results": "/x/results.json"}, rank) for rank in (0, 1)] == ["/x/results.json",
                                                                                      "/x/results-1.json"]
