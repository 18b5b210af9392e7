"""The doctor's checks, each given an environment that is ill."""
import ctypes.util
import json
import os
import subprocess
import sys
import types
from importlib.metadata import PackageNotFoundError

import psutil
import pytest
import tensorflow as tf
from absl import flags

from launch.commands import doctor
from pipeline.config import ExperimentConfig, RuntimeConfig
from pipeline.distributed import cuda, machine, reduction
from pipeline.verification import installation
from pipeline.verification.installation import OK, PROBLEM, WARNING, Finding
from tests.commands import REPOSITORY, mirrorline


def version_of(installed):
    def version(name):
        if name not in installed:
            raise PackageNotFoundError(name)
        return installed[name]
    return version


@pytest.mark.parametrize("version, state", [("3.11.0", OK), ("3.13.9", OK), ("3.10.13", PROBLEM), ("3.14.0", PROBLEM)])
def test_python_s_version(version, state):
    assert installation.check_python(version, installation.declared_requirements()[0]).state == state


def test_packages_outside_their_range_or_missing_are_named_with_the_remedy():
    requirements = ["tensorflow>=2.21,<2.22", "keras>=3.15,<3.16", "rich>=14,<16", "absl-py>=2"]
    findings = installation.check_packages(requirements, version_of({"tensorflow": "2.21.0", "keras": "3.16.0",
                                                               "rich": "13.1"}))
    assert findings == [
        Finding("packages", OK, "tensorflow 2.21.0"),
        Finding("keras", PROBLEM, "3.16.0 is outside the tested range <3.16,>=3.15", "pip install 'keras<3.16,>=3.15'"),
        Finding("rich", WARNING, "13.1 is outside the tested range <16,>=14", "pip install 'rich<16,>=14'"),
        Finding("absl-py", PROBLEM, "not installed", "pip install 'absl-py>=2'")]


def test_the_declared_packages_are_those_of_setup_cfg():
    requires_python, requirements = installation.declared_requirements()
    assert requires_python.startswith(">=3.11")
    assert {line.split(">")[0] for line in requirements} >= {
        "tensorflow", "keras", "tensorflow-datasets", "absl-py", "tensorboard", "scikit-learn", "matplotlib", "rich",
        "importlib_resources"}
    assert all(">=" in line for line in requirements)


@pytest.mark.parametrize("features, machine, state, text", [
    ({"avx", "avx2", "avx512f", "amx_tile"}, "x86_64", OK, "4 cores, AVX2, AVX-512, AMX"),
    ({"sse2"}, "x86_64", PROBLEM, "TensorFlow needs AVX"),
    ({"asimd"}, "aarch64", OK, "4 cores"),
])
def test_cpu(features, machine, state, text):
    found = installation.check_cpu(features, 4, machine)
    assert found.state == state and text in found.text


def test_memory_is_bounded_by_the_container(tmp_path, monkeypatch):
    found = types.SimpleNamespace(total=2**34, available=2**33)
    monkeypatch.setattr(psutil, "virtual_memory", lambda: found)
    (tmp_path / "limit").write_text("1610612736\n")
    (tmp_path / "max").write_text("max\n")
    gib = 2**30
    assert machine.memory(tmp_path / "none") == (8 * gib, 16 * gib)
    assert machine.memory(tmp_path / "max") == (8 * gib, 16 * gib)
    assert machine.memory(tmp_path / "limit") == (1.5 * gib, 1.5 * gib)
    assert [installation.check_memory(n * gib, 16 * gib).state for n in (8, 1.5, 0.5)] == [OK, WARNING, PROBLEM]


class Driver:
    """NVML of a machine with GPUs of these names and sizes in MiB; None: without a driver."""

    NVMLError = OSError

    def __init__(self, gpus):
        self.gpus, self.is_open = gpus, False

    def nvmlInit(self):
        if self.gpus is None:
            raise self.NVMLError("Driver Not Loaded")
        self.is_open = True

    def nvmlShutdown(self):
        self.is_open = False

    def nvmlDeviceGetCount(self):
        return len(self.gpus)

    def nvmlDeviceGetHandleByIndex(self, index):
        return self.gpus[index]

    def nvmlDeviceGetName(self, gpu):
        return gpu[0]

    def nvmlDeviceGetMemoryInfo(self, gpu):
        return types.SimpleNamespace(total=gpu[1] * 2**20 + 512)


@pytest.mark.parametrize("gpus, listed", [([("NVIDIA H200", 143771), ("NVIDIA A2", 15356)],) * 2, (None, [])])
def test_gpus_are_listed_by_the_driver(monkeypatch, gpus, listed):
    driver = Driver(gpus)
    monkeypatch.setitem(sys.modules, "pynvml", driver)
    assert cuda.installed_gpus() == listed and not driver.is_open


BUILD = {"cuda_version": "12.5.1", "cudnn_version": "9", "is_cuda_build": True}


