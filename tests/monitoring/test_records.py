"""Records of a training: every step exactly once, also after a kill."""
import json
import math
import os
import shutil
import tracemalloc

import numpy as np
import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.compat.proto.summary_pb2 import Summary

from pipeline.evaluation.history import learning_curves
from pipeline.evaluation.selection import StoredRun
from pipeline.monitoring import events, metrics_log
from pipeline.monitoring.events import EventWriter, event_files, read_events
from pipeline.monitoring.framing import frames
from pipeline.monitoring.goodput import lost_tail
from pipeline.monitoring.metrics_log import JsonLines, read_records, table_lines
from pipeline.monitoring.recorder import Recorder
from pipeline.monitoring.scalar_events import scalar_events
from pipeline.run_directory import RunDirectory


def _scalars(directory, tag="loss"):
    accumulator = EventAccumulator(str(directory))
    accumulator.Reload()
    return [(e.step, round(e.value, 6)) for e in accumulator.Scalars(tag)]


def _write(directory, steps):
    writer = EventWriter(str(directory))
    for step in steps:
        writer.scalars(step, 1000.0 + step, {"loss": 1 / step})
    writer.flush(sync=True)
    return writer


def test_events_are_read_back_by_tensorboard(tmp_path):
    _write(tmp_path, range(1, 6)).close()
    assert _scalars(tmp_path) == [(s, round(1 / s, 6)) for s in range(1, 6)]


def test_a_long_window_is_framed_at_once(tmp_path, monkeypatch):
    framed = []
    monkeypatch.setattr(events, "frames", lambda records: framed.append(len(records)) or frames(records))
    writer = EventWriter(str(tmp_path))
    steps = np.arange(1, 501)
    writer.events(steps[:-1], scalar_events(steps[:-1], 1000.0 + steps[:-1], {"loss": 1 / steps[:-1]}))
    writer.scalars(500, 1500.0, {"loss": 1 / 500, "rate": 2.0})
    writer.close()
    assert framed == [1 + 499, 1]
    assert _scalars(tmp_path) == [(s, round(1 / s, 6)) for s in range(1, 501)] and _scalars(tmp_path, "rate") == [
        (500, 2.0)]
    assert [event.wall_time for event, _ in read_events(event_files(str(tmp_path))[0])][1:] == [
        1000.0 + step for step in range(1, 501)]


def test_events_of_many_steps_are_the_bytes_of_the_protocol_buffers():
    steps = np.array([0, 1, 127, 128, 129, 16383, 16384, 2**21 - 1, 2**21, 2**40])
    columns = {"loss": np.array([0, 1e-9, np.nan, np.inf, -np.inf, 1e300, -1, 2, 3, 4]), "x" * 140: np.arange(10.0)}
    for i, found in enumerate(scalar_events(steps, 1000.5 + steps, columns)):
        event = Event(step=int(steps[i]), wall_time=1000.5 + steps[i], summary=Summary(
            value=[Summary.Value(tag=tag, simple_value=values[i]) for tag, values in columns.items()]))
        assert found == event.SerializeToString(), steps[i]


def test_a_table_of_steps_is_the_lines_of_its_rows(tmp_path):
    columns = {"step": [3, 4, 5], "loss": [0.1, math.nan, 1e-17], "50% \"quoted\"": [1.0, math.inf, 3e300]}
    table, rows = JsonLines(str(tmp_path / "table.jsonl")), JsonLines(str(tmp_path / "rows.jsonl"))
    table.append_lines(columns["step"], table_lines({"kind": "train", "of": "100%"}, columns))
    table.flush()
    rows.append([{"kind": "train", "of": "100%", **{name: values[i] for name, values in columns.items()}}
                 for i in range(3)])
    assert (tmp_path / "table.jsonl").read_text() == (tmp_path / "rows.jsonl").read_text()
    table.cut_after(4)
    assert [r["loss"] for r in read_records(tmp_path / "table.jsonl")] == [0.1, None]


def test_a_cut_and_a_resume_leave_every_step_once(tmp_path):
    _write(tmp_path, range(1, 8)).close()
    again = EventWriter(str(tmp_path))
    again.cut_after(4)
    for step in range(5, 9):
        again.scalars(step, 2000.0 + step, {"loss": 1 / step})
    again.close()
    assert [s for s, _ in _scalars(tmp_path)] == list(range(1, 9))


