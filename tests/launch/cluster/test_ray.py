"""The printed driver; ray_cells runs it with a real Ray."""
import ast
import sys

import pytest

from launch.cluster import ray_driver, submission
from pipeline.errors import UsageError
from tests.commands import mirrorline

DRIVER = {"name": "digits", "workers": 3, "command": ["train", "--class_names=it's {a} \"b\""],
          "workdir": "/shared/runs/digits", "address": None, "max_restarts": 4, "limits": ["--stopped_timeout=15"]}


def calls(text):
    """Returns {name of a called function: {keyword: value}} of a program, values as far as they are literals."""
    found = {}
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Call):
            values = {}
            for keyword in node.keywords:
                try:
                    values[keyword.arg] = ast.literal_eval(keyword.value)
                except ValueError:
                    values[keyword.arg] = ast.unparse(keyword.value)
            found[ast.unparse(node.func)] = values
    return found


def test_driver_has_the_values_of_the_flags():
    found = calls(ray_driver.driver(**DRIVER, gpus=2, cpus=8))
    assert found["ray.init"] == {"address": None}
    assert found["ScalingConfig"] == {"num_workers": 3, "use_gpu": True, "resources_per_worker": {"CPU": 8, "GPU": 2}}
    assert found["FailureConfig"] == {"max_failures": 4}
    config = found["TensorflowTrainer"]["train_loop_config"]
    assert config["command"] == [*DRIVER["command"], "--workdir=/shared/runs/digits"]
    assert (config["workdir"], config["limits"]) == ("/shared/runs/digits", ["--stopped_timeout=15"])
    assert found["RunConfig"]["storage_path"].startswith("/shared/runs/digits/")


def test_runs_of_one_name_have_separate_folders():
    # Seen: a second run of the same name went on with what the first had left.
    assert calls(ray_driver.driver(**DRIVER))["RunConfig"]["name"] == "'digits' + f'-{time.time_ns()}'"


@pytest.mark.parametrize("name", ["it's", 'a"b', "{x}", "two\nlines", "\\"])
def test_name_is_a_literal(name):
    found = calls(ray_driver.driver(**{**DRIVER, "name": name}))["RunConfig"]["name"]
    assert ast.literal_eval(found.removesuffix(" + f'-{time.time_ns()}'")) == name


def test_no_gpus_are_requested_without_gpus():
    found = calls(ray_driver.driver(**DRIVER, cpus=1))["ScalingConfig"]
    assert found["use_gpu"] is False and found["resources_per_worker"] == {"CPU": 1}


class Failed(Exception):
    def __init__(self, failures):
        self.worker_failures = failures


@pytest.mark.parametrize("failures, first", [
    ({0: f"worker 0 {ray_driver.LOST}\nno answer", 1: "worker 1 was ended by SIGKILL"}, "worker 1 was ended"),
    ({0: f"worker 0 {ray_driver.LOST}", 1: f"worker 1 {ray_driver.LOST}"}, "worker 0 lost a peer"),
    ({1: "worker 1 ended with exit code 1\nValueError: torn", 0: f"worker 0 {ray_driver.LOST}\nx"}, "worker 1 ended"),
])
def test_cause_is_reported_not_lost_peers(failures, first):
    assert ray_driver.cause(Failed(failures)).startswith(first)


def test_error_without_workers_is_reported_unchanged():
    assert ray_driver.cause(ValueError("no cluster")) == "no cluster"


def test_command_prints_the_job(tmp_path):
    done = mirrorline("launch", "--engine=ray", "--print", "--workers=2", "--cpus=4", "--max_restarts=7", "--",
                      "train", "--model=mlp", "--batch_size=64", "--workdir=run", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    found = calls(done.stdout)
    assert found["FailureConfig"] == {"max_failures": 7}
    assert found["ScalingConfig"]["resources_per_worker"] == {"CPU": 4}
    assert found["TensorflowTrainer"]["train_loop_config"]["workdir"] == f"{tmp_path}/run"
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("flags, words", [(("--cpus=half",), "--cpus is a whole number"),
                                          (("--memory=4G",), "--memory is not asked for")])
def test_unsupported_flags_of_ray_are_refused(tmp_path, flags, words):
    done = mirrorline("launch", "--engine=ray", "--print", "--workers=2", *flags, "--", "train", "--batch_size=64",
                      cwd=tmp_path)
    assert done.returncode == 2 and words in done.stderr


def test_missing_ray_names_the_extra(monkeypatch):
    monkeypatch.setattr(sys, "path", [])
    monkeypatch.delitem(sys.modules, "ray", raising=False)
    with pytest.raises(UsageError, match=r"pip install 'mirrorline\[ray\]'"):
        submission.check_ray()
