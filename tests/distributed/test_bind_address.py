"""The address at which a worker's TensorFlow server listens, and libraries that are left unchanged."""
import ctypes
import json
import mmap
import socket
import struct

import psutil
import pytest

from pipeline.distributed import bind_address
from pipeline.distributed.cluster import Cluster
from tests.commands import start
from tests.distributed.processes import free_ports, task

WORKER = """
import os, signal, sys
from pipeline.distributed.cluster import Cluster
from pipeline.distributed.multi_worker_strategy import open_strategy
strategy = open_strategy(Cluster.of(os.environ), ("CPU", 1), "auto", 600, everywhere=os.environ["EVERYWHERE"] == "yes")
print("met", flush=True)
signal.pause()
"""


def test_worker_listens_at_its_address_and_warns_if_everywhere(tmp_path):
    (tmp_path / "worker.py").write_text(WORKER)
    ports = free_ports(2)
    workers = [start(cwd=tmp_path, more={**task(ports, rank), "EVERYWHERE": everywhere}, module="worker")
               for rank, everywhere in enumerate(("no", "yes"))]
    try:
        assert [worker.stdout.readline() for worker in workers] == ["met\n"] * 2
        own, everywhere = ({c.laddr.ip for c in psutil.Process(worker.pid).net_connections("inet")
                            if c.status == psutil.CONN_LISTEN} for worker in workers)
    finally:
        for worker in workers:
            worker.kill()
    errors = [worker.communicate()[1] for worker in workers]
    assert own and own <= {"127.0.0.1", "::ffff:127.0.0.1"} and "note" not in errors[0]
    assert everywhere & {"::", "0.0.0.0"}
    assert f"note    port {ports[1]} of worker 1 is open on all interfaces" in errors[1]


class Library:
    """The dynamic section and the table of imported functions of a loaded library, made in memory."""

    def __init__(self, table, *tags):
        self.strings = ctypes.create_string_buffer(b"\0bind\0")
        self.symbols = ctypes.create_string_buffer(bytes(24) + struct.pack("=I20x", 1))
        self.relocations = ctypes.create_string_buffer(struct.pack("=QQq", table, 1 << 32 | 7, 0), 24)
        pairs = [(5, ctypes.addressof(self.strings)), (6, ctypes.addressof(self.symbols)), (2, 24),
                 (23, ctypes.addressof(self.relocations)), *tags, (0, 0)]
        self.dynamic = ctypes.create_string_buffer(b"".join(struct.pack("=qQ", *pair) for pair in pairs))

    def entries(self):
        return bind_address._table_entries(0, ctypes.addressof(self.dynamic), b"bind")


def test_table_is_changed_only_inside_the_block(monkeypatch):
    table = ctypes.c_uint64(4711)
    library = Library(ctypes.addressof(table))
    monkeypatch.setattr(bind_address, "_loaded", lambda libraries: [(0, ctypes.addressof(library.dynamic))])
    with socket.socket() as server, bind_address.binding_to("127.0.0.2", 0) as moved:
        bind = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_int, ctypes.c_void_p, ctypes.c_uint32)(table.value)
        anywhere = struct.pack("=H", socket.AF_INET) + bytes(14)
        assert table.value != 4711 and bind(server.fileno(), anywhere, len(anywhere)) == 0
        assert server.getsockname()[0] == "127.0.0.2" and moved == ["127.0.0.2"]
    assert table.value == 4711


@pytest.mark.parametrize("tag", [(30, 0x8), (0x6ffffffb, 0x1)], ids=["DT_FLAGS", "DT_FLAGS_1"])
def test_library_bound_at_load_is_unchanged(tag):
    table = ctypes.c_uint64(4711)
    assert Library(ctypes.addressof(table)).entries() == [ctypes.addressof(table)]
    assert Library(ctypes.addressof(table), tag).entries() == []


def test_table_in_read_only_page_is_unchanged(monkeypatch):
    libc = ctypes.CDLL(None)
    libc.mmap.restype = ctypes.c_void_p
    libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, *[ctypes.c_int] * 3, ctypes.c_long]
    page = libc.mmap(None, mmap.PAGESIZE, mmap.PROT_READ, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS, -1, 0)
    library = Library(page)
    monkeypatch.setattr(bind_address, "_loaded", lambda libraries: [(0, ctypes.addressof(library.dynamic))])
    assert library.entries() == [page]
    with bind_address.binding_to("127.0.0.2", 2222) as moved:  # Writing there would end this process.
        assert ctypes.c_uint64.from_address(page).value == 0
    assert moved == []


@pytest.mark.parametrize("hosts, rank, expected", [
    (("127.0.0.1", "127.0.0.1"), 1, "127.0.0.1"), (("localhost", "127.0.0.2"), 1, "127.0.0.2"),
    (("10.0.0.1", "10.0.0.2"), 1, "10.0.0.2"), (("[::1]", "[::1]"), 0, "::1"),
    (("[fd00::1]", "10.0.0.2"), 0, "fd00::1"),
    # Others know this machine by another address than it does itself.
    (("127.0.1.1", "10.0.0.2"), 0, None), (("no-such-host.invalid", "10.0.0.2"), 0, None)])
def test_address_of_a_worker(hosts, rank, expected):
    value = {"cluster": {"worker": [f"{host}:{2222 + i}" for i, host in enumerate(hosts)]},
             "task": {"type": "worker", "index": rank}}
    assert bind_address.own_address(Cluster.of({"TF_CONFIG": json.dumps(value)})) == expected
