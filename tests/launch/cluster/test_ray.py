"""The driver that is printed; ray_cells runs it with a real Ray."""
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


def test_the_driver_has_what_the_flags_say():
    found = calls(ray_driver.driver(**DRIVER, gpus=2, cpus=8))
    assert found["ray.init"] == {"address": None}
    assert found["ScalingConfig"] == {"num_workers": 3, "use_gpu": True, "resources_per_worker": {"CPU": 8, "GPU": 2}}
    assert found["FailureConfig"] == {"max_failures": 4}
    config = found["TensorflowTrainer"]["train_loop_config"]
    assert config["command"] == [*DRIVER["command"], "--workdir=/shared/runs/digits"]
    assert (config["workdir"], config["limits"]) == ("/shared/runs/digits", ["--stopped_timeout=15"])
    assert found["RunConfig"]["storage_path"].startswith("/shared/runs/digits/")


def test_two_runs_of_a_name_do_not_share_a_folder():
    # Seen: a second run of the same name went on with what the first had left.
    assert calls(ray_driver.driver(**DRIVER))["RunConfig"]["name"] == "'digits' + f'-{time.time_ns()}'"


@pytest.mark.parametrize("name", ["it's", 'a"b', "{x}", "two\nlines", "\\"])
def test_a_name_stays_a_name(name):
    found = calls(ray_driver.driver(**{**DRIVER, "name": name}))["RunConfig"]["name"]
    assert ast.literal_eval(found.removesuffix(" + f'-{time.time_ns()}'")) == name


def test_without_gpus_none_are_asked_for():
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
def test_the_cause_is_told_and_not_its_echo(failures, first):
    assert ray_driver.cause(Failed(failures)).startswith(first)


def test_an_error_without_workers_is_told_as_it_is():
    assert ray_driver.cause(ValueError("no cluster")) == "no cluster"


def test_the_command_prints_it(tmp_path):
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
def test_what_ray_does_not_take_is_refused(tmp_path, flags, words):
    done = mirrorline("launch", "--engine=ray", "--print", "--workers=2", *flags, "--", "train", "--batch_size=64",
                      cwd=tmp_path)
    assert done.returncode == 2 and words in done.stderr


def test_without_ray_the_extra_is_named(monkeypatch):
    monkeypatch.setattr(sys, "path", [])
    monkeypatch.delitem(sys.modules, "ray", raising=False)
    with pytest.raises(UsageError, match=r"pip install 'mirrorline\[ray\]'"):
        submission.check_ray()
