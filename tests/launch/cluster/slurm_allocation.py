"""The batch script, and attempts as steps of an allocation, beside a stand-in of srun; slurm_cells has the real one."""
import json
import os
import pathlib
import signal
import subprocess
import sys
import textwrap
import time

import pytest

from launch.cluster import slurm
from pipeline.errors import UsageError
from tests.commands import REPOSITORY, environment, mirrorline
from tests.launch.cluster.supervised import MARK, Supervised, records, wait_for

SCRIPT = {"name": "digits", "least": 2, "most": 2, "command": ["train", "--model=mlp"], "workdir": "/shared/a run",
          "mirrorline": ["mirrorline"], "limits": ["--max_restarts=3"], "notice": 75.0, "options": []}


def directives(text):
    return [line.removeprefix("#SBATCH ") for line in text.splitlines() if line.startswith("#SBATCH ")]


def test_the_script_asks_for_what_the_flags_say():
    found = directives(slurm.batch_script(**{**SCRIPT, "options": ["--time=8:00:00", "--gpus-per-node=4"]}))
    assert found == ["--job-name=digits", "--nodes=2", "--ntasks-per-node=1", "--time=8:00:00", "--gpus-per-node=4",
                     "--signal=USR1@75", "--requeue", "--open-mode=append"]


def test_a_range_of_workers_outlives_a_lost_node():
    text = slurm.batch_script(**{**SCRIPT, "least": 2, "most": 4})
    assert {"--nodes=2-4", "--no-kill"} <= set(directives(text)) and "--workers=2..4" in text


@pytest.mark.parametrize("option, words", [("time=8", "is no option of sbatch"), ("-N4", "-N4, which the script sets"),
                                           ("--nodes=3", "--nodes=3, which the script sets itself"),
                                           ("--time=1\nrm", "is no option"), ("--signal=B:USR1", "--notice")])
def test_options_that_the_script_cannot_take_are_refused(option, words):
    with pytest.raises(UsageError, match=words):
        slurm.batch_script(**{**SCRIPT, "options": [option]})


@pytest.fixture
def shell(tmp_path):
    """Runs the script with stand-ins of mirrorline and scontrol that note what they are given."""
    def run(code, more=None, ask=False):
        for name, body in (("mirrorline", f'sleep {0.5 if ask else 0}; exit {code}'), ("scontrol", "exit 0")):
            path = tmp_path / name
            path.write_text(f'#!/bin/bash\nprintf "%s\\n" {name} "$@" >> {tmp_path}/told\n{body}\n')
            path.chmod(0o755)
        process = subprocess.Popen(["bash", "-c", slurm.batch_script(**SCRIPT)], env={
            "PATH": f"{tmp_path}:{os.environ['PATH']}", "SLURM_JOB_ID": "17", **(more or {})})
        if ask:
            wait_for((tmp_path / "told").exists)
            process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=20) == code
        return (tmp_path / "told").read_text().splitlines()
    return run


def test_the_script_starts_the_supervisor_with_the_trainers_flags(shell):
    assert shell(0) == ["mirrorline", "launch", "--workers=2", "--max_restarts=3", f"--srun={slurm.SRUN}", "--",
                        "train", "--model=mlp", "--workdir=/shared/a run"]


def test_a_task_of_an_array_has_a_directory_of_its_own(shell):
    assert shell(0, {"SLURM_ARRAY_TASK_ID": "3"})[-1] == "--workdir=/shared/a run-3"


@pytest.mark.parametrize("code, ask, requeued", [(0, False, False), (1, False, False), (2, False, False),
                                                 (75, False, True), (75, True, False)])
def test_only_what_was_saved_at_the_time_limit_is_requeued(shell, code, ask, requeued):
    assert (["scontrol", "requeue", "17"] == shell(code, ask=ask)[-3:]) == requeued


def test_the_command_prints_it(tmp_path):
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
def test_what_cannot_be_is_said_in_one_line(tmp_path, flags, words):
    here = {**environment(), "PATH": str(tmp_path)}
    here.pop("SLURM_JOB_ID", None)
    done = subprocess.run([sys.executable, "-m", "launch", "launch", *flags, "--", "train", "--batch_size=64",
                           f"--workdir={tmp_path}/run"], env=here, cwd=tmp_path, text=True, capture_output=True,
                          timeout=60, check=False)
    assert done.returncode == 2 and words in done.stderr and done.stderr.count("\n") == 1, done.stderr


def test_what_srun_says_of_tasks_is_understood():
    assert slurm.expand_ranks("0,2-4") == [0, 2, 3, 4]
    assert [slurm.ending_code(text) for text in ("Exited with exit code 76", "Killed", "Terminated", "Aborted")] == [
        76, -9, -15, -6]


