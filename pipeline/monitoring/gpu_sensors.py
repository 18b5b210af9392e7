"""The sensors of NVIDIA's GPUs, read by NVML (nvidia-ml-py): load, memory, power, temperature, clocks, errors.

What a GPU or its driver hides is left out, and nothing fails: virtual GPUs hide most of it, and a container may have no
NVML at all.
"""
import contextlib
import ctypes
from collections.abc import Callable, Sequence
from typing import Any

# Imports inside functions: only machines with a GPU have use for NVML.

NVML_WORDS = {  # Reasons for which the clocks of a GPU are lowered, by their names in NVML.
    "HwThermalSlowdown": "by its temperature", "SwThermalSlowdown": "by its temperature",
    "HwPowerBrakeSlowdown": "by the machine's power supply", "HwSlowdown": "by its hardware",
    "SwPowerCap": "by its power limit"}
POWER_CAP = "by its power limit"


class GpuSensors:
    """Reads the sensors of some GPUs of this machine.

    Attributes:
      hidden: {figure: why} of the figures that a GPU does not give, known after the first `read`.
    """

    def __init__(self, bus_ids: Sequence[str]):
        """
        Args:
          bus_ids: of the GPUs on the PCI bus, such as "0000:01:00.0".

        Raises:
          SensorError: NVML does not answer, or knows no such GPU.
        """
        import pynvml
        self._nvml: Any = pynvml
        self.hidden: dict[str, str] = {}
        try:
            pynvml.nvmlInit()
            self._gpus = [pynvml.nvmlDeviceGetHandleByPciBusId(one) for one in bus_ids]
        except pynvml.NVMLError as error:
            raise SensorError(str(error)) from error
        self._events = [self._register(gpu) for gpu in self._gpus]

    def read(self) -> list[dict[str, float]]:
        """Returns the figures of each GPU.

        "utilization" and "clock_share" (of the highest clock) in [0, 1], "memory_mib" (of all processes),
        "power_watts", "temperature" in degrees Celsius, "clock_mhz" of its multiprocessors, "ecc_errors" that were not
        corrected since the driver was loaded, and "energy_joules" since then; of reasons for lower clocks see `slowed`.
        """
        return [self._read(gpu) for gpu in self._gpus]

    def _read(self, gpu):
        nvml, found = self._nvml, {}
        figures: dict[str, Callable[[], float]] = {
            "utilization": lambda: nvml.nvmlDeviceGetUtilizationRates(gpu).gpu / 100,
            "memory_mib": lambda: nvml.nvmlDeviceGetMemoryInfo(gpu).used / 2**20,
            "power_watts": lambda: nvml.nvmlDeviceGetPowerUsage(gpu) / 1000,
            "temperature": lambda: float(nvml.nvmlDeviceGetTemperature(gpu, nvml.NVML_TEMPERATURE_GPU)),
            "clock_mhz": lambda: float(nvml.nvmlDeviceGetClockInfo(gpu, nvml.NVML_CLOCK_SM)),
            "clock_share": lambda: (nvml.nvmlDeviceGetClockInfo(gpu, nvml.NVML_CLOCK_SM)
                                    / nvml.nvmlDeviceGetMaxClockInfo(gpu, nvml.NVML_CLOCK_SM)),
            "ecc_errors": lambda: float(nvml.nvmlDeviceGetTotalEccErrors(
                gpu, nvml.NVML_MEMORY_ERROR_TYPE_UNCORRECTED, nvml.NVML_VOLATILE_ECC)),
            "energy_joules": lambda: nvml.nvmlDeviceGetTotalEnergyConsumption(gpu) / 1000}
        for name, figure in figures.items():
            if name not in self.hidden:
                try:
                    found[name] = figure()
                except (nvml.NVMLError, ZeroDivisionError) as error:
                    self.hidden[name] = str(error)
        return found

    def slowed(self) -> list[tuple[str, ...]]:
        """Returns for each GPU why its clocks are lowered now, of NVML_WORDS; () where that is unknown."""
        return [self._slowed(gpu) for gpu in self._gpus]

    def _slowed(self, gpu):
        nvml = self._nvml
        for read in (nvml.nvmlDeviceGetCurrentClocksEventReasons, nvml.nvmlDeviceGetCurrentClocksThrottleReasons):
            with contextlib.suppress(nvml.NVMLError):  # Drivers before 535 know the second name alone.
                reasons = read(gpu)
                return tuple(dict.fromkeys(words for name, words in NVML_WORDS.items()
                                           if reasons & getattr(nvml, f"nvmlClocksThrottleReason{name}")))
        return ()

    def _register(self, gpu):
        """Returns the set of events in which NVML collects the errors of a GPU, None where it does not."""
        nvml = self._nvml
        try:
            events = nvml.nvmlEventSetCreate()
            nvml.nvmlDeviceRegisterEvents(gpu, nvml.nvmlEventTypeXidCriticalError, events)
        except nvml.NVMLError:
            return None
        return events

    def xids(self) -> list[list[int]]:
        """Returns for each GPU the numbers of the errors (Xid) that its driver reported since the last call."""
        return [self._xids(events) if events is not None else [] for events in self._events]

    def _xids(self, events):
        found: list[int] = []
        with contextlib.suppress(self._nvml.NVMLError):  # Also where there is none: it waits for no time.
            while len(found) < 100:
                found.append(int(self._nvml.nvmlEventSetWait_v2(events, 0).eventData))
        return found

    def close(self) -> None:
        """Ends the use of NVML."""
        with contextlib.suppress(self._nvml.NVMLError):
            for events in self._events:
                if events is not None:
                    self._nvml.nvmlEventSetFree(events)
            self._nvml.nvmlShutdown()


class SensorError(Exception):
    """NVML does not answer."""


def bus_id(ordinal: int) -> str | None:
    """Returns where a GPU is on the PCI bus ("0000:01:00.0") by its CUDA ordinal; None without a driver or such a GPU.

    NVML numbers GPUs in another order than CUDA, and ignores CUDA_VISIBLE_DEVICES.
    """
    try:
        driver = ctypes.CDLL("libcuda.so.1")
        device, text = ctypes.c_int(), ctypes.create_string_buffer(32)
        failed = (driver.cuInit(0) or driver.cuDeviceGet(ctypes.byref(device), ordinal)
                  or driver.cuDeviceGetPCIBusId(text, len(text), device))
    except (OSError, AttributeError):
        return None
    return None if failed else text.value.decode()


def visible_bus_ids() -> list[Any]:
    """Returns bus_id of each GPU that TensorFlow uses in this process, in its order."""
    import tensorflow as tf
    return [bus_id(int(gpu.name.rsplit(":", 1)[1])) for gpu in tf.config.get_visible_devices("GPU")]
