"""Checks of an installation and a machine, each with its finding and a remedy."""
import configparser
import importlib.metadata
import os
import shutil
import tempfile
import typing
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

from pipeline import locks, onednn
from pipeline.config import RuntimeConfig
from pipeline.console import Console
from pipeline.distributed import cuda, devices
from pipeline.distributed.machine import GIB
from pipeline.errors import UsageError
from pipeline.processor import cpu_features, cpu_model
from pipeline.quantities import counted

# Imports inside functions: what is missing is reported, one package after the other.

OK, WARNING, PROBLEM = "ok", "warning", "problem"
PINNED = ("tensorflow", "keras")  # Training overrides their internals, and may be wrong outside the tested range.
ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))  # Of a checkout.
GPU_EXTRA = "pip install 'mirrorline[gpu]'"


class Finding(typing.NamedTuple):
    """One line of the report: subject, state, finding and remedy."""

    name: str
    state: str
    text: str
    remedy: str = ""


def declared_requirements() -> tuple[str, list[str]]:
    """Returns (range of Python, requirements), from setup.cfg in a checkout, else from the installed package."""
    path = os.path.join(ROOT, "setup.cfg")
    parser = configparser.ConfigParser()
    if parser.read(path) and parser.get("metadata", "name", fallback="") == "mirrorline":
        return parser["options"]["python_requires"], parser["options"]["install_requires"].strip().splitlines()
    installed = importlib.metadata.distribution("mirrorline")
    return installed.metadata["Requires-Python"], [line for line in installed.requires or () if "extra ==" not in line]


def check_python(version: str, requires: str) -> Finding:
    """Checks a version of Python ("3.11.7") against a range (">=3.11,<3.14")."""
    from packaging.specifiers import SpecifierSet

    if version in SpecifierSet(requires):
        return Finding("Python", OK, version)
    return Finding("Python", PROBLEM, f"{version} is outside {requires}",
                   f"make the environment with a Python {requires}, e.g. python3.11 -m venv")


def check_packages(requirements: Sequence[str], version_of: Callable[[str], str]) -> list[Finding]:
    """Checks installed packages against the tested ranges.

    Args:
      requirements: such as "keras>=3.15,<3.16".
      version_of: returns the version of a package; raises PackageNotFoundError for a missing one.

    Returns:
      A Finding for each package that is missing or outside its range, and one for all others.
    """
    from packaging.requirements import Requirement

    good, findings = [], []
    for requirement in map(Requirement, requirements):
        remedy = f"pip install '{requirement}'"
        try:
            version = version_of(requirement.name)
        except importlib.metadata.PackageNotFoundError:
            findings.append(Finding(requirement.name, PROBLEM, "not installed", remedy))
            continue
        if requirement.specifier.contains(version, prereleases=True):
            good.append(f"{requirement.name} {version}")
        else:
            state = PROBLEM if requirement.name in PINNED else WARNING
            findings.append(Finding(requirement.name, state, f"{version} is outside the tested range "
                                                             f"{requirement.specifier}", remedy))
    return [Finding("packages", OK, ", ".join(good)), *findings] if good else findings


def check_cpu(features: Collection[str], cores: int, machine: str) -> Finding:
    """Checks the processor: TensorFlow's builds for x86 need AVX."""
    found = [name for name, mark in (("AVX2", "avx2"), ("AVX-512", "avx512f"), ("AMX", "amx_tile")) if mark in features]
    text = f"{cpu_model()}, {counted(cores, 'core')}, {', '.join(found) or 'no vector extensions known'}"
    if machine == "x86_64" and features and "avx" not in features:
        return Finding("CPU", PROBLEM, f"{text}: TensorFlow needs AVX", "use a machine whose CPU has AVX")
    return Finding("CPU", OK, text)


def check_onednn(cache_dir: str | None) -> Finding:
    """Says whether training computes with oneDNN here; measured, unless TensorFlow uses it by default."""
    if onednn.VARIABLE in os.environ:
        return Finding("oneDNN", OK, f"as the environment says: {onednn.VARIABLE}={os.environ[onednn.VARIABLE]}")
    if onednn.uses_by_default(cpu_features()):
        return Finding("oneDNN", OK, "on, as TensorFlow's default on this processor")
    gain = onednn.measured_gain(Console(quiet=True), cache_dir)
    if gain is None:
        return Finding("oneDNN", WARNING, "off; whether it is faster here could not be measured",
                       "compare mirrorline benchmark --onednn=on with --onednn=off")
    used = "on" if gain >= onednn.LEAST_GAIN else "off"
    return Finding("oneDNN", OK, f"{used}: convolutions train {gain:.1f} times as fast with it; TensorFlow "
                                 "leaves it off by default on this processor")


