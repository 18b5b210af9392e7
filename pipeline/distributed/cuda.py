"""Which GPUs TensorFlow uses, and why it uses none: what of NVIDIA's hardware, driver and libraries is there."""
import ctypes
import glob
import importlib.util
import os
import re
import shutil
import subprocess
import sys

from pipeline.errors import RunFailure
from pipeline.quantities import counted

OLDEST_DRIVER = {12: 525, 13: 580}  # major version of the driver that runs a CUDA of this major version
# Version in a library's file name, where it is not that of CUDA itself.
OWN_VERSION = {12: {"cufft": 11, "cusolver": 11}, 13: {"cufft": 12, "cusolver": 12, "cusparse": 12}}
# In the order in which they need one another.
LIBRARIES = ("cudart", "nvJitLink", "cublasLt", "cublas", "cufft", "cusparse", "cusolver")


def hardware(root="/"):
    """Returns how the machine shows that it has an NVIDIA GPU, in words, or None where nothing does.

    The PCI bus tells it without a driver; in a container the device files do.
    """
    nodes = glob.glob(os.path.join(root, "dev/nvidia[0-9]*"))
    if nodes or glob.glob(os.path.join(root, "proc/driver/nvidia/gpus/*")):
        return f"{counted(len(nodes), 'device file')} /dev/nvidia*"
    displays = [device for device in glob.glob(os.path.join(root, "sys/bus/pci/devices/*"))
                if _read(os.path.join(device, "vendor")).strip() == "0x10de"
                and _read(os.path.join(device, "class")).startswith("0x03")]
    return f"{len(displays)} on the PCI bus" if displays else None


def count_gpus():
    """Returns how many GPUs TensorFlow can use; asks it, in another process, only where there is one.

    Raises:
      RunFailure: TensorFlow cannot be loaded.
    """
    if not hardware():
        return 0
    asked = subprocess.run([sys.executable, "-c", "import tensorflow as tf\n"
                            "print(len(tf.config.list_physical_devices('GPU')))"], capture_output=True,
                           encoding="utf-8", errors="replace", env={**os.environ, "KERAS_HOME": os.devnull})
    if asked.returncode:
        raise RunFailure("TensorFlow cannot be loaded; 'mirrorline doctor' says what is missing")
    return int(asked.stdout.split()[-1])


def driver_version(root="/"):
    """Returns the version of the NVIDIA driver ("550.54.14"), or None where none is loaded."""
    match = re.search(r"Kernel Module\D*(\d+(?:\.\d+)+)", _read(os.path.join(root, "proc/driver/nvidia/version")))
    return match[1] if match else None


def driver_too_old(version, cuda_version):
    """Returns the major version of the driver that this CUDA needs, or None where the driver is new enough."""
    oldest = OLDEST_DRIVER.get(int(cuda_version.split(".")[0]))
    return oldest if oldest and int(version.split(".")[0]) < oldest else None


def library_names(cuda_version, cudnn_version):
    """Returns the file names that a build of TensorFlow opens, e.g. libcudart.so.12, in loading order.

    Args:
      cuda_version: of the build, as in tf.sysconfig.get_build_info() ("12.5.1").
      cudnn_version: likewise ("9").
    """
    major = int(cuda_version.split(".")[0])
    own = OWN_VERSION.get(major, {})
    names = [f"lib{name}.so.{own.get(name, major)}" for name in LIBRARIES]
    return ["libcuda.so.1", *names, f"libcudnn.so.{cudnn_version.split('.')[0]}", "libnccl.so.2"]


def missing_libraries(names, folders=None):
    """Returns {file name: why} of the libraries that cannot be opened.

    Args:
      names: file names, as of `library_names`.
      folders: where to look beside the system's own places; None: NVIDIA's packages in this Python environment.
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


def wheel_folders():
    """Returns the library folders of NVIDIA's packages in this Python environment."""
    spec = importlib.util.find_spec("nvidia")
    roots = list(spec.submodule_search_locations or ()) if spec else []
    return sorted(folder for root in roots for folder in glob.glob(os.path.join(root, "*", "lib")))


def reported_memory():
    """Returns the memory of each GPU in MiB as nvidia-smi reports it, in its order; [] where it does not answer."""
    program = shutil.which("nvidia-smi")
    if not program:
        return []
    try:
        answer = subprocess.run([program, "--query-gpu=memory.total", "--format=csv,noheader,nounits"],
                                capture_output=True, encoding="utf-8", errors="replace", timeout=20, check=True).stdout
        return [int(line) for line in answer.split()]
    except (OSError, ValueError, subprocess.SubprocessError):
        return []


def _read(path):
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return file.read()
    except OSError:
        return ""