def test_libraries_of_a_build_are_known_by_name():
    assert set(cuda.library_names("12.5.1", "9")) == {
        "libcuda.so.1", "libcudart.so.12", "libcublas.so.12", "libcublasLt.so.12", "libcufft.so.11",
        "libcusolver.so.11", "libcusparse.so.12", "libnvJitLink.so.12", "libcudnn.so.9", "libnccl.so.2"}
    assert {"libcufft.so.12", "libcusolver.so.12", "libcublas.so.13"} < set(cuda.library_names("13.0", "9.1"))


def test_a_library_is_missing_present_or_broken(tmp_path):
    (tmp_path / "libbroken.so.1").write_bytes(b"not a library" * 1000)
    present = ctypes.util.find_library("c")
    missing = cuda.missing_libraries([present, "libnowhere.so.9", "libbroken.so.1"], [str(tmp_path)])
    assert missing["libnowhere.so.9"] == "not found"
    assert "libbroken.so.1" in missing["libbroken.so.1"] and "invalid ELF header" in missing["libbroken.so.1"]
    assert present not in missing


def test_a_library_in_a_python_package_is_found(tmp_path):
    path = next(line.split()[-1] for line in open("/proc/self/maps") if "libc.so" in line)
    os.symlink(path, tmp_path / "libonlyhere.so.1")
    assert cuda.missing_libraries(["libonlyhere.so.1"], [str(tmp_path)]) == {}
    assert cuda.missing_libraries(["libonlyhere.so.1"], []) == {"libonlyhere.so.1": "not found"}


def nvidia_machine(root, driver=None, bus=False):
    (root / "dev").mkdir()
    (root / "proc/driver/nvidia").mkdir(parents=True)
    if bus:
        device = root / "sys/bus/pci/devices/0000:01:00.0"
        device.mkdir(parents=True)
        (device / "vendor").write_text("0x10de\n")
        (device / "class").write_text("0x030200\n")
    else:
        (root / "dev/nvidia0").write_text("")
    if driver:
        (root / "proc/driver/nvidia/version").write_text(
            f"NVRM version: NVIDIA UNIX x86_64 Kernel Module  {driver}  Thu Feb 22\nGCC version: gcc 12.2.0\n")
    return cuda.hardware(root), cuda.driver_version(root)


@pytest.mark.parametrize("driver, bus, visible, text, remedy", [
    (None, True, None, "no NVIDIA driver is loaded", "install NVIDIA's driver"),
    ("470.223.02", False, None, "driver 470.223.02 is too old for CUDA 12.5.1", "install NVIDIA's driver 525 or newer"),
    ("550.54.14", False, "-1", "CUDA_VISIBLE_DEVICES='-1' hides it", "unset CUDA_VISIBLE_DEVICES"),
    ("550.54.14", False, None, "libcudnn.so.9", "pip install 'mirrorline[gpu]'"),
])
def test_a_gpu_that_is_not_used_is_explained(tmp_path, driver, bus, visible, text, remedy):
    hardware, version = nvidia_machine(tmp_path, driver, bus)
    assert hardware and version == driver
    found = installation.explain_no_gpu(hardware, version, BUILD, visible, folders=[])
    assert (found.state, found.remedy) == (WARNING, remedy)
    assert "an NVIDIA GPU is here" in found.text and text in found.text


def test_a_machine_without_a_gpu_is_well(tmp_path):
    assert cuda.hardware(tmp_path) is None
    assert installation.explain_no_gpu(None, None, BUILD).state == OK


def test_a_tensorflow_without_cuda_is_explained(tmp_path):
    hardware, version = nvidia_machine(tmp_path, "550.54.14")
    assert "built for CPUs alone" in installation.explain_no_gpu(hardware, version, {"is_cuda_build": False}).text


def dataset(folder, path):
    (folder / path).mkdir(parents=True)
    (folder / path / "dataset_info.json").write_text(json.dumps({}))


def test_data_sets_in_data_dir(tmp_path):
    dataset(tmp_path, "mnist/3.0.1")
    dataset(tmp_path, "imagenette/full-size/1.0.0")
    (tmp_path / "downloads/manual").mkdir(parents=True)
    found = installation.check_data_dir(str(tmp_path))
    assert found.state == OK and found.text.endswith(f"in {tmp_path}: imagenette/full-size 1.0.0, mnist 3.0.1")


def test_data_dir_without_data_or_not_there(tmp_path, monkeypatch):
    assert installation.check_data_dir(str(tmp_path)).state == WARNING
    gone = installation.check_data_dir(str(tmp_path / "gone"))
    assert gone.state == PROBLEM and "--data_dir" in gone.text and gone.remedy
    monkeypatch.setenv("HOME", str(tmp_path / "gone"))
    assert installation.check_data_dir(None).state == OK


def test_workdir_is_probed_without_a_trace(tmp_path):
    assert installation.check_workdir(str(tmp_path / "runs" / "new")).state == OK
    assert os.listdir(tmp_path) == []
    (tmp_path / "file").write_text("")
    assert installation.check_workdir(str(tmp_path / "file" / "run")).state == PROBLEM
    unwritable = installation.check_workdir("/proc/run")
    assert unwritable.state == PROBLEM and unwritable.text.startswith("cannot write into /proc")


