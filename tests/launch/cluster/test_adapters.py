"""The Cluster of an engine's environment."""
import json

import pytest

from launch import __main__ as command_line
from launch.cluster import adapters
from launch.cluster.adapters import expand_counts, expand_nodes, from_environment, place_tasks
from pipeline.distributed.cluster import Cluster
from pipeline.errors import UsageError


def tf_config(workers=("a:2222", "b:2222"), kind="worker", index=0, **more):
    return {"TF_CONFIG": json.dumps({"cluster": {"worker": workers, **more}, "task": {"type": kind, "index": index}})}


def slurm(nodes="n[1-2]", tasks="1(x2)", rank=0, **more):
    counts = expand_counts(tasks)
    return {"SLURM_JOB_ID": "7", "SLURM_STEP_ID": "0", "SLURM_STEP_NODELIST": nodes, "SLURM_NTASKS": str(sum(counts)),
            "SLURM_STEP_TASKS_PER_NODE": tasks, "SLURM_PROCID": str(rank), **more}


JOBSET = {"JOB_COMPLETION_INDEX": "1", "MIRRORLINE_JOBSET": "digits", "MIRRORLINE_JOB": "workers",
          "MIRRORLINE_SUBDOMAIN": "digits", "MIRRORLINE_WORKERS": "2"}


@pytest.mark.parametrize("text, names", [
    ("n1", ["n1"]),
    ("n[1-3,7]", ["n1", "n2", "n3", "n7"]),
    ("n[9-10]", ["n9", "n10"]),  # As strings the second would come first, and be the chief.
    ("n[08-10,3]", ["n08", "n09", "n10", "n3"]),
    ("n[001-002]x", ["n001x", "n002x"]),
    ("b,a[2,1]-ib,c", ["b", "a2-ib", "a1-ib", "c"]),  # The order is Slurm's, not the alphabet's.
    ("r[1-2]n[01-02]", ["r1n01", "r1n02", "r2n01", "r2n02"]),
])
def test_node_list_is_expanded_in_its_order(text, names):
    assert expand_nodes(text) == names


@pytest.mark.parametrize("text", ["", "n[1-", "n[1-3]]", "n[3-1]", "n[a]", "n[]", "n1,,n2", ",n1", "n[1,]",
                                  "n[0-99999]m[0-99999]", "n[1-999999999]"])
def test_invalid_node_list_is_refused_in_one_line(text):
    with pytest.raises(UsageError, match="SLURM_STEP_NODELIST=") as error:
        expand_nodes(text)
    assert "\n" not in str(error.value) and len(str(error.value)) < 200


def test_tasks_are_expanded_and_assigned_to_ranks():
    assert expand_counts("2(x3),1") == [2, 2, 2, 1]
    assert place_tasks([2, 1]) == place_tasks([2, 1], "block:cyclic,Pack") == [0, 0, 1]
    assert place_tasks([2, 1, 2], "cyclic") == [0, 1, 2, 0, 2]
    for text in ("", "2(3)", "x", "2,", "999999(x999999)"):
        with pytest.raises(UsageError, match="SLURM_STEP_TASKS_PER_NODE"):
            expand_counts(text)
    with pytest.raises(UsageError, match="--distribution=block"):
        place_tasks([2, 2], "plane=2")


def test_cluster_of_slurm():
    found = from_environment(slurm("n[9-10]", "2,1", rank=2, SLURM_NODEID="1"))
    assert (found.hosts, found.rank, found.attempt) == (("n9", "n9", "n10"), 2, 0)
    assert len(set(found.ports)) == 3 and all(1024 < port < 32768 for port in found.ports)
    config = json.loads(found.tf_config)
    assert config["task"] == {"type": "worker", "index": 2} and config["cluster"]["worker"] == list(found.addresses)
    # All ranks of a start agree; another step, another requeue or another attempt has other ports.
    assert from_environment(slurm("n[9-10]", "2,1", rank=0)).ports == found.ports
    again = [from_environment(slurm("n[9-10]", "2,1", **more)) for more in (
        {"SLURM_STEP_ID": "1"}, {"SLURM_RESTART_COUNT": "1"}, {"MIRRORLINE_ATTEMPT": "1"}, {"SLURM_JOB_ID": "8"})]
    assert len({found.ports, *(a.ports for a in again)}) == 5 and [a.attempt for a in again] == [0, 1, 1, 0]
    # Its own number of the step's tasks wins over that of the job around it.
    assert from_environment(slurm(SLURM_NTASKS="8", SLURM_STEP_NUM_TASKS="2")).hosts == ("n1", "n2")


