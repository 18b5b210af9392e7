"""Memory of the system, with and without limits of control groups."""
import os
import types

import psutil
import pytest

from pipeline.monitoring.memory import MIB, DeviceMemory, HostMemory, gpu_memory

GIB = 2**30


@pytest.fixture
def machine(monkeypatch):
    """A machine of 16 GiB of which 4 are available."""
    monkeypatch.setattr(psutil, "virtual_memory", lambda: types.SimpleNamespace(total=16 * GIB, available=4 * GIB))


def _groups(root, groups, **files):
    """Returns the HostMemory of a system with these files about control groups."""
    for name, text in {"proc/self/cgroup": groups, **files}.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return HostMemory(str(root))


@pytest.mark.usefixtures("machine")
def test_of_a_machine_without_limits(tmp_path):
    found = _groups(tmp_path, "0::/user.slice\n").read()
    assert (found.limit, found.full) == (16 * GIB, 0.75)


@pytest.mark.usefixtures("machine")
def test_of_a_control_group_within_a_limited_one(tmp_path):
    group = "sys/fs/cgroup/pod"
    found = _groups(tmp_path, "0::/pod/inner\n", **{
        f"{group}/memory.max": f"{2 * GIB}\n", f"{group}/memory.current": f"{2 * GIB - 100 * MIB}\n",
        # Memory that the kernel can reclaim does not count.
        f"{group}/memory.stat": f"anon 5\ninactive_file {200 * MIB}\nactive_file {100 * MIB}\n",
        f"{group}/inner/memory.max": "max\n"}).read()
    assert found.limit == 2 * GIB and found.full == pytest.approx(1 - 400 / 2048)


@pytest.mark.usefixtures("machine")
def test_of_version_1_inside_a_container(tmp_path):
    base = "sys/fs/cgroup/memory"  # The container sees its own group as the topmost one.
    found = _groups(tmp_path, "7:pids:/x\n4:memory:/docker/0123\n0::/\n", **{
        f"{base}/memory.limit_in_bytes": f"{4 * GIB}\n", f"{base}/memory.usage_in_bytes": f"{3.9 * GIB:.0f}\n",
        f"{base}/memory.stat": "cache 9\ntotal_inactive_file 0\ntotal_active_file 0\n"}).read()
    assert found.limit == 4 * GIB and found.full == pytest.approx(3.9 / 4)
    unlimited = _groups(tmp_path, "4:memory:/\n", **{f"{base}/memory.limit_in_bytes": "9223372036854771712\n"}).read()
    assert unlimited.limit == 16 * GIB and unlimited.full == 0.75


def test_of_this_process():
    before = HostMemory().read()
    taken = bytearray(os.urandom(1)) * (64 * MIB)
    after = HostMemory().read()
    assert after.process - before.process == pytest.approx(len(taken), rel=0.1)
    assert 0 < after.full < 1 and after.process < after.limit


def test_replicas_on_cpus_have_no_memory_of_their_own():
    assert DeviceMemory(["/job:localhost/replica:0/task:0/device:CPU:0"]).read() is None
    assert gpu_memory(10**6) is None