def test_disk(tmp_path):
    states = [installation.check_disk(str(tmp_path), free).state for free in (2**40, 2**30, 2**20)]
    assert states == [OK, WARNING, PROBLEM]
    assert installation.check_disk(str(tmp_path)).text.endswith(f"free at {tmp_path}")


def test_devices_that_are_not_there_are_a_problem():
    found = installation.check_replicas(RuntimeConfig(devices=("63",)))
    assert found.state == PROBLEM and "there is no GPU 63" in found.text


@pytest.mark.parametrize("settings, text", [
    (dict(cross_device_reduction="nccl"), "nccl is between GPUs"),
    (dict(cross_device_reduction="hierarchical", replicas=3), "would leave out one of 3 replicas"),
])
def test_a_reduction_that_does_not_work_here_is_a_problem(settings, text):
    found = installation.check_replicas(RuntimeConfig(**settings))
    assert found.state == PROBLEM and text in found.text and found.remedy


def test_the_reduction_is_tried_and_named(strategy, monkeypatch):
    name = "CollectiveAllReduce (RING) over 2 CPU replicas"
    found = installation.check_reduction(strategy(2))
    assert found == Finding("reduction", OK, f"{name}: 262,144 sums are correct on each")
    assert installation.check_reduction(strategy(1)) == Finding("reduction", OK, "no reduction, 1 CPU replica")
    # TensorFlow's own reductions: one that forgets the last of three replicas, and one that needs GPUs.
    monkeypatch.setattr(strategy(3).extended, "_cross_device_ops", tf.distribute.HierarchicalCopyAllReduce())
    found = installation.check_reduction(strategy(3))
    assert (found.state, found.remedy) == (PROBLEM, "try --cross_device_reduction=tree, or --replicas=1")
    assert "HierarchicalCopyAllReduce over 3 CPU replicas: replica 0 got 262144 of 262144 float32 sums" in found.text
    monkeypatch.setattr(strategy(2).extended, "_cross_device_ops", tf.distribute.NcclAllReduce())
    found = installation.check_reduction(strategy(2))
    assert found.state == PROBLEM and "No OpKernel was registered" in found.text and "\n" not in found.text


def test_a_test_of_the_reduction_that_fails_otherwise_is_a_problem(strategy, monkeypatch):
    monkeypatch.setattr(reduction, "reduce_once", lambda *arguments: [].pop())
    found = installation.check_reduction(strategy(2))
    assert found.state == PROBLEM and found.remedy
    assert found.text.endswith("over 2 CPU replicas: IndexError: pop from empty list")


@pytest.mark.parametrize("state, code, end", [
    (OK, 0, "Training will work here."), (WARNING, 0, "Training will work here."),
    (PROBLEM, 1, "Training will not work here: 1 problem to solve."),
])
def test_the_exit_code_says_whether_training_would_work(state, code, end, monkeypatch, capsys):
    monkeypatch.setattr(doctor, "examine", lambda config, measures: [Finding("disk", state, "4 GiB", "free some")])
    values = flags.FlagValues()
    doctor.define(values)
    values(["doctor"])
    assert doctor.run(ExperimentConfig(), values) == code
    lines = capsys.readouterr().out.splitlines()
    assert lines == [f"{state:<8}disk          4 GiB", " " * 22 + "remedy: free some", end]


def test_long_findings_are_wrapped_and_aligned():
    lines = doctor.report_lines(Finding("packages", OK, ", ".join(["tensorflow 2.21.0"] * 12)))
    assert len(lines) > 2 and all(len(line) <= 100 for line in lines)
    assert all(line.startswith(" " * 22) and line[22] != " " for line in lines[1:])


COLOURED = """
import os, pty, sys
child, terminal = pty.fork()
if child == 0:
    from pipeline.verification.installation import Finding
    from launch.commands.doctor import print_report
    print_report([Finding("disk", "warning", "4 GiB")])
    sys.exit()
data = b""
try:
    while part := os.read(terminal, 1000):
        data += part
except OSError:
    pass
sys.stdout.write(repr(data))
"""


def test_colour_on_a_terminal_alone():
    environment = {**{k: v for k, v in os.environ.items() if k != "NO_COLOR"}, "TERM": "xterm-256color"}
    done = subprocess.run([sys.executable, "-c", COLOURED], capture_output=True, text=True, cwd=REPOSITORY, timeout=600,
                          env=environment)
    assert "\\x1b[33mwarning" in done.stdout and "4 GiB" in done.stdout


def test_the_doctor_finds_this_machine_well(tmp_path):
    dataset(tmp_path, "mnist/3.0.1")
    done = mirrorline("doctor", f"--data_dir={tmp_path}", f"--workdir={tmp_path / 'run'}",
                      "--cross_device_reduction=tree", "--replicas=2", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    output = " ".join(done.stdout.split())  # Where a line is broken depends on how long the paths in it are.
    assert "reduction ReductionToOneDevice over 2 CPU replicas: 262,144 sums are correct on each" in output
    assert "mnist 3.0.1" in output and "\x1b" not in done.stdout
    assert not (tmp_path / "run").exists()