def check_memory(available: int, total: int) -> Finding:
    """Checks main memory, in bytes: TensorFlow and a small model take about 1 GiB."""
    text = f"{available / GIB:.1f} of {total / GIB:.1f} GiB available"
    state = OK if available >= 2 * GIB else WARNING if available >= GIB else PROBLEM
    return Finding("memory", state, text, "" if state == OK else "close other programs; 2 GiB is a comfortable minimum")


def check_tensorflow() -> Finding:
    """Checks that TensorFlow and Keras can be loaded."""
    try:
        import keras  # noqa: F401
        import tensorflow as tf
    except ImportError as error:
        return Finding("TensorFlow", PROBLEM, " ".join(str(error).split()),
                       "pip install mirrorline, into a fresh environment")
    cuda_version = tf.sysconfig.get_build_info().get("cuda_version")
    return Finding("TensorFlow", OK, f"loads; built for {f'CUDA {cuda_version}' if cuda_version else 'CPUs alone'}")


def check_gpus() -> list[Finding]:
    """Returns a Finding for each GPU that TensorFlow can use, or one that explains why it uses none."""
    import tensorflow as tf

    gpus = tf.config.list_physical_devices("GPU")
    if not gpus:
        return [explain_no_gpu(cuda.hardware(), cuda.driver_version(), tf.sysconfig.get_build_info(),
                               os.environ.get("CUDA_VISIBLE_DEVICES"))]
    sizes, driver = [size for _, size in cuda.installed_gpus()], cuda.driver_version() or "unknown"
    findings = []
    for i, gpu in enumerate(gpus):
        details = tf.config.experimental.get_device_details(gpu)
        capability = ".".join(map(str, details.get("compute_capability", ("unknown",))))
        # The driver counts every GPU, TensorFlow those in CUDA_VISIBLE_DEVICES.
        size = f"{sizes[i] / 1024:.0f} GiB, " if len(sizes) == len(gpus) else ""
        findings.append(Finding(f"GPU {i}", OK, f"{details.get('device_name', 'unnamed')}, {size}compute capability "
                                                f"{capability}, driver {driver}"))
    return findings


def explain_no_gpu(hardware: str | None, driver: str | None, build: Mapping[str, Any], visible: str | None = None,
                   folders: Sequence[str] | None = None) -> Finding:
    """Returns the Finding for a machine on which TensorFlow finds no GPU.

    Args:
      hardware: description of the GPU, of cuda.hardware; None without one.
      driver: the driver's version, None if none is loaded.
      build: tf.sysconfig.get_build_info().
      visible: the value of CUDA_VISIBLE_DEVICES.
      folders: searched for CUDA's libraries in addition to the system's; None: NVIDIA's Python packages.
    """
    if not hardware:
        return Finding("GPU", OK, "none in this machine: training runs on the CPU")
    found = f"an NVIDIA GPU is here ({hardware}), but TensorFlow cannot use it: training runs on the CPU"
    if visible is not None and (not visible or visible.startswith("-")):
        return Finding("GPU", WARNING, f"{found}; CUDA_VISIBLE_DEVICES='{visible}' hides it",
                       "unset CUDA_VISIBLE_DEVICES")
    if not build.get("cuda_version"):
        return Finding("GPU", WARNING, f"{found}; this TensorFlow is built for CPUs alone", GPU_EXTRA)
    if not driver:
        return Finding("GPU", WARNING, f"{found}; no NVIDIA driver is loaded", "install NVIDIA's driver")
    oldest = cuda.driver_too_old(driver, build["cuda_version"])
    if oldest:
        return Finding("GPU", WARNING, f"{found}; driver {driver} is too old for CUDA {build['cuda_version']}",
                       f"install NVIDIA's driver {oldest} or newer")
    missing = cuda.missing_libraries(cuda.library_names(build["cuda_version"], build["cudnn_version"]), folders)
    if missing:
        named = ", ".join(name if why == "not found" else f"{name} ({why})" for name, why in missing.items())
        of_driver = list(missing) == ["libcuda.so.1"]
        return Finding("GPU", WARNING, f"{found}; missing: {named}",
                       "give the container the driver's libraries (docker run --gpus=all)" if of_driver else GPU_EXTRA)
    return Finding("GPU", WARNING, f"{found}, although driver {driver} and every CUDA library are present",
                   "TF_CPP_MIN_LOG_LEVEL=0 mirrorline doctor --verbosity=debug shows TensorFlow's log")


