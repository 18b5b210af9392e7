"""Memory in total and in use: of the machine, of the process's control group, of the GPUs."""
import contextlib
import ctypes
import dataclasses
import os
import re
from collections.abc import Sequence

import psutil
import tensorflow as tf

MIB = 2**20
# Files of a memory control group by version (Documentation/admin-guide/cgroup-v1/memory.rst, cgroup-v2.rst): its limit,
# its usage, and the names in memory.stat of cached files, which the kernel takes back when it needs them.
VERSION_1 = ("memory.limit_in_bytes", "memory.usage_in_bytes", ("total_inactive_file", "total_active_file"))
VERSION_2 = ("memory.max", "memory.current", ("inactive_file", "active_file"))


@dataclasses.dataclass(frozen=True)
class HostUse:
    """Memory of the host at a moment.

    Attributes:
      process: bytes that this process holds (its resident set).
      limit: bytes available to it: the machine's, or fewer where its control group is limited.
      full: share in [0, 1] of the limit that is in use by anyone and cannot be reclaimed; of several limits the
        fullest.
    """

    process: int
    limit: int
    full: float


class HostMemory:
    """Reads the memory of the host."""

    def __init__(self, root: str = "/"):
        """Args: root: folder under which proc and sys are found."""
        self._root, self._process = root, psutil.Process()
        self._groups = [group for group in self._find_groups() if group[1] < psutil.virtual_memory().total]

    def read(self) -> HostUse:
        """Returns the use of memory now."""
        machine = psutil.virtual_memory()
        limit, full = machine.total, 1 - machine.available / machine.total
        for folder, most, (_, usage, files) in self._groups:
            used = self._number(folder, usage)
            if used is not None:
                stat = dict(re.findall(r"^(\w+) (\d+)$", self._text(folder, "memory.stat"), re.MULTILINE))
                full = max(full, (used - sum(int(stat.get(name, 0)) for name in files)) / most)
            limit = min(limit, most)
        return HostUse(self._process.memory_info().rss, limit, min(1.0, max(0.0, full)))

    def _find_groups(self) -> list[tuple[str, int, tuple]]:
        """Returns (folder, limit in bytes, file names) of the limited control groups that this process is in."""
        found = []
        for line in self._text("proc", "self", "cgroup").splitlines():
            _, controllers, path = line.split(":", 2)
            if not controllers or "memory" in controllers.split(","):
                base, names = ("sys/fs/cgroup", VERSION_2) if not controllers else ("sys/fs/cgroup/memory", VERSION_1)
                parts = [part for part in path.split("/") if part]
                # Each group lies within those above it; a container sees only some of them.
                for depth in range(len(parts) + 1):
                    folder = os.path.join(base, *parts[:depth])
                    limit = self._number(folder, names[0])
                    if limit:
                        found.append((folder, limit, names))
        return found

    def _text(self, *parts: str) -> str:
        with contextlib.suppress(OSError), open(os.path.join(self._root, *parts), encoding="utf-8") as file:
            return file.read()
        return ""

    def _number(self, folder: str, name: str) -> int | None:
        text = self._text(folder, name).strip()
        return int(text) if text.isdigit() else None


class DeviceMemory:
    """Reads the memory of the GPUs that the replicas compute on."""

    def __init__(self, devices: Sequence[str]):
        """Args: devices: names of the replicas' devices, as in strategy.extended.worker_devices."""
        self._names = [name[name.index("GPU"):] for name in devices if "GPU" in name]
        physical = tf.config.get_visible_devices("GPU") if self._names else []
        self._totals = [gpu_memory(int(gpu.name.rsplit(":", 1)[1])) for gpu in physical]

    def read(self) -> tuple[int, float | None] | None:
        """Returns (bytes that TensorFlow holds on the fullest GPU, their share of it or None); None on CPUs."""
        if not self._names:
            return None
        used = [tf.config.experimental.get_memory_info(name)["current"] for name in self._names]
        shares = [u / total for u, total in zip(used, self._totals, strict=False) if total]
        return max(used), max(shares, default=None)


def gpu_memory(ordinal: int) -> int | None:
    """Returns the bytes of a GPU by its CUDA ordinal, or None without a driver or such a GPU.

    NVML (nvidia-ml-py) numbers GPUs in another order, and ignores CUDA_VISIBLE_DEVICES.
    """
    try:
        driver = ctypes.CDLL("libcuda.so.1")
        device, size = ctypes.c_int(), ctypes.c_size_t()
        failed = (driver.cuInit(0) or driver.cuDeviceGet(ctypes.byref(device), ordinal)
                  or driver.cuDeviceTotalMem_v2(ctypes.byref(size), device))
    except (OSError, AttributeError):
        return None
    return None if failed else size.value
