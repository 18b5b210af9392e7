"""Goodput: every second of a run is booked once, and what a restart went back behind was lost."""
import json
import time

import pytest

from pipeline.monitoring import goodput as room
from pipeline.monitoring.goodput import GoodputTracker, lost_tail, process_age, summarize
from pipeline.monitoring.launches import Launches


def _launches(path, *records):
    path.write_text("".join(json.dumps({"wall_time": 0.0, **r}) + "\n" for r in records))
    return path


def _spent(step, **seconds):
    return {"event": "spent", "step": step, "seconds": seconds}


def test_an_undisturbed_run(tmp_path):
    path = _launches(tmp_path / "launches.jsonl", {"event": "start", "step": 0},
                     _spent(10, starting=4.0, compiling=2.0, steps=10.0), _spent(20, steps=10.0, saving=1.0, input=3.0))
    found = summarize(path)
    assert found["share"] == pytest.approx(20 / 30, abs=1e-4)
    assert found["seconds"] == {"steps": 20, "input": 3, "lost": 0, "compiling": 2, "saving": 1, "evaluating": 0,
                                "reporting": 0, "profiling": 0, "starting": 4, "other": 0}
    assert (found["launches"], found["steps_repeated"], found["rollbacks"]) == (1, 0, 0)


def test_steps_behind_the_checkpoint_that_a_restart_took_were_lost(tmp_path):
    path = _launches(
        tmp_path / "launches.jsonl", {"event": "start", "step": 0}, _spent(10, starting=4.0, steps=10.0),
        _spent(20, steps=9.0, evaluating=5.0),                                  # Its checkpoint was never finished.
        {"event": "lost", "step": 10, "to_step": 27, "seconds": 7.0},           # After the last note.
        {"event": "start", "step": 10}, _spent(30, starting=4.0, steps=20.0),
        {"event": "rollback", "step": 10}, _spent(30, steps=21.0))
    found = summarize(path)
    assert found["seconds"]["steps"] == 10 + 21 and found["seconds"]["lost"] == 9 + 7 + 20
    assert found["seconds"]["evaluating"] == 5 and found["seconds"]["starting"] == 8
    assert (found["launches"], found["steps_repeated"], found["rollbacks"]) == (2, 17 + 20, 1)


def test_the_tracker_books_every_second_once(tmp_path):
    launches = Launches(str(tmp_path / "launches.jsonl"))
    tracker = GoodputTracker(launches, age=5.0)
    tracker.window(1, 3.0, 0.0)
    tracker.window(4, 0.4, 0.1)
    tracker.commit(5)
    tracker.window(10, 1.0, 2.0)  # Cannot have waited longer than it lasted.
    tracker.commit(15)
    first, second = (json.loads(line) for line in (tmp_path / "launches.jsonl").read_text().splitlines())
    assert first["seconds"] == pytest.approx(
        {"starting": 5.0, "steps": 0.1 + 0.3, "compiling": 2.9, "input": 0.1, "other": 0.0}, abs=1e-6)
    assert second["seconds"]["steps"] == 0 and second["seconds"]["input"] == 1.0


def test_a_measurement_inside_of_another_is_booked_once(tmp_path, monkeypatch):
    now = [100.0]
    monkeypatch.setattr(room.time, "monotonic", lambda: now[0])
    tracker = GoodputTracker(Launches(str(tmp_path / "launches.jsonl")), age=0.0)
    with tracker.measure("evaluating"):
        now[0] += 5.0
        for _ in range(2):
            with tracker.measure("reporting"), tracker.measure("profiling"):
                now[0] += 1.0
        now[0] += 3.0
    with tracker.measure("saving"):
        now[0] += 4.0
    tracker.commit(1)
    spent = json.loads((tmp_path / "launches.jsonl").read_text())["seconds"]
    assert spent == {"starting": 0, "evaluating": 8, "reporting": 0, "profiling": 2, "saving": 4, "other": 0}


def test_what_was_computed_after_the_last_note_is_found(tmp_path):
    launches = _launches(tmp_path / "launches.jsonl", {"event": "start", "step": 0, "wall_time": 100.0},
                         {**_spent(10, steps=1.0), "wall_time": 110.0})
    metrics = tmp_path / "metrics.jsonl"
    metrics.write_text("".join(json.dumps({"kind": "train", "step": s, "wall_time": 100.0 + s}) + "\n"
                               for s in range(1, 18)) + '{"torn')
    assert lost_tail(launches, metrics) == (17, 7.0)
    assert lost_tail(tmp_path / "none.jsonl", metrics) == (0, 0.0)


def test_the_age_of_this_process_is_that_of_a_running_test():
    assert 0 < process_age() < 7200


def test_what_a_script_did_before_it_became_this_process_is_not_starting(monkeypatch):
    now = time.clock_gettime(time.CLOCK_BOOTTIME)
    monkeypatch.setattr(room.time, "clock_gettime", lambda clock: now + 1e5)  # A day: it waited for its data.
    monkeypatch.setattr(room, "BEGAN", time.monotonic() - 7)
    assert process_age() == pytest.approx(7 + room.INTERPRETER_SECONDS, abs=0.5)


def test_starts_that_were_killed_and_hangs_have_cost_their_time(tmp_path):
    path = _launches(tmp_path / "launches.jsonl", {"event": "start", "step": 0, "age": 3.0},
                     {"event": "start", "step": 0, "age": 4.0}, _spent(5, starting=4.0, steps=1.0),
                     {"event": "hang", "seconds": 60.0, "wall_time": 0.0}, {"event": "start", "step": 5, "age": 5.0},
                     _spent(9, starting=5.0, steps=1.0))
    found = summarize(path)
    assert found["seconds"]["starting"] == 3 + 4 + 5 and found["seconds"]["other"] == 60 and found["launches"] == 3