def check_replicas(settings: RuntimeConfig) -> Finding:
    """Checks the reduction across the replicas: every GPU, or two logical CPUs."""
    import tensorflow as tf

    gpus = len(tf.config.list_physical_devices("GPU"))
    try:
        kind, indices = devices.choose_devices(gpus, settings.devices, settings.replicas or (0 if gpus else 2))
        devices.check_cross_device_reduction(settings.cross_device_reduction, kind, len(indices))
    except UsageError as error:
        return Finding("reduction", PROBLEM, str(error), "request devices that exist")
    return check_reduction(devices.open_strategy(kind, indices, settings.cross_device_reduction))


def check_reduction(strategy: Any) -> Finding:
    """Checks the reduction of a strategy by the self-test of training."""
    from pipeline.training import self_test

    name = self_test.reduction_name(strategy)
    try:
        fault = self_test.find_fault(strategy)
    except Exception as error:  # Whatever TensorFlow raises is the finding.
        fault = f"{type(error).__name__}: {' '.join(str(error).split()) or 'no message'}"
    if fault:
        return Finding("reduction", PROBLEM, f"{name}: {fault}", self_test.remedy(strategy))
    tried = "" if strategy.num_replicas_in_sync == 1 else f": {max(self_test.SIZES):,} sums are correct on each"
    return Finding("reduction", OK, name + tried)


def check_data_dir(data_dir: str | None) -> Finding:
    """Checks which prepared TensorFlow Datasets are in a folder; None: the default folder, which need not exist."""
    from pipeline.data.sources.tfds_prepare import default_data_dir

    try:
        folder = os.path.abspath(data_dir or default_data_dir())
    except UsageError as error:
        return Finding("data sets", WARNING, f"digits is built in; {error}", "set HOME, or give --data_dir")
    if not os.path.isdir(folder):
        if data_dir is None:
            return Finding("data sets", OK, f"digits is built in; {folder} is created when another one is downloaded")
        return Finding("data sets", PROBLEM, f"--data_dir={data_dir} is no folder", "give the folder that holds "
                       "<data set>/<version>, or leave --data_dir out to download")
    if not os.access(folder, os.R_OK | os.X_OK):
        return Finding("data sets", PROBLEM, f"{folder} cannot be read", f"make {folder} readable")
    found = prepared_datasets(folder)
    if found:
        return Finding("data sets", OK, f"digits is built in; in {folder}: {', '.join(found)}")
    return Finding("data sets", OK if data_dir is None else WARNING, f"digits is built in; none prepared in {folder}",
                   "" if data_dir is None else "it must contain <data set>/<version>/dataset_info.json")


def prepared_datasets(folder: str) -> list[str]:
    """Returns "name version" of each prepared data set: folders with a dataset_info.json."""
    found = []
    for parent, folders, files in os.walk(folder):
        depth = os.path.relpath(parent, folder).split(os.sep)
        if "dataset_info.json" in files:
            found.append(f"{'/'.join(depth[:-1])} {depth[-1]}")
        if len(depth) >= 3 or "dataset_info.json" in files:  # name/version or name/config/version
            folders.clear()
    return sorted(found)


def existing_parent(path: str) -> str:
    """Returns the innermost existing folder or file of a path."""
    path = os.path.abspath(path)
    while not os.path.lexists(path):
        path = os.path.dirname(path)
    return path


def check_workdir(workdir: str) -> Finding:
    """Checks that files can be written where the run would be; leaves none behind."""
    folder = existing_parent(workdir)
    remedy = "give another one with --workdir"
    if not os.path.isdir(folder):
        return Finding("workdir", PROBLEM, f"{folder} is a file", remedy)
    try:
        with tempfile.TemporaryFile(dir=folder) as file:
            file.write(b"written")
            file.flush()
        unlocked = locks.missing(folder)
    except OSError as error:
        return Finding("workdir", PROBLEM, f"cannot write into {folder}: {error.strerror}", remedy)
    if unlocked:
        return Finding("workdir", WARNING, f"the file system of {folder} has no flock ({unlocked}): a file keeps other "
                       "processes out of a run instead, and has to be removed by hand after a crash of the machine",
                       "mount it with locks (Lustre: -o flock; NFS: its lock daemon), or give another one with "
                       "--workdir")
    return Finding("workdir", OK, f"{os.path.abspath(workdir)} can be written")


def check_disk(workdir: str, free: int | None = None) -> Finding:
    """Checks the free disk space where the run would be written, in bytes; None: of the file system."""
    folder = existing_parent(workdir)
    free = shutil.disk_usage(folder).free if free is None else free
    state = OK if free >= 2 * GIB else WARNING if free >= GIB // 4 else PROBLEM
    return Finding("disk", state, f"{free / GIB:.1f} GiB free at {folder}",
                   "" if state == OK else "free some space, or use another disk with --workdir")