AGENT = """
import sys
from launch.cluster import agent
workdir, told = sys.argv[1:]
sys.exit(agent.run([sys.executable, "-m", "tests.launch.cluster.stand_in", workdir, told], workdir, 3, 15.0))
"""
SUPERVISOR = """
import json, sys
from launch.cluster.screen import Screen
from launch.cluster.supervisor import Limits
from launch.launch import supervise
workdir, agent, told, limits = sys.argv[1:]
command = [sys.executable, "-c", agent, workdir, told]
sys.exit(supervise(command, workdir, [2], Limits(**json.loads(limits)), Screen(), srun="--kill-on-bad-exit=1"))
"""


class Allocation(Supervised):
    """A supervisor in an allocation: its workers are agents that a stand-in of srun starts."""

    def __init__(self, workdir, limits=None, **told):
        self.workdir, self.mark = pathlib.Path(workdir) / "run", f"{os.getpid()}-{time.monotonic_ns()}"
        programs = pathlib.Path(workdir) / "programs"
        programs.mkdir()
        for name, text in (("srun", f'exec {sys.executable} -m tests.launch.cluster.stand_in_srun "$@"'),
                           # Slurm gives a signal to every process of a step.
                           ("scancel", f"exec {sys.executable} {programs}/signalling {self.mark} $@")):
            (programs / name).write_text(f"#!/bin/bash\n{text}\n")
            (programs / name).chmod(0o755)
        signalling = textwrap.dedent(f"""
            import os, pathlib, signal, sys
            for folder in pathlib.Path("/proc").glob("[0-9]*"):
                try:
                    told = (folder / "environ").read_bytes()
                    if f"{MARK}={{sys.argv[1]}}".encode() in told and b"SLURM_STEP_ID=" in told:
                        os.kill(int(folder.name), signal.SIGKILL if "--signal=KILL" in sys.argv else signal.SIGUSR1)
                except OSError:
                    pass
        """)
        (programs / "signalling").write_text(signalling)
        variables = {**environment(), MARK: self.mark, "SLURM_JOB_ID": "7",
                     "PATH": f"{programs}:{os.environ['PATH']}"}
        self.process = subprocess.Popen(
            [sys.executable, "-c", SUPERVISOR, str(self.workdir), AGENT,
             json.dumps({"steps": 20, "do": [], **told}), json.dumps(limits or {})], text=True, env=variables,
            cwd=REPOSITORY, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    run = Allocation(tmp_path_factory.mktemp("undisturbed"))
    code, out, errors = run.end()
    assert code == 0, (out, errors)
    assert "[1] rank 1 of ['localhost:" in out and "step 20/20" in out
    return (run.workdir / "result.json").read_text()


@pytest.mark.parametrize("what, words", [
    ("signal 9", "worker 1 was ended by SIGKILL"), ("exit 1", "worker 1 ended with exit code 1: this is the cause"),
    ("raise", "worker 1 ended with exit code 1: ValueError: the picture is torn"),
])
def test_a_failed_step_is_followed_by_another_with_the_same_result(tmp_path, undisturbed, what, words):
    run = Allocation(tmp_path, do=[[0, 1, 12, what]])
    code, out, errors = run.end()
    assert code == 0 and f"mirrorline launch: {words}, after step 12: all start anew from step 10" in errors, errors
    assert (run.workdir / "result.json").read_text() == undisturbed
    first, second = records(run.workdir / "attempts.jsonl")
    assert (first["first_failing_rank"], second["exit_codes"]) == (1, [0, 0])
    ports = {line for line in (run.workdir / "workers/0.log").read_text().splitlines() if line.startswith("rank 0 of")}
    assert len({line.split("pid")[0] for line in ports}) == 2  # Another step, other ports.


def test_the_same_step_failing_twice_ends_the_run(tmp_path):
    run = Allocation(tmp_path, do=[[attempt, 1, 12, "exit 1"] for attempt in range(9)])
    code, _, errors = run.end()
    assert code == 1 and ("mirrorline launch: it failed twice after step 12: worker 1 ended with exit code 1: this is "
                          "the cause\n") in errors


def test_wrong_flags_are_not_tried_again(tmp_path):
    run = Allocation(tmp_path, do=[[0, 1, "start", "exit 2"]])
    code, _, errors = run.end()
    assert code == 2 and errors == "mirrorline train: this is the cause\n"
    assert len(records(run.workdir / "attempts.jsonl")) == 1


def test_asked_to_stop_all_save_though_every_process_hears_the_signal(tmp_path):
    run = Allocation(tmp_path, steps=2000)
    run.until_step(5)
    run.process.send_signal(signal.SIGTERM)
    code, _, errors = run.end()
    assert code == 75, errors
    attempt, = records(run.workdir / "attempts.jsonl")
    assert attempt["exit_codes"] == [75, 75] and attempt["failure"] is None


def test_a_step_that_cannot_be_started_ends_with_what_srun_said(tmp_path):
    run = Allocation(tmp_path, limits={"max_restarts": 0})
    (tmp_path / "programs/srun").write_text("#!/bin/bash\necho 'srun: error: Unable to create step: none'; exit 1\n")
    code, _, errors = run.end()
    assert code == 1 and "Unable to create step: none" in errors, errors
