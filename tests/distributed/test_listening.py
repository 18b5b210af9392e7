"""Where TensorFlow's server of a worker listens, as the kernel says."""
import json

import psutil
import pytest

from pipeline.distributed.bind_address import own_address
from pipeline.distributed.cluster import Cluster
from tests.commands import start
from tests.distributed.processes import free_ports, task

MEETING = """
import os, signal, sys
from pipeline.distributed.cluster import Cluster
from pipeline.distributed.multi_worker_strategy import open_strategy
strategy = open_strategy(Cluster.of(os.environ), ("CPU", 1), "auto", 600, everywhere=sys.argv[1] == "all")
print("met", flush=True)
signal.pause()
"""


def listening(folder, where):
    """Lets two workers meet; returns [(port, {IP addresses at which it listens}, what the worker said)] of both."""
    (folder / "meeting.py").write_text(MEETING)
    ports = free_ports(2)
    workers = [start(where, cwd=folder, more=task(ports, rank), module="meeting") for rank in range(2)]
    try:
        assert [worker.stdout.readline() for worker in workers] == ["met\n"] * 2
        found = [{c.laddr.ip for c in psutil.Process(worker.pid).net_connections("inet")
                  if c.status == psutil.CONN_LISTEN} for worker in workers]
    finally:
        for worker in workers:
            worker.kill()
    return list(zip(ports, found, (worker.communicate()[1] for worker in workers), strict=True))


def test_a_worker_listens_at_its_address_alone(tmp_path):
    for _, places, said in listening(tmp_path, "address"):
        assert places and places <= {"127.0.0.1", "::ffff:127.0.0.1"}, places
        assert "note" not in said


def test_where_it_is_to_listen_everywhere_it_says_so(tmp_path):
    for port, places, said in listening(tmp_path, "all"):
        assert places & {"::", "0.0.0.0"}
        assert f"note    port {port} of worker" in said and "open on all interfaces" in said


@pytest.mark.parametrize("hosts, rank, expected", [
    (("127.0.0.1", "127.0.0.1"), 1, "127.0.0.1"), (("localhost", "127.0.0.2"), 1, "127.0.0.2"),
    (("10.0.0.1", "10.0.0.2"), 1, "10.0.0.2"), (("[::1]", "[::1]"), 0, "::1"),
    (("[fd00::1]", "10.0.0.2"), 0, "fd00::1"),
    # Others know this machine by another address than it does itself.
    (("127.0.1.1", "10.0.0.2"), 0, None), (("no-such-host.invalid", "10.0.0.2"), 0, None)])
def test_the_address_of_a_worker(hosts, rank, expected):
    told = {"cluster": {"worker": [f"{host}:{2222 + i}" for i, host in enumerate(hosts)]},
            "task": {"type": "worker", "index": rank}}
    assert own_address(Cluster.of({"TF_CONFIG": json.dumps(told)})) == expected
