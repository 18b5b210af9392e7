"""Ports of workers: free ones of this machine, or derived from a key."""
import socket

from launch.cluster.ports import FIRST, LAST, derived_ports, free_ports


def test_free_ports_are_distinct_and_new():
    before = free_ports(50)
    after = free_ports(50, without=before)
    assert len(set(before)) == len(set(after)) == 50 and not set(before) & set(after)
    for port in after:
        with socket.create_server(("127.0.0.1", port)):
            pass


def test_derived_ports_depend_only_on_the_key():
    assert derived_ports(3, "7", "0", 0) == derived_ports(3, "7", "0", 0) != derived_ports(3, "7", "1", 0)
    assert derived_ports(2, "1", "11") != derived_ports(2, "11", "1")
    for count in (1, 2, LAST - FIRST + 1):
        ports = [derived_ports(count, job) for job in range(200)]
        assert all(len(p) == count and FIRST <= p[0] and p[-1] <= LAST for p in ports)
