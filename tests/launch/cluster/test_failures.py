"""The first failure, and the progress of a run."""
import json

import pytest

from launch.cluster import failures
from launch.cluster.run_records import AttemptProgress, LostTime, RunRecords
from launch.cluster.supervisor import Budget, Sizes


class Seen:
    """A worker with rank, exit code, time of its end, and whether it is stopped."""

    def __init__(self, rank, code=None, ended=None, is_stopped=False):
        self.rank, self.code, self.ended, self.stopped = rank, code, ended, lambda: is_stopped


@pytest.mark.parametrize("workers, rank, what, certain", [
    ([Seen(0, 76, 1.0), Seen(1, 1, 2.0), Seen(2)], 1, "ended with exit code 1", True),  # Its end was seen later.
    ([Seen(0, 1, 2.0), Seen(1, -9, 1.0)], 1, "was ended by SIGKILL", True),
    ([Seen(0, 76, 1.0), Seen(1, is_stopped=True), Seen(2)], 1, "was stopped (SIGSTOP)", True),
    ([Seen(0, 76, 1.0), Seen(1, 76, 1.1), Seen(2)], 2, "does not answer worker 0", False),
    ([Seen(0, 76, 1.2), Seen(1, 76, 1.1)], 1, "lost a peer (exit code 76)", True),
    ([Seen(0, 0, 1.0), Seen(1, 137, 2.0)], 1, "ended with exit code 137", True),
    ([Seen(0, -64, 1.0), Seen(1)], 0, "was ended by SIGRTMAX", True),
])
def test_cause_is_distinguished_from_lost_peers(workers, rank, what, certain):
    found = failures.find(workers, {})
    assert (found.rank, found.what, found.certain) == (rank, what, certain)


def test_no_failure():
    assert failures.find([Seen(0, 0, 1.0), Seen(1, 75, 1.0), Seen(2), Seen(3, is_stopped=True)], {}) is None


def test_most_informative_line():
    def error(code, *lines):
        return failures.describe(0, "ended", code, {0: lines}).error

    assert error(1, "step 7", "mirrorline train: no room", "a library's last word") == "no room"
    assert error(1, "Traceback (most recent call last):", "  File", "ValueError: torn", "") == "ValueError: torn"
    assert error(1, "ValueError: torn", "", "\t [[{{node while/PyFunc}}]] [Op:__inference_1]") == "ValueError: torn"
    assert error(-9, "step 7") == error(1) == error(None, "step 7") == ""
    kept = failures.last_lines([*map(str, range(100)), "", "Traceback (most recent call last):", "", "KeyError: 1"])
    assert kept == ["Traceback (most recent call last):", "KeyError: 1"]
    assert failures.last_lines(map(str, range(100))) == [str(n) for n in range(85, 100)]


def write(path, *records):
    path.write_text("".join(json.dumps(r) + "\n" for r in records) + '{"torn')


def test_progress_of_the_current_attempt(tmp_path):
    def event(name, step, when):
        return {"event": name, "step": step, "wall_time": when}

    def step(number, when):
        return {"kind": "train", "step": number, "wall_time": when}

    before = [event("start", 0, 1.0), event("saved", 0, 1.1), event("saved", 5, 2.0)]
    write(tmp_path / "launches.jsonl", *before)
    write(tmp_path / "metrics.jsonl", step(6, 2.5), step(7, 2.6))
    progress = AttemptProgress(RunRecords(str(tmp_path)))
    progress.update(now=True)
    assert (progress.begun, progress.start, progress.step, progress.first_step) == (None, 5, 5, None)
    write(tmp_path / "launches.jsonl", *before, event("start", 5, 3.0))
    progress.update(now=True)  # Steps of the attempt before are not cut yet.
    assert (progress.begun, progress.step, progress.first_step) == (3.0, 5, None)
    write(tmp_path / "metrics.jsonl", step(6, 3.5), step(7, 3.6), {"kind": "evaluation", "step": 7, "wall_time": 4.0})
    progress.update(now=True)
    assert (progress.step, progress.step_at, progress.first_step) == (7, 3.6, 3.5)


def test_unrecorded_checkpoint_counts(tmp_path):
    assert RunRecords(str(tmp_path)).saved_step() == 0
    write(tmp_path / "launches.jsonl", {"event": "saved", "step": 60, "wall_time": 1.0})
    assert RunRecords(str(tmp_path)).saved_step() == 60
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints" / "ckpt-80.manifest.json").write_text("{}")
    (tmp_path / "checkpoints" / "ckpt-100.index").write_text("")  # Not whole: its manifest comes last.
    assert RunRecords(str(tmp_path)).saved_step() == 80


def test_time_is_lost_until_a_new_step():
    lost = LostTime()
    assert lost.reached(3, 1.0) is None
    lost.failed(7, 10.0)
    lost.failed(6, 13.0)  # The next attempt failed before it had made up for the first.
    assert lost.waiting_for == 7 and lost.reached(7, 14.0) is None
    assert lost.reached(8, 15.5) == lost.seconds == 5.5
    lost.failed(9, 20.0)
    lost.end(22.0)
    assert lost.seconds == 7.5


class Come:
    """The progress of an attempt; `begun`: whether its trainer started."""

    def __init__(self, step, begun=True):
        self.step, self.begun = step, 1.0 if begun else None


def test_only_checkpoints_renew_the_budget():
    budget = Budget(2, saved=0)
    assert [budget.refuse(Come(step), saved) for step, saved in ((3, 0), (4, 0), (12, 10), (13, 10))] == [None] * 4
    assert "later than step 10 in 2 restarts" in budget.refuse(Come(14), 10)


def test_same_step_failing_twice_ends_the_run_but_failed_starts_do_not():
    budget = Budget(3, saved=0)
    assert budget.refuse(Come(7), 5) is None and budget.refuse(Come(5, begun=False), 5) is None
    assert budget.refuse(Come(7), 5) == "it failed twice after step 7"
    budget = Budget(3, saved=0)
    assert [budget.refuse(Come(0, begun=False), 0) for _ in range(3)] == [None] * 3
    assert "in 3 restarts" in budget.refuse(Come(0, begun=False), 0)
    assert Budget(0, saved=0).refuse(Come(7), 5) is not None


def test_fewer_workers_are_free_once_until_progress():
    budget = Budget(1, saved=0)
    assert budget.refuse(Come(0, begun=False), 0) is None
    assert budget.refuse(Come(0, begun=False), 0, shrunk_from=4) is None
    assert budget.refuse(Come(0, begun=False), 0, shrunk_from=2) is None
    assert budget.refuse(Come(0, begun=False), 0, shrunk_from=4) is not None


def test_number_of_workers_shrinks_after_two_failed_starts_and_grows_after_a_step():
    sizes = Sizes([1, 2, 4])
    seen = []
    for stepped in (False, False, False, False, True, False, True, True):
        seen.append(sizes.now)
        sizes.failed(stepped)
    # At the second time one vain attempt of four is enough.
    assert seen == [4, 4, 2, 2, 1, 4, 2, 4] and sizes.now == 4
