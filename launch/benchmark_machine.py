"""What the figures of a benchmark belong to: the machine, and the versions of what computed them."""
import hashlib
import importlib.metadata
import os
import platform
import shutil
import subprocess

from launch import __version__, checks
from pipeline import config, runtime

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
    features = runtime.cpu_features()
    return {"cpu": checks.cpu_model(), "cores": len(os.sched_getaffinity(0)),
            "memory_gib": round(checks.memory()[1] / checks.GIB, 1), "gpus": gpu_names(), "system": platform.platform(),
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
