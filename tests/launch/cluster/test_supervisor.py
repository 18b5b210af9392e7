"""Several workers as processes: after any failure all are restarted with the same result, and none is left behind."""
import hashlib
import json
import os
import re
import signal
import time

import pytest

from tests.launch.cluster.supervised import Supervised, records
from tests.selection import quick

KILL, STOP = int(signal.SIGKILL), int(signal.SIGSTOP)


def undisturbed(steps):
    """What the stand-in computes in that many steps."""
    value = ""
    for step in range(steps):
        value = hashlib.sha256(f"{value}{step}".encode()).hexdigest()
    return value


@pytest.fixture(autouse=True, scope="module")
def nothing_left():
    """Kills the processes that a failed test has left."""
    yield
    Supervised.kill_all()


@pytest.fixture(scope="module")
def disturbed(tmp_path_factory):
    """A run of 35 steps with another failure in every attempt: more failures than restarts."""
    run = Supervised(tmp_path_factory.mktemp("disturbed"), steps=35, child=True, patience=1.0, limits={
        "max_restarts": 2, "grace_seconds": 0.3}, do=[
            [0, 1, 7, f"signal {KILL}"], [1, 0, 12, "exit 1"], [2, 1, 17, f"signal {STOP}"], [3, 1, 22, "deaf"],
            [3, 1, 22, "hang"], [4, 0, 27, "raise"], [5, 1, "start", "hang"]])
    return run, run.end()


def test_failures_change_no_result(disturbed):
    run, (code, _, _) = disturbed
    assert code == 0 and (run.workdir / "result.json").read_text() == undisturbed(35)
    assert [r["step"] for r in records(run.workdir / "metrics.jsonl")] == list(range(1, 36))


def test_each_attempt_is_recorded_with_its_first_failure(disturbed):
    run, (_, _, errors) = disturbed
    attempts = records(run.workdir / "attempts.jsonl")
    assert [a["attempt"] for a in attempts] == list(range(7)) and {a["workers"] for a in attempts} == {2}
    assert [a["step_at_start"] for a in attempts] == [0, 5, 10, 15, 20, 25, 25]
    assert [a["step_reached"] for a in attempts] == [7, 12, 17, 22, 27, 25, 35]
    assert [a["first_failing_rank"] for a in attempts] == [1, 0, 1, 1, 0, 1, None]
    assert [a["failure"] for a in attempts] == [
        "worker 1 was ended by SIGKILL", "worker 0 ended with exit code 1: this is the cause",
        "worker 1 was stopped (SIGSTOP)", "worker 1 does not answer worker 0",
        "worker 0 ended with exit code 1: ValueError: the image is truncated", "worker 1 does not answer worker 0",
        None]
    assert attempts[0]["exit_codes"] == [76, -KILL] and attempts[6]["exit_codes"] == [0, 0]
    assert attempts[2]["exit_codes"] == attempts[3]["exit_codes"] == [76, -KILL]  # It hears no SIGTERM.
    assert attempts[4]["last_lines"][0].startswith("Traceback")
    assert "worker 1 was ended by SIGKILL, after step 7: restarting all workers from step 5" in errors


def test_all_workers_are_restarted_after_each_failure(disturbed):
    attempts = records(disturbed[0].workdir / "attempts.jsonl")
    for attempt, after in zip(attempts, attempts[1:], strict=False):
        assert attempt["started"] < attempt["failed"] <= attempt["ended"] <= after["started"]
        assert attempt["first_step"] is None or attempt["started"] < attempt["first_step"] <= attempt["failed"]
        assert attempt["ended"] - attempt["failed"] < 5 and after["started"] - attempt["ended"] < 5


def test_every_attempt_has_new_ports_on_the_loopback_interface(disturbed):
    output = (disturbed[0].workdir / "workers" / "0.log").read_text()
    ports = [set(re.findall(r"'127\.0\.0\.1:(\d+)'", line)) for line in output.splitlines() if line.startswith("rank")]
    assert len(ports) == 7 and all(len(p) == 2 for p in ports)
    assert not any(one & other for one, other in zip(ports, ports[1:], strict=False))


