"""TF_CONFIG, read."""
import json

import pytest

from pipeline.errors import UsageError
from pipeline.workers.cluster import Cluster

TWO = ["10.0.0.1:2222", "10.0.0.2:2222"]


def tf_config(workers=TWO, index=1, kind="worker", **more):
    return {"TF_CONFIG": json.dumps({"cluster": {"worker": workers, **more}, "task": {"type": kind, "index": index}})}


def test_it_says_where_the_workers_are_and_which_this_is():
    assert Cluster.of(tf_config()) == Cluster(tuple(TWO), 1)


@pytest.mark.parametrize("environment", [{}, {"TF_CONFIG": " "}, tf_config(TWO[:1], 0)])
def test_one_machine_is_no_cluster(environment):
    assert Cluster.of(environment) is None


@pytest.mark.parametrize("environment, words", [
    ({"TF_CONFIG": "{"}, "cannot be read"), ({"TF_CONFIG": "[]"}, "cannot be read"), ({"TF_CONFIG": "{}"}, "cluster"),
    (tf_config(index=2), "worker 2 of 2: give an index from 0 to 1"), (tf_config(index=-1), "from 0 to 1"),
    (tf_config([TWO[0], TWO[0]]), "a port of its own"), (tf_config("10.0.0.1:2222"), "list of host:port"),
    (tf_config(["a", "b"]), "list of host:port"), (tf_config(ps=["c:1"]), "every task must be a worker"),
    (tf_config(kind="chief"), "every task must be a worker"),
])
def test_what_it_cannot_be_is_said_in_one_line(environment, words):
    with pytest.raises(UsageError, match=words) as caught:
        Cluster.of(environment)
    assert "\n" not in str(caught.value)
