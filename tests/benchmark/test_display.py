"""What a person sees while a benchmark runs."""
import re

from pipeline.benchmark import display
from tests.benchmark.reports import cell


def test_the_line_of_a_cell_has_a_step_that_fits_its_speed():
    measured = cell(batch_size=32, rate=800.0)
    measured["step_ms"] = {"p50": 55.0, "p90": 60.0, "p99": 70.0}  # Of calls of one step, which cost more.
    assert re.search(r"800 .*examples/s, 40\.0 ms a step,", display.line(measured))


def test_the_time_left_counts_down_and_is_gone_after_the_last_cell(monkeypatch):
    now = [100.0]
    monkeypatch.setattr(display.time, "monotonic", lambda: now[0])
    live = display.LiveDisplay()
    try:
        def shown():
            task = live._bar.tasks[0]
            return task.description, task.completed

        live.begin(1, 2, {}, None)
        assert shown() == ("cell 1/2", 0)
        live.end(1, 2, cell(), 21.0, False)
        live.begin(2, 2, {}, 21.0)
        assert shown() == ("cell 2/2, 00:21 left", 1)
        now[0] += 5
        live.phase("throughput")
        assert shown() == ("cell 2/2, 00:16 left", 1)
        now[0] += 60
        live.phase("throughput")
        assert shown() == ("cell 2/2", 1)
        live.end(2, 2, cell(), 0.0, False)
        live.phase("checking data and machine")
        assert shown() == ("2 cells measured", 2)
    finally:
        live.close()
