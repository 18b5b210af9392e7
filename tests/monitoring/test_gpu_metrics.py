"""Figures of GPUs, from a stand-in for NVML: no machine of the tests has one."""
import collections
import json
import sys
import types

import pynvml
import pytest

from pipeline.callbacks import Ending, Restored
from pipeline.monitoring.gpu_metrics import GpuMetrics, create_gpu_metrics
from pipeline.monitoring.gpu_sensors import GpuSensors, SensorError, bus_id
from pipeline.monitoring.metrics_log import read_records
from pipeline.monitoring.recorder import Recorder
from pipeline.run_directory import RunDirectory
from tests.monitoring.test_live_progress import _drawn, _live
from tests.monitoring.windows import window

NOT_SUPPORTED = pynvml.NVMLError(pynvml.NVML_ERROR_NOT_SUPPORTED)
TIMEOUT = pynvml.NVMLError(pynvml.NVML_ERROR_TIMEOUT)


class Gpu:
    """What NVML would tell of one GPU."""

    def __init__(self, hides=(), **figures):
        self.hides, self.errors = set(hides), collections.deque()
        self.figures = {"UtilizationRates": types.SimpleNamespace(gpu=90), "PowerUsage": 400_000,
                        "MemoryInfo": types.SimpleNamespace(used=2**30), "Temperature": 60, "ClockInfo": 1500,
                        "MaxClockInfo": 2000, "TotalEccErrors": 3, "TotalEnergyConsumption": 5_000_000,
                        "CurrentClocksEventReasons": 0, **figures}


class Nvml:
    """Stands in for pynvml, over GPUs by their place on the PCI bus; a figure that one hides is not supported."""

    def __init__(self, gpus, answers=True):
        self.gpus, self.answers, self.open = gpus, answers, False

    def __getattr__(self, name):
        if not name.startswith("nvmlDeviceGet"):
            return getattr(pynvml, name)
        figure = name.removeprefix("nvmlDeviceGet")

        def read(gpu, *arguments):
            if figure in gpu.hides or figure not in gpu.figures:
                raise NOT_SUPPORTED
            return gpu.figures[figure]
        return read

    def nvmlInit(self):
        if not self.answers:
            raise pynvml.NVMLError(pynvml.NVML_ERROR_LIBRARY_NOT_FOUND)
        self.open = True

    def nvmlShutdown(self):
        self.open = False

    def nvmlDeviceGetHandleByPciBusId(self, text):
        return self.gpus[text]

    def nvmlEventSetCreate(self):
        return []

    def nvmlEventSetFree(self, events):
        events.clear()

    def nvmlDeviceRegisterEvents(self, gpu, kinds, events):
        assert kinds == pynvml.nvmlEventTypeXidCriticalError
        events.append(gpu)

    def nvmlEventSetWait_v2(self, events, milliseconds):
        assert milliseconds == 0
        if not events[0].errors:
            raise TIMEOUT
        return types.SimpleNamespace(eventData=events[0].errors.popleft())


@pytest.fixture
def run(tmp_path, monkeypatch):
    """Returns run(*gpus): (the callback, its lines, seconds as a list of one)."""
    def begin(*gpus):
        nvml = Nvml({f"0000:0{i}:00.0": gpu for i, gpu in enumerate(gpus)})
        monkeypatch.setitem(sys.modules, "pynvml", nvml)
        said, now = [], [0.0]
        metrics = GpuMetrics(GpuSensors(list(nvml.gpus)), str(tmp_path / "metrics.jsonl"), said.append,
                             lambda line: said.append(f"warning: {line}"), lambda: now[0])
        metrics.on_start(Restored(0, ()))
        assert nvml.open
        return metrics, said, now
    return begin


