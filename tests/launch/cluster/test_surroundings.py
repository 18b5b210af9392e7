"""Variables of cluster engines apply to the command and never to its children."""
import json

import pytest

from launch.cluster import adapters
from launch.commands import train
from pipeline.distributed.cluster import Cluster
from pipeline.errors import UsageError
from pipeline.processes import Processes
from pipeline.sweep import trials
from tests.commands import result, start
from tests.selection import quick

RUN = ("train", "--dataset=digits", "--model=mlp", "--steps=1", "--tensorboard=scalars", "--workdir=run")
STEP = {"SLURM_JOB_ID": "7", "SLURM_STEP_ID": "0", "SLURM_STEP_NODELIST": "n1", "SLURM_STEP_TASKS_PER_NODE": "4",
        "SLURM_STEP_NUM_TASKS": "4", "SLURM_PROCID": "0", "SLURM_NODEID": "0"}
TF_CONFIG = {"TF_CONFIG": Cluster(("localhost:1", "localhost:2"), 0).tf_config}
JOBSET = {"JOB_COMPLETION_INDEX": "0", "MIRRORLINE_JOBSET": "digits", "MIRRORLINE_JOB": "workers",
          "MIRRORLINE_SUBDOMAIN": "digits", "MIRRORLINE_WORKERS": "2"}
CHIEF = {"TF_CONFIG": json.dumps({"cluster": {"chief": ["pool-0:2222"]}, "task": {"type": "chief", "index": 0}})}


@pytest.mark.parametrize("environment, says", quick([
    ({**STEP, "SLURM_PTY_PORT": "40000", "SLURM_PTY_WIN_COL": "80"},
     "alone   this shell is task 0 of 4 of a step of Slurm"),
    (CHIEF, "data    digits"),
], 0))
def test_single_task_trains(tmp_path, environment, says):
    process = start(*RUN, cwd=tmp_path, more=environment)
    out, errors = process.communicate(timeout=300)
    assert (process.returncode, errors) == (0, "") and out.startswith(says)
    assert result(tmp_path / "run")["step"] == 1


@pytest.mark.parametrize("environment, name", [(STEP, "SLURM_STEP_NODELIST"), (TF_CONFIG, "TF_CONFIG"),
                                               (JOBSET, "JOB_COMPLETION_INDEX")])
def test_waiting_for_workers_is_reported(environment, name):
    found, line = train.find_workers(environment)
    assert f"workers {len(found.addresses)}, set by {name}:" in line and f"env -u {name} mirrorline train" in line
    without = {key: value for key, value in environment.items() if key != name}
    assert train.find_workers(without) == (None, None)
    assert train.find_workers({**environment, "MIRRORLINE_ATTEMPT": "0"})[1] is None


def test_other_tasks_of_a_shell_are_refused():
    with pytest.raises(UsageError, match="task 3 of 4.*without --pty"):
        train.find_workers({**STEP, "SLURM_PROCID": "3", "SLURM_PTY_PORT": "40000"})


def surround(monkeypatch):
    """Sets the variables of every engine."""
    for name, value in {**STEP, **JOBSET, **TF_CONFIG}.items():
        monkeypatch.setenv(name, value)


@pytest.mark.acceptance
def test_sweep_trial_is_no_worker(tmp_path, monkeypatch):
    surround(monkeypatch)
    monkeypatch.chdir(tmp_path)
    assert trials.start_process(list(RUN), "log").wait(300) == 0, (tmp_path / "log").read_text()
    assert result(tmp_path / "run")["step"] == 1


def test_child_processes_are_no_workers(tmp_path, monkeypatch):
    surround(monkeypatch)
    code = f"import json, os; json.dump(dict(os.environ), open({str(tmp_path / 'variables')!r}, 'w'))"
    with Processes(60) as processes:
        processes.finish(processes.start("-c", code))
    variables = json.loads((tmp_path / "variables").read_text())
    assert adapters.from_environment(variables) is None and variables["SLURM_JOB_ID"] == "7"
