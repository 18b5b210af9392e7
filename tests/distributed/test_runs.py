"""Several workers compute what one machine computes, stop together, and continue after a loss."""
import re
import signal
import time

import pytest

from tests.commands import assert_every_step_once, metrics, mirrorline, result
from tests.distributed.processes import ends, free_ports, start, start_workers, task

PEER_LOST = 76
COMMAND = ("train", "--dataset=digits", "--model=mlp", "--batch_size=96", "--evaluate_every=8",
           "--checkpoint_every=4", "--augment=flip,mixup", "--tensorboard=scalars", "--optimizer=sgd",
           "--learning_rate=0.01")

# What srun says to the second of two tasks.
STEP_OF_SLURM = {"SLURM_JOB_ID": "7", "SLURM_STEP_ID": "0", "SLURM_STEP_NODELIST": "n[1-2]", "SLURM_NTASKS": "2",
                 "SLURM_STEP_TASKS_PER_NODE": "1(x2)", "SLURM_PROCID": "1"}


def wait_for_step(workdir, step, processes, timeout=600):
    end = time.monotonic() + timeout
    while time.monotonic() < end and all(process.poll() is None for process in processes):
        if any(r["step"] >= step for r in metrics(workdir)):
            return
        time.sleep(0.02)
    raise AssertionError([process.communicate() for process in processes if process.poll() is not None])


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A run of one process with two replicas."""
    folder = tmp_path_factory.mktemp("one")
    done = mirrorline(*COMMAND, "--steps=16", "--replicas=2", "--workdir=run", cwd=folder)
    assert done.returncode == 0, done.stderr
    return folder / "run"


def test_two_workers_train_as_one_process_with_two_replicas(tmp_path):
    settings = (*COMMAND, "--augment=mixup", "--steps=4", "--evaluate_every=4", "--schedule=constant")
    done = mirrorline(*settings, "--replicas=2", "--workdir=one", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    found = ends(start_workers(2, *settings, "--workdir=two", cwd=tmp_path))
    assert [code for _, code in found] == [0, 0], found
    assert found[1][0][0] == ""  # The chief speaks for all.
    assert result(tmp_path / "two")["weights_sha256"] == result(tmp_path / "one")["weights_sha256"]
    for kind, bound in (("train", 0), ("evaluation", 1e-9)):
        one, two = ([r["loss"] for r in metrics(tmp_path / name, kind)] for name in ("one", "two"))
        assert two == pytest.approx(one, rel=bound)


@pytest.mark.acceptance
def test_lost_worker_changes_no_result(tmp_path, whole):
    workers = start_workers(2, *COMMAND, "--steps=16", "--steps_per_loop=1", "--workdir=run", cwd=tmp_path)
    wait_for_step(tmp_path / "run", 9, workers)  # The save at step 8 waited for that of step 4.
    workers[1].send_signal(signal.SIGKILL)
    (_, chief_code), (_, other_code) = found = ends(workers, timeout=600)
    assert (chief_code, other_code) == (PEER_LOST, -signal.SIGKILL), found
    assert re.fullmatch(r"mirrorline train: worker 0 lost (another worker \(.*\)|worker 1, whose process is gone); run "
                        r"the same command .*\n", found[0][0][1]), found[0][0][1]
    again = ends(start_workers(2, *COMMAND, "--steps=16", "--workdir=run", cwd=tmp_path))
    assert [code for _, code in again] == [0, 0], again
    assert "resume  from the checkpoint of step" in again[0][0][0]
    assert again[1][0][0] == ""  # The chief speaks for all.
    assert_every_step_once(tmp_path / "run", 16)
    assert result(tmp_path / "run")["weights_sha256"] == result(whole)["weights_sha256"]
    assert [r["loss"] for r in metrics(tmp_path / "run", "train")] == [r["loss"] for r in metrics(whole, "train")]
    for name in ("loss", "accuracy", "calibration_error"):
        one, two = ([r[name] for r in metrics(run, "evaluation")] for run in (whole, tmp_path / "run"))
        assert two == pytest.approx(one, rel=1e-9)
    assert sorted(p.name for p in (tmp_path / "run").glob("hang*")) == []


@pytest.mark.acceptance
def test_stopping_one_worker_stops_all_at_the_same_step(tmp_path):
    workers = start_workers(2, *COMMAND, "--augment=", "--steps=200000", "--steps_per_loop=2",
                            "--evaluate_every=100000", "--checkpoint_every=100000", "--workdir=run", cwd=tmp_path)
    wait_for_step(tmp_path / "run", 4, workers)
    workers[1].send_signal(signal.SIGTERM)
    found = ends(workers, timeout=600)
    assert [code for _, code in found] == [75, 75], found
    steps = [re.search(r"stopped at step (\d+) of 200000 and saved", text[1])[1] for text, _ in found]
    assert steps[0] == steps[1] == str(result(tmp_path / "run")["step"])


def test_missing_worker_is_named_at_the_deadline(tmp_path):
    ports = free_ports(2)
    found = ends([start(*COMMAND, "--steps=4", "--start_timeout=4", "--workdir=run", cwd=tmp_path,
                        more=task(ports, 0))], timeout=600)
    assert found[0][1] == PEER_LOST, found
    assert f"no answer from worker 1 at 127.0.0.1:{ports[1]}" in found[0][0][1]


def test_workers_with_different_flags_do_not_start(tmp_path):
    ports = free_ports(2)
    workers = [start(*COMMAND, f"--steps={4 + rank}", "--workdir=run", cwd=tmp_path, more=task(ports, rank))
               for rank in range(2)]
    found = ends(workers, timeout=600)
    assert [code for _, code in found] == [2, 2], found
    assert "worker 1 of 2 has other flags" in found[0][0][1] and "worker 1 of 2 has other flags" in found[1][0][1]
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("flags, words, variables", [
    (("--batch_size=33",), "does not divide by 2 replicas", STEP_OF_SLURM),
    (("--cross_device_reduction=tree",), "works on one machine only", {}),
    (("--histograms_every=10",), "works on one machine only", {}),
])
def test_unsupported_options_of_several_workers_are_refused_before_the_rendezvous(tmp_path, flags, words, variables):
    done = start(*COMMAND, *flags, "--workdir=run", cwd=tmp_path, more=variables or task(free_ports(2), 1))
    _, errors = done.communicate(timeout=600)
    assert done.returncode == 2 and words in errors and errors.count("\n") == 1, errors
    assert not (tmp_path / "run").exists()
