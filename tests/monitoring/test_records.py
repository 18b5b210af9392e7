"""What is written while a model trains: every step once, whatever happened to the process."""
import json
import os

from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from pipeline.monitoring.events import EventWriter, event_files
from pipeline.monitoring.metrics_log import JsonLines, read_records


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


def test_a_torn_line_is_cut_off(tmp_path):
    path = tmp_path / "metrics.jsonl"
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
