"""How much memory there is, and how much of it is taken: of the machine, of the control group, of the GPUs."""
import contextlib
import ctypes
import dataclasses
import os
import re

import tensorflow as tf

MIB = 2**20
PAGE = os.sysconf("SC_PAGE_SIZE")
# A control group's files by version (Documentation/admin-guide/cgroup-v1/memory.rst, cgroup-v2.rst): its limit, what it
# holds, and of that the pages of files, which the kernel takes back when it needs them.
VERSION_1 = ("memory.limit_in_bytes", "memory.usage_in_bytes", ("total_inactive_file", "total_active_file"))
VERSION_2 = ("memory.max", "memory.current", ("inactive_file", "active_file"))


@dataclasses.dataclass(frozen=True)
class HostUse:
    """Memory of the host at a moment.

    Attributes:
      process: bytes that this process holds (its resident set).
      limit: bytes that it could have: the machine's, or fewer where its control group is limited.
      full: share in [0, 1] of the limit that is taken by all its users and cannot be taken back; of several limits
        the fullest.
    """

    process: int
    limit: int
    full: float


class HostMemory:
    """Reads the memory of the host, where Linux tells it."""

    def __init__(self, root="/"):
        """Args: root: folder under which proc and sys are."""
        self._root = root
        machine = self._machine()
        self._groups = [group for group in self._find_groups() if machine and group[1] < machine[0]]

    def read(self):
        """Returns a HostUse, or None where the system does not tell."""
        machine = self._machine()
        if machine is None:
            return None
        total, available = machine
        limit, full = total, 1 - available / total
        for folder, most, (_, usage, files) in self._groups:
            taken = self._number(folder, usage)
            if taken is not None:
                stat = _fields(self._text(folder, "memory.stat"), r"^(\w+) (\d+)$")
                full = max(full, (taken - sum(stat.get(name, 0) for name in files)) / most)
            limit = min(limit, most)
        resident = self._text("proc", "self", "statm").split()[1:2]
        return HostUse(int(resident[0]) * PAGE if resident else 0, limit, min(1.0, max(0.0, full)))

    def _machine(self):
        """Returns (bytes of the machine, bytes that are available), or None."""
        kib = _fields(self._text("proc", "meminfo"), r"^(\w+):\s+(\d+) kB$")
        if not kib.get("MemTotal") or "MemAvailable" not in kib:
            return None
        return kib["MemTotal"] * 1024, kib["MemAvailable"] * 1024

    def _find_groups(self):
        """Returns (folder, limit in bytes, file names) of the limited control groups that this process is in."""
        found = []
        for line in self._text("proc", "self", "cgroup").splitlines():
            _, controllers, path = line.split(":", 2)
            if not controllers or "memory" in controllers.split(","):
                base, names = ("sys/fs/cgroup", VERSION_2) if not controllers else ("sys/fs/cgroup/memory", VERSION_1)
                parts = [part for part in path.split("/") if part]
                # Each group lies within those above it; inside a container only some of them can be seen.
                for depth in range(len(parts) + 1):
                    folder = os.path.join(base, *parts[:depth])
                    limit = self._number(folder, names[0])
                    if limit:
                        found.append((folder, limit, names))
        return found

    def _text(self, *parts):
        with contextlib.suppress(OSError), open(os.path.join(self._root, *parts), encoding="utf-8") as file:
            return file.read()
        return ""

    def _number(self, folder, name):
        text = self._text(folder, name).strip()
        return int(text) if text.isdigit() else None


def _fields(text, pattern):
    return {name: int(number) for name, number in re.findall(pattern, text, re.MULTILINE)}


class DeviceMemory:
    """Reads the memory of the GPUs that the replicas compute on; on CPUs there is none."""

    def __init__(self, devices):
        """Args: devices: names of the replicas' devices, as of strategy.extended.worker_devices."""
        self._names = [name[name.index("GPU"):] for name in devices if "GPU" in name]
        physical = tf.config.get_visible_devices("GPU") if self._names else []
        self._totals = [gpu_memory(int(gpu.name.rsplit(":", 1)[1])) for gpu in physical]

    def read(self):
        """Returns (bytes that TensorFlow holds on the fullest GPU, their share of it or None); None on CPUs."""
        if not self._names:
            return None
        used = [tf.config.experimental.get_memory_info(name)["current"] for name in self._names]
        shares = [u / total for u, total in zip(used, self._totals, strict=False) if total]
        return max(used), max(shares, default=None)


def gpu_memory(ordinal):
    """Returns the bytes of a GPU by its CUDA ordinal, or None where the driver does not say."""
    try:
        driver = ctypes.CDLL("libcuda.so.1")
        device, size = ctypes.c_int(), ctypes.c_size_t()
        failed = (driver.cuInit(0) or driver.cuDeviceGet(ctypes.byref(device), ordinal)
                  or driver.cuDeviceTotalMem_v2(ctypes.byref(size), device))
    except (OSError, AttributeError):
        return None
    return None if failed else size.value