def test_figures_reach_the_log_tensorboard_and_the_result(run, tmp_path):
    one, two = Gpu(), Gpu(PowerUsage=300_000, Temperature=70, ClockInfo=1000,
                          UtilizationRates=types.SimpleNamespace(gpu=50))
    metrics, said, _ = run(one, two)
    recorder = Recorder(RunDirectory(str(tmp_path)), 64)
    for step, joules in ((10, 3000), (20, 1000)):
        one.figures["TotalEnergyConsumption"] += 1000 * joules
        seen = window(step, 10)
        metrics.on_window(seen)
        recorder.on_window(seen)
    assert seen.system == {
        "gpu_utilization": pytest.approx(0.7), "gpu_memory_mib": 1024.0, "gpu_power_watts": 700.0,
        "gpu_temperature": 70.0, "gpu_clock_mhz": 1000.0, "gpu_clock_share": 0.5, "gpu_slowed": 0.0,
        "gpu_power_capped": 0.0, "gpu_ecc_errors": 0.0, "gpu_energy_joules": 1000.0}
    assert recorder.sync() and said == []
    assert [r["gpu_energy_joules"] for r in read_records(recorder.path, b'"gpu_energy_joules"')] == [3000.0, 1000.0]
    assert b"gpu/gpu_power_watts" in b"".join(p.read_bytes() for p in (tmp_path / "tensorboard/train").iterdir())
    ending = Ending(20, {"examples_seen": 20 * 64}, lambda: False, lambda text: None)
    metrics.on_end(ending)
    assert json.loads(json.dumps(ending.result["gpu"])) == {
        "energy_joules": 4000.0, "joules_per_thousand_images": 3125.0, "mean_utilization": 0.7,
        "highest_temperature": 70.0, "slowed_share": 0.0}
    recorder.close()
    metrics.close()
    live, _ = _live(100)
    live.on_window(seen)
    assert "GPU 70%, 70 °C, 700 W" in "\n".join(_drawn(live))


def test_what_a_gpu_hides_is_said_once_and_energy_is_then_that_of_its_power(run):
    metrics, said, now = run(Gpu(hides=("TotalEnergyConsumption", "TotalEccErrors", "CurrentClocksEventReasons")))
    assert said == ["GPU     does not tell its ecc_errors, energy_joules (Not Supported)"]
    now[0] = 2.5
    seen = window(1)
    metrics.on_window(seen)
    assert seen.system["gpu_energy_joules"] == 1000.0 and "gpu_ecc_errors" not in seen.system and len(said) == 1
    everything = run(Gpu(hides=set(Gpu().figures)))
    metrics, said, _ = everything
    seen = window(1)
    metrics.on_window(seen)
    assert seen.system == {"gpu_slowed": 0.0, "gpu_power_capped": 0.0} and len(said) == 1
    ending = Ending(1, {}, lambda: False, lambda text: None)
    metrics.on_end(ending)
    assert ending.result == {}


def test_what_slows_or_damages_a_run_is_warned_of_once(run):
    gpu = Gpu()
    metrics, said, _ = run(Gpu(), gpu)
    capped = pynvml.nvmlClocksThrottleReasonSwPowerCap
    for reasons in (capped, capped | pynvml.nvmlClocksThrottleReasonHwThermalSlowdown) * 2:
        gpu.figures["CurrentClocksEventReasons"] = reasons
        seen = window(1)
        metrics.on_window(seen)
    assert (seen.system["gpu_slowed"], seen.system["gpu_power_capped"]) == (0.5, 0.5)
    assert said == ["warning: GPU 1 is slowed down by its temperature (60 °C, 1500 MHz): look after its cooling and "
                    "power"]
    said.clear()
    gpu.figures["TotalEccErrors"] = 5
    gpu.errors.extend([79, 79, 31])
    for step in (2, 3):
        metrics.on_window(window(step))
    assert [line.partition("; ")[0] for line in said] == [
        "warning: 2 errors of GPU memory could not be corrected: results may be wrong",
        "warning: GPU 1: its driver reports Xid 79, 31"]


def test_an_older_driver_tells_why_clocks_are_lowered_by_the_older_name(run):
    gpu = Gpu(hides=("CurrentClocksEventReasons",),
              CurrentClocksThrottleReasons=pynvml.nvmlClocksThrottleReasonHwPowerBrakeSlowdown)
    metrics, said, _ = run(gpu)
    metrics.on_window(window(1))
    assert len(said) == 1 and "slowed down by the machine's power supply" in said[0]


def test_without_nvml_one_line_is_said_and_on_cpus_none(monkeypatch):
    monkeypatch.setitem(sys.modules, "pynvml", Nvml({}, answers=False))
    with pytest.raises(SensorError, match="NVML Shared Library Not Found"):
        GpuSensors(["0000:01:00.0"])
    said = []
    monkeypatch.setattr("pipeline.monitoring.gpu_metrics.visible_bus_ids", lambda: ["0000:01:00.0"])
    assert create_gpu_metrics("GPU", "metrics.jsonl", said.append, said.append) == []
    assert said == ["GPU     no load, power or temperature is recorded: NVML Shared Library Not Found"]
    assert create_gpu_metrics("CPU", "metrics.jsonl", said.append, said.append) == [] and len(said) == 1
    assert bus_id(0) is None