def test_logs_ranks_and_lost_time_are_reported(disturbed):
    run, (_, out, _) = disturbed
    for rank in range(2):
        log = (run.workdir / "workers" / f"{rank}.log").read_text()
        assert re.findall(r"^--- attempt (\d), worker (\d)", log, re.M) == [(str(a), str(rank)) for a in range(7)]
    assert "mirrorline train: this is the cause" in (run.workdir / "workers" / "0.log").read_text()
    output = re.findall(r"^\[(\d)\] (rank \d|epoch)", out, re.M)
    assert ("1", "rank 1") in output and ("0", "epoch") in output and ("1", "epoch") not in output
    assert "mirrorline train: " not in out  # An echo is not shown as if it were a cause.
    seconds = [float(s) for s in re.findall(r"step \d+ is passed again after (\d+\.\d) s", out)]
    summary = re.search(r"launch  7 attempts, 6 failures, (\d+\.\d) s lost; .*attempts.jsonl", out)
    assert len(seconds) == 5 and abs(float(summary[1]) - sum(seconds)) < 0.5


def test_supervisor_imports_nothing_heavy(disturbed):
    assert json.loads((disturbed[0].workdir / "imported.json").read_text()) == []


def test_same_step_failing_twice_ends_the_run_with_its_cause(tmp_path):
    run = Supervised(tmp_path, do=[[attempt, 1, 7, "raise"] for attempt in range(4)])
    code, out, errors = run.end()
    assert code == 1 and len(records(tmp_path / "attempts.jsonl")) == 2
    last = [line for line in errors.splitlines() if "restarting all" not in line]
    assert last[0] == ("mirrorline launch: it failed twice after step 7: worker 1 ended with exit code 1: "
                       "ValueError: the image is truncated")
    assert last[1] == "[1] Traceback (most recent call last):" and "a peer" not in out + errors


def test_restarts_without_a_new_checkpoint_are_limited(tmp_path):
    do = [[0, 0, 7, "exit 1"], [1, 1, 9, "exit 1"], [2, 0, 6, "exit 1"], [3, 0, 8, "exit 1"]]
    code, _, errors = Supervised(tmp_path, limits={"max_restarts": 2}, do=do).end()
    assert code == 1 and len(records(tmp_path / "attempts.jsonl")) == 3
    assert "no checkpoint later than step 5 in 2 restarts (--max_restarts): worker 0 ended with exit code 1" in errors
    # Run again, it goes on: with a budget of its own, and numbers that are not given twice.
    code, _, _ = Supervised(tmp_path, limits={"max_restarts": 1}, do=do).end()
    assert code == 0 and (tmp_path / "result.json").read_text() == undisturbed(20)
    assert [a["attempt"] for a in records(tmp_path / "attempts.jsonl")] == [0, 1, 2, 3, 4]


def test_wrong_use_is_reported_in_one_line_and_not_restarted(tmp_path):
    code, out, errors = Supervised(tmp_path, limits={"grace_seconds": 0.3}, do=[[0, 1, "start", "exit 2"]]).end()
    assert (code, errors) == (2, "mirrorline train: this is the cause\n")
    assert "1 attempt, 1 failure" in out and len(records(tmp_path / "attempts.jsonl")) == 1


@pytest.mark.parametrize("number", quick([signal.SIGTERM, signal.SIGINT], 0))
def test_stop_request_saves_at_one_step_and_the_run_continues_later(tmp_path, number):
    run = Supervised(tmp_path, steps=400)
    run.until_step(3)
    run.process.send_signal(number)
    code, _, errors = run.end()
    assert (code, errors) == (75, "") and records(tmp_path / "attempts.jsonl")[-1]["exit_codes"] == [75, 75]
    saved = records(tmp_path / "launches.jsonl")[-1]
    assert saved["event"] == "saved" and saved["step"] == records(tmp_path / "metrics.jsonl")[-1]["step"] < 400
    steps = saved["step"] + 2
    assert Supervised(tmp_path, steps=steps).end()[0] == 0
    assert (tmp_path / "result.json").read_text() == undisturbed(steps)


def test_stopping_one_worker_stops_all(tmp_path):
    run = Supervised(tmp_path, steps=400)
    os.kill(run.until_step(3)[1], signal.SIGTERM)
    assert run.end()[0] == 75 and records(tmp_path / "attempts.jsonl")[-1]["exit_codes"] == [75, 75]


def test_worker_that_does_not_save_in_time_is_killed(tmp_path):
    run = Supervised(tmp_path, steps=400, never_saves=True, limits={"stop_timeout": 0.5, "grace_seconds": 0.2})
    run.until_step(6)
    run.process.send_signal(signal.SIGTERM)
    code, _, errors = run.end()
    assert code == 75 and "worker 0 did not end within 0.5 s" in errors and "continue from step 5" in errors


