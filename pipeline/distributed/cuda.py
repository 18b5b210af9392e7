"""NVIDIA's hardware, driver and libraries on this machine: which GPUs TensorFlow can use, and why it uses none."""
import ctypes
import functools
import glob
import importlib.util
import json
import os
import re
import subprocess
import sys
from collections.abc import Sequence

from pipeline.errors import RunFailure
from pipeline.quantities import counted

OLDEST_DRIVER = {12: 525, 13: 580}  # By major version of CUDA: the oldest major version of the driver.
# Version in a library's file name, where it is not that of CUDA itself.
OWN_VERSION = {12: {"cufft": 11, "cusolver": 11}, 13: {"cufft": 12, "cusolver": 12, "cusparse": 12}}
# In the order in which they depend on one another.
LIBRARIES = ("cudart", "nvJitLink", "cublasLt", "cublas", "cufft", "cusparse", "cusolver")


def hardware(root: str | os.PathLike = "/") -> str | None:
    """Returns a description of the NVIDIA GPUs of this machine, or None without any.

    They are found on the PCI bus without a driver, and by their device files in a container.
    """
    nodes = glob.glob(os.path.join(root, "dev/nvidia[0-9]*"))
    if nodes or glob.glob(os.path.join(root, "proc/driver/nvidia/gpus/*")):
        return f"{counted(len(nodes), 'device file')} /dev/nvidia*"
    displays = [device for device in glob.glob(os.path.join(root, "sys/bus/pci/devices/*"))
                if _read(os.path.join(device, "vendor")).strip() == "0x10de"
                and _read(os.path.join(device, "class")).startswith("0x03")]
    return f"{len(displays)} on the PCI bus" if displays else None


_CAPABILITIES = """
import json, tensorflow as tf
gpus = tf.config.list_physical_devices("GPU")
print(json.dumps([tf.config.experimental.get_device_details(gpu).get("compute_capability", (0, 0)) for gpu in gpus]))
"""


@functools.cache
def compute_capabilities() -> tuple[tuple[int, int], ...]:
    """Returns the compute capability (major, minor) of each GPU that TensorFlow can use, in its order; 0.0: unknown.

    TensorFlow is loaded in another process, and only where the machine has a GPU.

    Raises:
      RunFailure: TensorFlow cannot be loaded.
    """
    if not hardware():
        return ()
    asked = subprocess.run([sys.executable, "-c", _CAPABILITIES], capture_output=True, encoding="utf-8",
                           errors="replace", env={**os.environ, "KERAS_HOME": os.devnull})
    if asked.returncode:
        raise RunFailure("TensorFlow cannot be loaded; run 'mirrorline doctor' to see what is missing")
    return tuple((major, minor) for major, minor in json.loads(asked.stdout.splitlines()[-1]))


def count_gpus() -> int:
    """Returns how many GPUs TensorFlow can use, as `compute_capabilities` finds them."""
    return len(compute_capabilities())


def driver_version(root: str | os.PathLike = "/") -> str | None:
    """Returns the version of the NVIDIA driver ("550.54.14"), or None where none is loaded."""
    match = re.search(r"Kernel Module\D*(\d+(?:\.\d+)+)", _read(os.path.join(root, "proc/driver/nvidia/version")))
    return match[1] if match else None


def driver_too_old(version: str, cuda_version: str) -> int | None:
    """Returns the major version of the driver that a CUDA version needs, or None for a driver that is new enough."""
    oldest = OLDEST_DRIVER.get(int(cuda_version.split(".")[0]))
    return oldest if oldest and int(version.split(".")[0]) < oldest else None


def library_names(cuda_version: str, cudnn_version: str) -> list[str]:
    """Returns the file names that a build of TensorFlow opens, e.g. libcudart.so.12, in loading order.

    Args:
      cuda_version: of the build, as in tf.sysconfig.get_build_info() ("12.5.1").
      cudnn_version: likewise ("9").
    """
    major = int(cuda_version.split(".")[0])
    own = OWN_VERSION.get(major, {})
    names = [f"lib{name}.so.{own.get(name, major)}" for name in LIBRARIES]
    return ["libcuda.so.1", *names, f"libcudnn.so.{cudnn_version.split('.')[0]}", "libnccl.so.2"]


def missing_libraries(names: Sequence[str], folders: Sequence[str] | None = None) -> dict[str, str]:
    """Returns {file name: reason} of the libraries that cannot be opened.

    Args:
      names: file names, as of `library_names`.
      folders: searched in addition to the system's; None: NVIDIA's packages in this Python environment.
    """
    folders = wheel_folders() if folders is None else folders
    missing = {}
    for name in names:
        files = [path for path in (os.path.join(folder, name) for folder in folders) if os.path.exists(path)]
        reasons = []
        for candidate in [*files, name]:
            try:
                ctypes.CDLL(candidate, mode=ctypes.RTLD_GLOBAL)
                break
            except OSError as error:
                reasons.append(str(error))
        else:
            missing[name] = reasons[0] if files else "not found"
    return missing


def wheel_folders() -> list[str]:
    """Returns the library folders of NVIDIA's packages in this Python environment."""
    spec = importlib.util.find_spec("nvidia")
    roots = list(spec.submodule_search_locations or ()) if spec else []
    return sorted(folder for root in roots for folder in glob.glob(os.path.join(root, "*", "lib")))


def installed_gpus() -> list[tuple[str, int]]:
    """Returns (name, memory in MiB) of every GPU as the driver reports it (NVML); [] without a driver that answers."""
    import pynvml  # Only machines with a GPU have use for it.
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:
        return []
    try:
        handles = [pynvml.nvmlDeviceGetHandleByIndex(i) for i in range(pynvml.nvmlDeviceGetCount())]
        return [(pynvml.nvmlDeviceGetName(handle), pynvml.nvmlDeviceGetMemoryInfo(handle).total // 2**20)
                for handle in handles]
    except pynvml.NVMLError:
        return []
    finally:
        pynvml.nvmlShutdown()


def _read(path: str) -> str:
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return file.read()
    except OSError:
        return ""
