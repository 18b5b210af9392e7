"""The machine that figures belong to, and the versions of what computed them."""
import hashlib
import importlib.metadata
import os
import platform
import re
import shutil
import subprocess

from pipeline import config
from pipeline.distributed import devices
from pipeline.version import __version__

GIB = 2**30
# What besides flags, versions and machine changes speed.
ENVIRONMENT = ("XLA_FLAGS", "TF_XLA_FLAGS", "TF_ENABLE_ONEDNN_OPTS", "TF_NUM_INTRAOP_THREADS", "OMP_NUM_THREADS",
               "TF_NUM_INTEROP_THREADS", "CUDA_VISIBLE_DEVICES", "NVIDIA_TF32_OVERRIDE", "TF_GPU_ALLOCATOR")
FEATURES = ("avx2", "avx512f", "avx512_bf16", "amx_bf16", "amx_tile", "asimd", "sve", "bf16")


def versions():
    """Returns the versions that figures belong to; `code` is a digest of the source that a cell runs."""
    package = os.path.dirname(os.path.abspath(config.__file__))
    digest = hashlib.sha256()
    for parent, folders, files in os.walk(package):
        folders.sort()
        for name in sorted(files):
            if name.endswith(".py"):
                with open(os.path.join(parent, name), "rb") as file:
                    digest.update(name.encode() + file.read())
    return {"mirrorline": __version__, "code": digest.hexdigest()[:12], "python": platform.python_version(),
            **{name: importlib.metadata.version(name) for name in ("tensorflow", "keras", "numpy")}}


def machine():
    """Returns the machine that figures belong to."""
    features = devices.cpu_features()
    return {"cpu": cpu_model(), "cores": len(os.sched_getaffinity(0)),
            "memory_gib": round(memory()[1] / GIB, 1), "gpus": gpu_names(),
            "system": platform.platform(),
            "features": [name for name in FEATURES if name in features],
            "environment": {name: os.environ[name] for name in ENVIRONMENT if name in os.environ}}


def gpu_names():
    """Returns the names of the GPUs as nvidia-smi gives them, [] where it does not answer."""
    program = shutil.which("nvidia-smi")
    try:
        answer = subprocess.run([program, "--query-gpu=name", "--format=csv,noheader"], capture_output=True,
                                encoding="utf-8", errors="replace", timeout=20, check=True).stdout if program else ""
    except (OSError, subprocess.SubprocessError):
        return []
    return [line.strip() for line in answer.splitlines() if line.strip()]


def cpu_model(path="/proc/cpuinfo"):
    """Returns the name of the processor."""
    if os.path.exists(path):
        with open(path, encoding="utf-8", errors="replace") as file:
            match = re.search(r"^model name\s*:\s*(.+)$", file.read(), re.MULTILINE)
        if match:
            return match[1].strip()
    return platform.processor() or platform.machine()


def memory(meminfo="/proc/meminfo", limit="/sys/fs/cgroup/memory.max"):
    """Returns (available, total) main memory in bytes, within the limit of a container where there is one."""
    with open(meminfo, encoding="utf-8") as file:
        sizes = {line.split(":")[0]: int(line.split()[1]) * 1024 for line in file}
    available, total = sizes["MemAvailable"], sizes["MemTotal"]
    if os.path.exists(limit):
        with open(limit, encoding="utf-8") as file:
            text = file.read().strip()
        if text.isdigit():
            available, total = min(available, int(text)), min(total, int(text))
    return available, total
