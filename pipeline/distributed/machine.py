"""The machine and the versions of the software that measured figures belong to."""
import hashlib
import importlib.metadata
import os
import pathlib
import platform
from typing import Any

import psutil

from pipeline import config
from pipeline.distributed import cuda
from pipeline.processor import cpu_features, cpu_model
from pipeline.version import __version__

GIB = 2**30
# Variables that change the speed, besides flags, versions and machine.
ENVIRONMENT = ("XLA_FLAGS", "TF_XLA_FLAGS", "TF_ENABLE_ONEDNN_OPTS", "TF_NUM_INTRAOP_THREADS", "OMP_NUM_THREADS",
               "TF_NUM_INTEROP_THREADS", "CUDA_VISIBLE_DEVICES", "NVIDIA_TF32_OVERRIDE", "TF_GPU_ALLOCATOR")
FEATURES = ("avx2", "avx512f", "avx512_bf16", "amx_bf16", "amx_tile", "asimd", "sve", "bf16")


def versions() -> dict[str, str]:
    """Returns the versions of the software; `code` is a digest of the source of this package."""
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


def machine() -> dict[str, Any]:
    """Returns a description of this machine, as JSON."""
    features = cpu_features()
    return {"cpu": cpu_model(), "cores": len(os.sched_getaffinity(0)), "memory_gib": round(memory()[1] / GIB, 1),
            "gpus": [name for name, _ in cuda.installed_gpus()], "system": platform.platform(),
            "features": [name for name in FEATURES if name in features],
            "environment": {name: os.environ[name] for name in ENVIRONMENT if name in os.environ}}


def memory(limit: str | os.PathLike = "/sys/fs/cgroup/memory.max") -> tuple[int, int]:
    """Returns (available, total) main memory in bytes, at most the limit of the container."""
    found = psutil.virtual_memory()
    text = pathlib.Path(limit).read_text("utf-8").strip() if os.path.exists(limit) else ""
    bound = int(text) if text.isdigit() else found.total
    return min(found.available, bound), min(found.total, bound)