def test_a_torn_event_file_loses_its_torn_record_alone(tmp_path):
    _write(tmp_path, range(1, 8)).close()
    path = event_files(str(tmp_path))[0]
    os.truncate(path, os.path.getsize(path) - 3)
    EventWriter(str(tmp_path)).cut_after(100)
    _write(tmp_path, [7, 8]).close()
    assert [s for s, _ in _scalars(tmp_path)] == list(range(1, 9))


@pytest.fixture(scope="module")
def long_run(tmp_path_factory):
    """metrics.jsonl of 10,000 steps, 2 MB, with a torn last line."""
    path = tmp_path_factory.mktemp("long") / "metrics.jsonl"
    with open(path, "w") as file:
        for step in range(1, 10_001):
            record = {"kind": "train", "step": step, "examples": step * 64, "wall_time": 1e9 + step, "loss": 1 / step,
                      "accuracy": 0.953125, "learning_rate": 0.0012345678901, "gradient_norm": 0.5123456789,
                      **({"examples_per_second": float(step)} if step % 100 == 0 else {})}
            file.write(json.dumps(record) + "\n")
        last = {"kind": "evaluation", "step": 10_000, "loss": None, "accuracy": None, "note": "x" * 200_000}
        file.write(json.dumps(last) + '\n{"kind": "tra')
    return path


def peak(function):
    """Returns (what a function returns, the most MiB that Python held for it at a time)."""
    tracemalloc.start()
    try:
        return function(), tracemalloc.get_traced_memory()[1] / 2**20
    finally:
        tracemalloc.stop()


def test_a_long_run_is_looked_at_from_its_end(long_run, tmp_path):
    launches = tmp_path / "launches.jsonl"
    launches.write_text(json.dumps({"event": "start", "step": 0, "wall_time": 1e9 + 9_000}) + "\n")
    tail, most = peak(lambda: lost_tail(launches, long_run))
    assert tail == (10_000, 1000.0) and most < 1
    path = tmp_path / "run" / "metrics.jsonl"
    path.parent.mkdir()
    shutil.copy(long_run, path)
    recorder, most = peak(lambda: Recorder(RunDirectory(str(path.parent)), 64))
    assert most < 1 and path.read_bytes().endswith(b'x"}\n')  # The torn line is cut off.
    parsed, parse = [], metrics_log.parse_line
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(metrics_log, "parse_line", lambda line: parsed.append(line) or parse(line))
        assert recorder.mean_loss(9_991) == sum(1 / step for step in range(9_991, 10_001)) / 10
    assert len(parsed) == 12  # Those ten, the evaluation, and the step before.
    assert recorder.speeds() == {"examples_per_second": 5_050}
    recorder.close()


def test_learning_curves_hold_numbers_and_not_records(long_run):
    run = StoredRun(RunDirectory(str(long_run.parent)), {}, None)
    curves, most = peak(lambda: learning_curves(run.records))
    assert most < 3 and len(curves["train"]["step"]) == 500 and curves["train"]["step"][-1] == 9_990.5
    assert curves["evaluation"][None]["step"] == [10_000]


def test_lines_are_the_same_from_both_ends(tmp_path):
    path = tmp_path / "log"
    for count in (0, 1, 2, 3000):
        text = "".join(json.dumps({"step": step, "text": "y" * (step % 97)}) + "\n" for step in range(count))
        path.write_text(text)
        assert [r["step"] for r in metrics_log.read_backwards(path)] == [*reversed(range(count))]
        path.write_text(text + '{"step": 1')
        assert [r["step"] for r in metrics_log.read_backwards(path)] == [*reversed(range(count))]
    assert list(metrics_log.read_backwards(tmp_path / "none")) == []


def test_a_torn_line_is_cut_off(tmp_path):
    path = tmp_path / "log"
    log = JsonLines(str(path))
    log.append([{"step": s, "loss": 1 / s} for s in range(1, 5)])
    log.close()
    with open(path, "a") as file:
        file.write('{"step": 5, "lo')
    again = JsonLines(str(path))
    again.cut_after(3)
    again.append([{"step": 4, "loss": float("nan")}])
    again.sync()
    assert [json.loads(line) for line in path.read_text().splitlines()] == [
        *({"step": s, "loss": 1 / s} for s in (1, 2, 3)), {"step": 4, "loss": None}]
    assert [r["step"] for r in read_records(str(path))] == [1, 2, 3, 4]
