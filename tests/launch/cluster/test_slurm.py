"""The batch script, and attempts as steps of an allocation, with a stand-in of srun; slurm_cells uses a real Slurm."""
import contextlib
import json
import os
import pathlib
import re
import shlex
import signal
import socket
import subprocess
import sys
import uuid

import pytest

from launch.cluster import slurm
from launch.cluster.ports import derived_ports
from pipeline.errors import UsageError
from tests.commands import REPOSITORY, environment, mirrorline
from tests.launch.cluster.supervised import MARK, Supervised, records, wait_for
from tests.selection import quick

SCRIPT = {"name": "digits", "least": 2, "most": 2, "command": ["train", "--model=mlp"], "workdir": "/shared/a run",
          "mirrorline": ["mirrorline"], "limits": ["--max_restarts=3"], "notice": 75.0, "options": []}


def directives(text):
    return [line.removeprefix("#SBATCH ") for line in text.splitlines() if line.startswith("#SBATCH ")]


def test_script_requests_the_values_of_the_flags():
    found = directives(slurm.batch_script(**{**SCRIPT, "options": ["--time=8:00:00", "--gpus-per-node=4"]}))
    assert found == ["--job-name=digits", "--nodes=2", "--ntasks-per-node=1", "--time=8:00:00", "--gpus-per-node=4",
                     "--signal=USR1@75", "--requeue", "--open-mode=append"]


def test_range_of_workers_survives_a_lost_node():
    text = slurm.batch_script(**{**SCRIPT, "least": 2, "most": 4})
    assert {"--nodes=2-4", "--no-kill"} <= set(directives(text)) and "--workers=2..4" in text


@pytest.mark.parametrize("option, words", [("time=8", "is no option of sbatch"), ("-N4", "-N4, which the script sets"),
                                           ("--nodes=3", "--nodes=3, which the script sets itself"),
                                           ("--time=1\nrm", "is no option"), ("--signal=B:USR1", "--notice")])
def test_options_set_by_the_script_are_refused(option, words):
    with pytest.raises(UsageError, match=words):
        slurm.batch_script(**{**SCRIPT, "options": [option]})


@pytest.mark.parametrize("name, directive", [("on", "--job-name=on"), ("a run", "--job-name='a run'"),
                                             ("$(x)", "--job-name='$(x)'"), ("it's", "--job-name='it'\"'\"'s'")])
def test_name_is_quoted_in_its_directive(name, directive):
    assert directives(slurm.batch_script(**{**SCRIPT, "name": name}))[0] == directive


@pytest.mark.parametrize("name", ["a\nrm -rf x", "a\rb", "a\x00"])
def test_name_of_several_lines_is_refused(name):
    with pytest.raises(UsageError, match="give a name on one line"):
        slurm.batch_script(**{**SCRIPT, "name": name})


@pytest.fixture
def shell(tmp_path):
    """Runs the script with stand-ins of mirrorline and scontrol that record their arguments."""
    def run(code, more=None, ask=False):
        # With `ask` the supervisor ends a while after the script was signalled, as it does on a scancel.
        waits = f"while [ ! -e {tmp_path}/asked ]; do sleep 0.02; done; sleep 0.3; " if ask else ""
        for name, body in (("mirrorline", f"{waits}exit {code}"), ("scontrol", "exit 0")):
            path = tmp_path / name
            path.write_text(f'#!/bin/bash\nprintf "%s\\n" {name} "$@" >> {shlex.quote(str(tmp_path))}/calls\n{body}\n')
            path.chmod(0o755)
        process = subprocess.Popen(["bash", "-c", slurm.batch_script(**SCRIPT)], env={
            "PATH": f"{tmp_path}:{os.environ['PATH']}", "SLURM_JOB_ID": "17", **(more or {})})
        if ask:
            wait_for((tmp_path / "calls").exists, PATIENCE)
            process.send_signal(signal.SIGTERM)
            (tmp_path / "asked").touch()
        assert process.wait(timeout=PATIENCE) == code
        return (tmp_path / "calls").read_text().splitlines()
    return run


def test_script_starts_the_supervisor_with_the_flags_of_the_trainer(shell):
    assert shell(0) == ["mirrorline", "launch", "--workers=2", "--max_restarts=3", f"--srun={slurm.SRUN}", "--",
                        "train", "--model=mlp", "--workdir=/shared/a run"]


def test_array_task_has_its_own_directory(shell):
    assert shell(0, {"SLURM_ARRAY_TASK_ID": "3"})[-1] == "--workdir=/shared/a run-3"


@pytest.mark.parametrize("code, ask, requeued", [(0, False, False), (1, False, False), (2, False, False),
                                                 (75, False, True), (75, True, False)])
