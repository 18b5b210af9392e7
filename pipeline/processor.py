"""The processor, as Linux describes it. Standard library only."""
import os
import pathlib
import platform
import re

CPUINFO = "/proc/cpuinfo"


def cpu_features(path: str | os.PathLike = CPUINFO) -> set[str]:
    """Returns the features that the CPU reports ("avx2", "avx512f", "amx_bf16"); empty where they are unknown."""
    if os.path.exists(path):
        for line in pathlib.Path(path).read_text("utf-8", "replace").splitlines():
            name, _, value = line.partition(":")
            if name.strip() in ("flags", "Features"):
                return set(value.split())
    return set()


def cpu_model(path: str | os.PathLike = CPUINFO) -> str:
    """Returns the name of the processor, which psutil and `platform` do not know."""
    if os.path.exists(path):
        match = re.search(r"^model name\s*:\s*(.+)$", pathlib.Path(path).read_text("utf-8", "replace"), re.MULTILINE)
        if match:
            return match[1].strip()
    return platform.processor() or platform.machine()