@pytest.mark.parametrize("environment, words", [
    (slurm(SLURM_NTASKS="3"), "SLURM_NTASKS=3"),
    (slurm(rank=2), "SLURM_PROCID=2"),
    (slurm(SLURM_PROCID="x"), "SLURM_PROCID must be"),
    (slurm(nodes="n[1-3]"), "has 3 nodes"),
    (slurm(rank=1, SLURM_NODEID="0"), "--distribution=block"),
    (slurm(SLURM_RESTART_COUNT="-1"), "SLURM_RESTART_COUNT must be"),
    ({**JOBSET, "MIRRORLINE_SUBDOMAIN": ""}, "MIRRORLINE_SUBDOMAIN not"),
    ({**JOBSET, "JOB_COMPLETION_INDEX": "2"}, "JOB_COMPLETION_INDEX=2 with MIRRORLINE_WORKERS=2"),
    ({**JOBSET, "MIRRORLINE_WORKERS": "two"}, "found 'two'"),
    ({**JOBSET, "MIRRORLINE_PORT": "0"}, "MIRRORLINE_PORT=0"),
    ({"TF_CONFIG": "{"}, "is no JSON"),
    ({"TF_CONFIG": "[1]"}, "needs a cluster and a task"),
    ({"TF_CONFIG": '{"cluster": [], "task": {}}'}, "needs a cluster and a task"),
    (tf_config(workers=[]), "needs a list of workers"),
    (tf_config(workers="a:1"), "needs a list of workers"),
    (tf_config(workers=["a:1", "b"]), "'\"b\"|which is no host:port"),
    (tf_config(workers=["a:1", 5]), "which is no host:port"),
    (tf_config(workers=["a:1", "b:70000"]), "which is no host:port"),
    (tf_config(workers=["a:1", "http://b:1"]), "which is no host:port"),
    (tf_config(workers=["a:1", "a:1"]), "names a worker twice"),
    (tf_config(index=2), "index 2; with 2 workers it is 0 to 1"),
    (tf_config(index="0"), "gives this task the index 0"),
    (tf_config(index=True), "gives this task the index True"),
    (tf_config(kind="ps"), "names this task a ps"),
    (tf_config(ps=["c:1"]), "tasks of the kind ps"),
    (tf_config(chief=["c:1"]), "tasks of the kind chief"),
    ({**tf_config(), "MIRRORLINE_ATTEMPT": "-1"}, "MIRRORLINE_ATTEMPT must be"),
])
def test_contradictory_variables_are_refused_in_one_line(environment, words):
    with pytest.raises(UsageError, match=words) as error:
        from_environment(environment)
    assert "\n" not in str(error.value) and len(str(error.value)) < 400


@pytest.mark.parametrize("environment", [{"TF_CONFIG": "{"}, tf_config(index=2), slurm(rank=2)])
def test_command_reports_wrong_variables_before_it_starts(environment, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert command_line.main(["train"]) == 2
    out, errors = capsys.readouterr()
    assert errors.startswith("mirrorline train: ") and errors.count("\n") == 1 and out == ""
    assert list(tmp_path.iterdir()) == []


def test_cluster_of_a_jobset():
    found = from_environment({**JOBSET, "MIRRORLINE_ATTEMPT": "4"})
    assert found.addresses == ("digits-workers-0-0.digits:2222", "digits-workers-0-1.digits:2222")
    assert (found.rank, found.attempt) == (1, 4)
    other = from_environment({**JOBSET, "MIRRORLINE_JOB_INDEX": "3", "MIRRORLINE_PORT": "8000"})
    assert other.addresses[0] == "digits-workers-3-0.digits:8000"


def test_tf_config_takes_precedence():
    found = from_environment({**slurm(), **JOBSET, **tf_config(["a:1", "[fe80::1]:2", "10.0.0.3:3"], index=1, ps=[]),
                              "MIRRORLINE_ATTEMPT": "2"})
    assert found == Cluster.from_hosts(("a", "fe80::1", "10.0.0.3"), (1, 2, 3), 1, 2)
    assert found.addresses == ("a:1", "[fe80::1]:2", "10.0.0.3:3")
    assert adapters.from_tf_config({"TF_CONFIG": found.tf_config}) == Cluster(found.addresses, 1, 0)


@pytest.mark.parametrize("environment", [
    {}, {"TF_CONFIG": ""}, {"TF_CONFIG": "{}"}, tf_config(["a:1"]), slurm("n1", "1"),
    {**JOBSET, "MIRRORLINE_WORKERS": "1", "JOB_COMPLETION_INDEX": "0"},
    {"TF_CONFIG": '{"cluster": {"chief": ["one"]}, "task": {"type": "chief", "index": 0}}', **slurm()},
    {"SLURM_JOB_ID": "7", "SLURM_PROCID": "0", "SLURM_NTASKS": "2", "SLURM_JOB_NODELIST": "n[1-2]"},  # A batch script.
    {"JOB_COMPLETION_INDEX": "3"},  # An indexed job of somebody's own: its pods do not belong together.
    {**tf_config(["a:1"]), **slurm()},  # One worker is one worker, whatever is around it.
])
def test_single_worker_has_no_cluster(environment):
    assert from_environment(environment) is None