def test_only_runs_saved_at_the_time_limit_are_requeued(shell, code, ask, requeued):
    assert (["scontrol", "requeue", "17"] == shell(code, ask=ask)[-3:]) == requeued


def test_command_prints_the_job(tmp_path):
    done = mirrorline("launch", "--engine=slurm", "--print", "--workers=2", "--gpus=2", "--cpus=8",
                      "--submit=--partition=big", "--", "train", "--model=mlp", "--batch_size=64", "--workdir", "old",
                      cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert {"--gpus-per-node=2", "--cpus-per-task=8", "--partition=big", "--job-name=mirrorline-old"} <= set(
        directives(done.stdout))
    assert f"workdir={tmp_path}/old$" in done.stdout.replace("{", "") and "--workdir old" not in done.stdout
    assert "-- train --model=mlp --batch_size=64 --workdir=\"$workdir\"" in done.stdout
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("flags, words", [
    (("--engine=slurm", "--workers=3"), "--batch_size=64 must divide by the workers"),
    (("--engine=slurm", "--workers=2", "--gpus=3"), "3 replicas each"),
    (("--engine=slurm", "--workers=9999"), "give a number from 1 to 4096"),
    (("--engine=slurm", "--workers=2"), "there is no sbatch on this machine"),
    (("--engine=ray", "--workers=1..2"), "give one number"),
    (("--srun=--label", "--workers=2"), "inside an allocation"),
])
def test_invalid_flags_are_reported_in_one_line(tmp_path, flags, words):
    here = {**environment(), "PATH": str(tmp_path)}
    here.pop("SLURM_JOB_ID", None)
    done = subprocess.run([sys.executable, "-m", "launch", "launch", *flags, "--", "train", "--batch_size=64",
                           f"--workdir={tmp_path}/run"], env=here, cwd=tmp_path, text=True, capture_output=True,
                          timeout=600, check=False)
    assert done.returncode == 2 and words in done.stderr and done.stderr.count("\n") == 1, done.stderr


def test_messages_of_srun_are_parsed():
    assert slurm.expand_ranks("0,2-4") == [0, 2, 3, 4]
    assert [slurm.ending_code(text) for text in ("Exited with exit code 76", "Killed", "Terminated", "Aborted")] == [
        76, -9, -15, -6]


# Deadlines of the product that a busy machine may pass; here what happens ends a wait, never the time.
PATIENCE = 300.0
AGENT = """
import sys
from launch.cluster import agent
workdir, settings, linger = sys.argv[1:]
agent.LINGER_SECONDS = float(linger)
sys.exit(agent.run([sys.executable, "-m", "tests.launch.cluster.stand_in", workdir, settings], workdir, 3, 300.0))
"""
SUPERVISOR = """
import json, sys
from launch.cluster import supervisor
from launch.cluster.display import LaunchDisplay
from launch.commands.launch import supervise
workdir, agent, settings, limits, patience = sys.argv[1:]
supervisor.PEER_SECONDS = float(patience)
command = [sys.executable, "-c", agent, workdir, settings, patience]
sys.exit(supervise(command, workdir, [2], supervisor.Limits(**json.loads(limits)), LaunchDisplay(),
                   srun="--kill-on-bad-exit=1"))
"""
SIGNALLING = """
import os, pathlib, signal, sys
mark, step = sys.argv[1], "KILL" in sys.argv[3]
for folder in pathlib.Path("/proc").glob("[0-9]*"):
    try:
        environment = (folder / "environ").read_bytes()
        if mark.encode() in environment and b"SLURM_STEP_ID=" in environment:
            os.kill(int(folder.name), signal.SIGKILL if step else signal.SIGUSR1)
    except OSError:
        pass
"""


def free_job(attempts=4):
    """Returns the number of a job whose first steps have ports that nothing listens on, each step others."""
    for job in range(os.getpid(), os.getpid() + 1000):
        ports = [port for step in range(attempts) for port in derived_ports(2, job, step, 0, step)]
        with contextlib.ExitStack() as held, contextlib.suppress(OSError):
            for port in ports:
                held.enter_context(socket.create_server(("127.0.0.1", port)))
            if len(set(ports)) == len(ports):
                return str(job)
    raise AssertionError("no free ports")


class Allocation(Supervised):
    """A supervisor in an allocation whose workers are agents started by a stand-in of srun."""

    def __init__(self, workdir, limits=None, srun=None, **settings):
        self.workdir, self.mark = pathlib.Path(workdir) / "run", uuid.uuid4().hex
        programs = pathlib.Path(workdir) / "programs"
        python, signalling, called = (shlex.quote(str(path)) for path in (
            sys.executable, programs / "signalling", pathlib.Path(workdir) / "called"))
        programs.mkdir()
        for name, text in (("srun", srun or f'exec {python} -m tests.launch.cluster.stand_in_srun "$@"'),
                           # Slurm gives a signal to every process of a step.
                           ("scancel", f"exec {python} {signalling} {MARK}={self.mark} $@")):
            (programs / name).write_text(f'#!/bin/bash\necho "{name} $*" >> {called}\n{text}\n')
            (programs / name).chmod(0o755)
        (programs / "signalling").write_text(SIGNALLING)
        self.process = subprocess.Popen(
            [sys.executable, "-c", SUPERVISOR, str(self.workdir), AGENT,
             json.dumps({"steps": 20, "do": [], "patience": PATIENCE, **settings}), json.dumps(limits or {}),
             str(PATIENCE)], text=True, cwd=REPOSITORY, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            env={**{name: value for name, value in environment().items() if not name.startswith("SLURM_")},
                 MARK: self.mark, "SLURM_JOB_ID": free_job(), "PATH": f"{programs}:{os.environ['PATH']}"})
        self.started.append(self)

    def end(self, timeout=PATIENCE):
        return super().end(timeout)

    def count_after(self, seconds=PATIENCE):
        return super().count_after(seconds)


@pytest.fixture(autouse=True, scope="module")
def nothing_left():
    """Kills the processes that a failed test has left."""
    yield
    Supervised.kill_all()


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    run = Allocation(tmp_path_factory.mktemp("undisturbed"))
    code, out, errors = run.end()
    assert code == 0, (out, errors)
    assert "[1] rank 1 of ['localhost:" in out and "step 20/20" in out
    return (run.workdir / "result.json").read_text()


def test_restarted_steps_compute_the_same_result(tmp_path, undisturbed):
    run = Allocation(tmp_path, do=[[0, 1, 6, "signal 9"], [1, 1, 12, "late 1"], [2, 1, 17, "raise"]])
    code, _, errors = run.end()
    assert code == 0, errors
    assert errors.splitlines() == [
        f"mirrorline launch: worker 1 {what}: restarting all workers from step {saved}" for what, saved in (
            ("was ended by SIGKILL, after step 6", 5),
            ("ended with exit code 1: this is the cause, after step 12", 10),
            ("ended with exit code 1: ValueError: the image is truncated, after step 17", 15))]
    assert (run.workdir / "result.json").read_text() == undisturbed
    attempts = records(run.workdir / "attempts.jsonl")
    assert [attempt["first_failing_rank"] for attempt in attempts] == [1, 1, 1, None]
    assert attempts[3]["exit_codes"] == [0, 0]
    peers = re.findall(r"rank 0 of (.*) pid", (run.workdir / "workers/0.log").read_text())
    assert len(set(peers)) == 4  # Each step has ports of its own.
    called = (tmp_path / "called").read_text()
    job = re.search(r"--signal=KILL (\d+)\.0\n", called)[1]
    for step in range(3):
        assert f"scancel --quiet --signal=KILL {job}.{step}\n" in called


def test_same_step_failing_twice_ends_the_run(tmp_path):
    run = Allocation(tmp_path, do=[[attempt, 1, 2, "exit 1"] for attempt in range(9)])
    code, _, errors = run.end()
    assert code == 1 and ("mirrorline launch: it failed twice after step 2: worker 1 ended with exit code 1: this is "
                          "the cause\n") in errors


def test_wrong_flags_are_not_retried(tmp_path):
    run = Allocation(tmp_path, do=[[0, 1, "start", "exit 2"]])
    code, _, errors = run.end()
    assert code == 2 and errors == "mirrorline train: this is the cause\n"
    assert len(records(run.workdir / "attempts.jsonl")) == 1


# A worker other than the chief may be done when the signal reaches it, and end by it: the chief still saves.
@pytest.mark.parametrize("interrupted", quick([False, True], 1))
def test_stop_request_to_every_process_saves(tmp_path, interrupted):
    run = Allocation(tmp_path, steps=100_000, save_seconds=0.5, interrupted=interrupted)
    wait_for(lambda: any(r["step"] >= 5 for r in records(run.workdir / "metrics.jsonl")), PATIENCE)
    run.process.send_signal(signal.SIGTERM)
    code, _, errors = run.end()
    assert code == 75, errors
    attempt, = records(run.workdir / "attempts.jsonl")
    assert attempt["exit_codes"] == [75, 75] and attempt["failure"] is None


def test_failed_start_of_a_step_reports_srun(tmp_path):
    words = "srun: error: Unable to create step: none"
    run = Allocation(tmp_path, limits={"max_restarts": 0}, srun=f"echo '{words}'; exit 1")
    code, _, errors = run.end()
    assert code == 1 and words in errors, errors
