"""Reading TF_CONFIG."""
import json

import pytest

from pipeline.distributed.cluster import Cluster, host_and_port
from pipeline.errors import UsageError

TWO = ["10.0.0.1:2222", "10.0.0.2:2222"]


def tf_config(workers=TWO, index=1, kind="worker", **more):
    return {"TF_CONFIG": json.dumps({"cluster": {"worker": workers, **more}, "task": {"type": kind, "index": index}})}


def test_cluster_of_tf_config():
    assert Cluster.of(tf_config()) == Cluster(tuple(TWO), 1)


@pytest.mark.parametrize("environment", [{}, {"TF_CONFIG": " "}, {"TF_CONFIG": "{}"}, tf_config(TWO[:1], 0),
    *({"TF_CONFIG": json.dumps(value)} for value in (
        {"cluster": {}}, {"cluster": {}, "task": {}}, {"environment": "cloud"},
        {"task": {"type": "worker", "index": 0}},
        {"cluster": {"worker": ["one"]}}, {"cluster": {"worker": ["one"]}, "task": {"index": 0}},
        {"cluster": {"chief": ["a:1"]}, "task": {"type": "chief", "index": 0}},
        {"cluster": {"chief": ["pool0-0:2222"], "worker": [], "ps": []}, "environment": "cloud", "job": "{}",
         "task": {"type": "chief", "index": 0, "trial": "1"}},
        {"cluster": {"master": ["algo-1:8890"]}, "task": {"type": "master", "index": 0}, "environment": "cloud"}))])
def test_single_machine_is_no_cluster(environment):
    assert Cluster.of(environment) is None


@pytest.mark.parametrize("environment, words", [
    ({"TF_CONFIG": "{"}, "is no JSON"), ({"TF_CONFIG": "{\n'a': 1}"}, "is no JSON"),
    ({"TF_CONFIG": "[]"}, "needs a cluster and a task"), ({"TF_CONFIG": '{"cluster": []}'}, "needs a cluster and a"),
    (tf_config(index=2), "index 2; with 2 workers it is 0 to 1"), (tf_config(index=-1), "it is 0 to 1"),
    (tf_config(index="1"), "it is 0 to 1"), (tf_config(index=True), "it is 0 to 1"),
    (tf_config([TWO[0], TWO[0]]), "a port of its own"), (tf_config("10.0.0.1:2222"), "list of workers"),
    (tf_config(["a", "b"]), "the worker \"a\", which is no host:port"), (tf_config(["a:0", "b:1"]), "no host:port"),
    (tf_config([7, "b:1"]), "the worker 7"), (tf_config(ps=["c:1"]), "tasks of the kind ps"),
    (tf_config(kind="chief"), "names this task a chief, not a worker"),
    # None of these is alone.
    (tf_config([], 0, "chief", chief=["a:1", "b:1"]), "tasks of the kind chief"),
    (tf_config(["a:1"], 0, "chief", chief=["b:1"]), "tasks of the kind chief"),
    (tf_config([], 0, "evaluator", chief=["a:1"]), "tasks of the kind chief"),
    (tf_config([], 0, "ps", ps=["a:1"]), "tasks of the kind ps"), (tf_config(TWO[:1], 1), "it is 0 to 0"),
])
def test_invalid_tf_config_is_reported_in_one_line(environment, words):
    with pytest.raises(UsageError, match=words) as caught:
        Cluster.of(environment)
    assert "\n" not in str(caught.value) and 'looks like {"cluster": {"worker": ["host0:2222"' in str(caught.value)


def test_ipv6_addresses():
    assert Cluster.of(tf_config(["[fd00::1]:2222", "b:1"], 0)).rank == 0
    assert host_and_port("[fd00::1]:2222") == ("fd00::1", 2222) and host_and_port("b:1") == ("b", 1)