def test_second_signal_kills_immediately(tmp_path):
    run = Supervised(tmp_path, steps=4000, child=True, limits={"grace_seconds": 3600},
                     do=[[0, rank, 2, "deaf"] for rank in range(2)])
    run.until_step(4)
    run.process.send_signal(signal.SIGINT)
    time.sleep(0.3)  # The first one is being waited for.
    assert run.process.poll() is None and len(run.pids()) == 6
    run.process.send_signal(signal.SIGTERM)
    code, _, _ = run.end()
    assert code == 128 + signal.SIGTERM and records(tmp_path / "attempts.jsonl")[0]["exit_codes"] == [-KILL, -KILL]


@pytest.mark.parametrize("stopped", [False, True])
def test_no_process_survives_a_killed_supervisor(tmp_path, stopped):
    run = Supervised(tmp_path, steps=4000, child=True)
    workers = run.until_step(2)
    assert len(run.pids()) == 6  # The supervisor, its guard, two workers with a child each.
    if stopped:
        os.kill(workers[1], signal.SIGSTOP)
    run.process.kill()
    run.process.wait()
    assert run.count_after() == 0
    run.process.communicate()


def test_kernel_ends_the_workers_without_supervisor_and_guard(tmp_path):
    # They hang: else they would end as nobody reads what they write.
    run = Supervised(tmp_path, do=[[0, rank, 2, "hang"] for rank in range(2)])
    workers = run.until_step(2)
    guard, = set(run.pids()) - {run.process.pid, *workers}
    os.kill(guard, signal.SIGKILL)
    run.process.kill()
    run.process.communicate()
    assert run.count_after() == 0


def test_fewer_workers_continue_and_all_are_tried_again(tmp_path):
    do = [[0, 1, "start", "exit 1"], [1, 1, "start", "exit 1"], [2, 0, 7, "exit 1"]]
    code, _, errors = Supervised(tmp_path, sizes=(1, 2), limits={"max_restarts": 1, "grace_seconds": 0.3}, do=do).end()
    attempts = records(tmp_path / "attempts.jsonl")
    assert code == 0 and [a["workers"] for a in attempts] == [2, 2, 1, 2]
    assert "restarting all workers from the beginning; with 1, since 2 cannot be started" in errors
    assert "restarting all workers from step 5; 2 workers again" in errors
    assert (tmp_path / "result.json").read_text() == undisturbed(20)


def test_single_worker_is_supervised_without_peers(tmp_path):
    run = Supervised(tmp_path, sizes=(1,), limits={"stopped_timeout": 0.3, "grace_seconds": 3600},
                     do=[[0, 0, 7, f"signal {STOP}"]])
    code, out, errors = run.end()
    assert code == 0 and "rank 0 of ['none:0']" in out and "worker 0 was stopped (SIGSTOP), after step 7" in errors
    attempt = records(tmp_path / "attempts.jsonl")[0]
    assert attempt["ended"] - attempt["failed"] < 600  # It cannot hear SIGTERM, so nobody waits an hour for it.


def test_directory_has_one_supervisor_at_a_time(tmp_path):
    run = Supervised(tmp_path, steps=4000)
    run.until_step(1)
    code, _, errors = Supervised(tmp_path).end()
    assert code == 2 and f"is being supervised by process {run.process.pid} on " in errors
    run.process.send_signal(signal.SIGTERM)
    assert run.end()[0] == 75


def test_engine_variables_of_the_supervisor_are_not_passed_to_workers(tmp_path, monkeypatch):
    monkeypatch.setenv("SLURM_STEP_NODELIST", "n[1-2]")
    monkeypatch.setenv("SLURM_PROCID", "0")
    from launch.cluster import adapters
    from launch.cluster.local_workers import LocalStart
    start = LocalStart(["true"], str(tmp_path), guard=None, gpus=("0", "1", "2", "3", "5"))
    start._ports = (4001, 4002)
    first, second = (start._environment(rank, 2, 3) for rank in range(2))
    assert adapters.from_environment(second).rank == 1 and second["MIRRORLINE_ATTEMPT"] == "3"
    assert [first["CUDA_VISIBLE_DEVICES"], second["CUDA_VISIBLE_DEVICES"]] == ["0,1", "2,3"]
    assert adapters.from_environment(start._environment(0, 1, 0)) is None
