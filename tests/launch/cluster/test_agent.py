"""The agent: the environment and signals of its trainer, and when it refuses another attempt."""
import json
import os
import pathlib
import signal
import subprocess
import sys
import time

import pytest

from launch.cluster import agent
from pipeline.distributed.cluster import Cluster
from tests.commands import environment
from tests.launch.cluster.supervised import records, wait_for

TRAINER = """
import json, os, pathlib, signal, sys, time
heard = []
for number in (signal.SIGTERM, signal.SIGINT):
    signal.signal(number, lambda number, _: heard.append(number))
print(json.dumps({name: os.environ.get(name) for name in ("TF_CONFIG", "MIRRORLINE_ATTEMPT", "TF_USE_LEGACY_KERAS",
                                                          "SLURM_STEP_NODELIST", "JOB_COMPLETION_INDEX")}), flush=True)
while not heard:
    time.sleep(0.01)
time.sleep(0.3)
print("heard", *[int(number) for number in heard], flush=True)
sys.exit(75)
"""
AGENT = "import sys; from launch.cluster import agent; sys.exit(agent.run(sys.argv[2:], sys.argv[1], 1, float('inf')))"
JOBSET = {"JOB_COMPLETION_INDEX": "1", "MIRRORLINE_JOBSET": "digits", "MIRRORLINE_JOB": "workers",
          "MIRRORLINE_SUBDOMAIN": "digits", "MIRRORLINE_WORKERS": "2"}
STEP = {"SLURM_JOB_ID": "7", "SLURM_STEP_ID": "0", "SLURM_STEP_NODELIST": "localhost", "SLURM_PROCID": "1",
        "SLURM_STEP_TASKS_PER_NODE": "2", "SLURM_STEP_NUM_TASKS": "2", "MIRRORLINE_ATTEMPT": "4"}
TF_CONFIG = {"TF_CONFIG": Cluster(("localhost:1", "localhost:2"), 1).tf_config, "TF_USE_LEGACY_KERAS": "1"}


def start(workdir, variables, *command):
    return subprocess.Popen([sys.executable, "-c", AGENT, str(workdir), *command], env={**environment(), **variables},
                            text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)


@pytest.mark.parametrize("variables, number, code, heard", [
    (STEP, signal.SIGUSR1, 0, signal.SIGINT), (STEP, signal.SIGTERM, 0, signal.SIGINT),
    (TF_CONFIG, signal.SIGTERM, 75, signal.SIGTERM),
])
def test_trainer_receives_one_request_of_several(tmp_path, variables, number, code, heard):
    process = start(tmp_path, variables, sys.executable, "-c", TRAINER)
    if "SLURM_STEP_ID" in variables:
        assert process.stdout.readline() == f"{agent.STEP}7.0\n"
    variables = json.loads(process.stdout.readline())
    assert json.loads(variables.pop("TF_CONFIG"))["task"] == {"type": "worker", "index": 1}
    attempt = variables.get("MIRRORLINE_ATTEMPT", "0")
    assert {name: value for name, value in variables.items() if value} == {"MIRRORLINE_ATTEMPT": attempt}
    log = (tmp_path / "workers/1.log").read_text().splitlines()
    assert log[0].startswith(f"--- attempt {attempt}, worker 1 of 2, process ")
    trainer = int(log[0].split("process ")[1].split(",")[0])
    if "SLURM_STEP_ID" in variables:
        os.kill(trainer, number)
    process.send_signal(number)
    process.send_signal(number)
    rest, _ = process.communicate(timeout=600)
    assert rest.splitlines() == [f"heard {int(heard)}", f"{agent.ENDED}75"] and process.returncode == code


def test_killed_trainer_and_its_children_end(tmp_path):
    process = start(tmp_path, {}, "sh", "-c", "sleep 1000 & echo $!; kill -9 $$")
    child, last = process.communicate(timeout=600)[0].splitlines()
    assert last == f"{agent.ENDED}-9" and process.returncode == 128 + 9
    wait_for(lambda: not pathlib.Path(f"/proc/{child}").exists() or "Z (" in pathlib.Path(
        f"/proc/{child}/status").read_text().replace("zombie", "("))


def test_unresolved_host_name_is_waited_for():
    class Asked:
        count = 0

    assert agent.wait_for_name("localhost", Asked) is None
    began = time.monotonic()
    assert "no-such-name.invalid, is not known" in agent.wait_for_name("no-such-name.invalid", Asked, 0.6)
    assert 0.5 < time.monotonic() - began < 20


class Run:
    """A run's directory as attempts leave it: each started, and came to a step."""

    def __init__(self, folder):
        self.folder, self.number = folder, 0

    def attempt(self, step=None, saved=None, most=2, number=None):
        """Begins an attempt, which comes to a step (None: it does not begin to train); returns why not."""
        why = agent.refuse(str(self.folder), self.number if number is None else number, most)
        self.number += 1
        if step is not None:
            self.note("launches.jsonl", {"event": "start", "step": 0})
            self.note("metrics.jsonl", {"kind": "train", "step": step, "wall_time": 0.0})
        if saved is not None:
            self.note("launches.jsonl", {"event": "saved", "step": saved})
        return why

    def note(self, name, record):
        with open(self.folder / name, "a") as file:
            file.write(json.dumps(record) + "\n")


@pytest.mark.parametrize("attempts, why", [
    ([(5, None), (7, None), (9, None), (11, None)], [None, None, None, "no checkpoint later than step 0 in 2"]),
    ([(5, None), (5, None), (5, None)], [None, None, "it failed twice after step 5"]),
    ([(15, 10), (25, 20), (35, 30), (45, 40), (55, 50)], [None] * 5),  # Each new checkpoint renews the restarts.
    ([(None, None), (None, None), (None, None), (None, None)], [None, None, None, "no checkpoint later than step 0"]),
    ([(12, 10), (14, None), (16, None), (18, None)], [None, None, None, "no checkpoint later than step 10"]),
])
def test_attempts_are_counted_as_by_the_supervisor(tmp_path, attempts, why):
    run = Run(tmp_path)
    found = [run.attempt(*attempt) for attempt in attempts]
    assert [bool(one) for one in found] == [bool(one) for one in why], found
    assert all(two in one for one, two in zip(found, why, strict=True) if two)
    assert len(records(tmp_path / "workers/attempts.jsonl")) == len(attempts)


def test_new_submission_resets_the_count(tmp_path):
    run = Run(tmp_path)
    assert [bool(run.attempt(5)) for _ in range(3)] == [False, False, True]
    assert run.attempt(5, number=0) is None and run.attempt(6, number=1) is None


def test_chief_of_a_jobset_gives_up_with_its_own_exit_code(tmp_path):
    run = Run(tmp_path)
    run.attempt(5), run.attempt(5)
    process = start(tmp_path, {**JOBSET, "JOB_COMPLETION_INDEX": "0", "MIRRORLINE_ATTEMPT": "2"}, "false")
    out, _ = process.communicate(timeout=600)
    assert process.returncode == agent.GIVEN_UP and out == "mirrorline launch: it failed twice after step 5\n"
