"""Figures of the GPUs of a run, once a window of steps, warnings about them, and the energy of the run."""
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from pipeline.callbacks import Callback, Ending, Restored, Window
from pipeline.monitoring.gpu_sensors import POWER_CAP, GpuSensors, SensorError, visible_bus_ids
from pipeline.monitoring.metrics_log import read_records
from pipeline.quantities import listed

ENERGY = "gpu_energy_joules"  # Of a window, and of what came before it: an evaluation, a checkpoint.
# Of several GPUs: how their figures become one of the window.
OF_ALL: dict[str, Callable[[list[float]], float]] = {
    "utilization": statistics.fmean, "memory_mib": max, "power_watts": sum, "temperature": max, "clock_mhz": min,
    "clock_share": min}
XID_PAGE = "https://docs.nvidia.com/deploy/xid-errors"


class GpuMetrics(Callback):
    """Adds figures of the GPUs to `Window.system`, and warns once of each cause that slows or damages a run.

    "gpu_utilization" (mean), "gpu_memory_mib" (the fullest, all processes), "gpu_power_watts" (sum), "gpu_temperature"
    (the hottest), "gpu_clock_mhz" and "gpu_clock_share" (the slowest), "gpu_slowed" (share of the GPUs whose clocks are
    lowered, but not by their power limit), "gpu_power_capped" (share of those at their power limit), "gpu_ecc_errors"
    (not corrected, since this process began), ENERGY. What a GPU hides is left out, which is said once.
    """

    def __init__(self, sensors: GpuSensors, metrics_path: str, info: Callable[[str], None],
                 warning: Callable[[str], None], now: Callable[[], float] = time.monotonic):
        """
        Args:
          sensors: of the GPUs of the replicas.
          metrics_path: metrics.jsonl of the run.
          info, warning: print a line.
          now: returns seconds.
        """
        self._sensors, self._path, self._info, self._warning = sensors, metrics_path, info, warning
        self._now = now
        self._given: set[tuple] = set()
        self._before: list[dict[str, float]] = []
        self._read_at, self._errors_before, self._told = 0.0, 0.0, 0

    def on_start(self, restored: Restored) -> None:
        """Reads the figures from which energy and errors are counted."""
        self._before, self._read_at = self._sensors.read(), self._now()
        self._errors_before = _sum(self._before, "ecc_errors")
        self._tell_hidden()

    def on_window(self, window: Window) -> None:
        """Adds the figures of a window."""
        figures, slowed, now = self._sensors.read(), self._sensors.slowed(), self._now()
        self._tell_hidden()
        for name, of_all in OF_ALL.items():
            values = [one[name] for one in figures if name in one]
            if values:
                window.system[f"gpu_{name}"] = float(of_all(values))
        window.system["gpu_slowed"] = statistics.fmean(any(why != POWER_CAP for why in one) for one in slowed)
        window.system["gpu_power_capped"] = statistics.fmean(POWER_CAP in one for one in slowed)
        if "ecc_errors" not in self._sensors.hidden:
            window.system["gpu_ecc_errors"] = _sum(figures, "ecc_errors") - self._errors_before
        energy = self._energy(figures, now - self._read_at)
        if energy is not None:
            window.system[ENERGY] = energy
        self._before, self._read_at = figures, now
        self._warn(figures, slowed, window.system)

    def _tell_hidden(self):
        """Says which figures are hidden, those alone that are so since the last time."""
        new = list(self._sensors.hidden.items())[self._told:]
        if new:
            self._info(f"GPU     does not tell its {', '.join(name for name, _ in new)} ({new[0][1]})")
        self._told = len(self._sensors.hidden)

    def _energy(self, figures, seconds):
        """Returns the joules since the last window, from the power now where a GPU does not count them; or None."""
        if "energy_joules" not in self._sensors.hidden:
            return _sum(figures, "energy_joules") - _sum(self._before, "energy_joules")
        return None if "power_watts" in self._sensors.hidden else _sum(figures, "power_watts") * seconds

    def _warn(self, figures, slowed, system):
        """Warns of what is new: clocks that are lowered, errors of memory, errors that the driver reports."""
        for index, (one, why) in enumerate(zip(figures, slowed, strict=True)):
            why = [words for words in why if words != POWER_CAP]
            if why:
                at = [f"{one[name]:.0f} {unit}" for name, unit in (("temperature", "°C"), ("clock_mhz", "MHz"))
                      if name in one]
                self._once(("slowed", index, *why), f"GPU {index} is slowed down {' and '.join(why)} "
                           f"({', '.join(at) or 'no figures'}): look after its cooling and power")
        if system.get("gpu_ecc_errors"):
            self._once(("ecc",), f"{system['gpu_ecc_errors']:.0f} errors of GPU memory could not be corrected: results "
                       "may be wrong; restart the run on another GPU, and have this one tested")
        for index, numbers in enumerate(self._sensors.xids()):
            if numbers:
                each = listed(dict.fromkeys(map(str, numbers)), 5)
                self._once(("xid", index, each), f"GPU {index}: its driver reports Xid {each}; {XID_PAGE} explains it")

    def _once(self, cause, line):
        if cause not in self._given:
            self._given.add(cause)
            self._warning(line)

    def on_end(self, ending: Ending) -> None:
        """Adds "gpu" to result.json."""
        found = summary(read_records(self._path, f'"{ENERGY}"'.encode()), ending.result.get("examples_seen", 0))
        if found:
            ending.result["gpu"] = found

    def close(self) -> None:
        """Ends the use of the sensors."""
        self._sensors.close()


def _sum(figures: Sequence[Mapping[str, float]], name: str) -> float:
    return sum(one.get(name, 0.0) for one in figures)


def summary(records: Any, examples: int) -> dict[str, float]:
    """Returns the figures of a run from the records of its windows, {} without any.

    Args:
      records: of metrics.jsonl, with ENERGY; steps that were lost are in none.
      examples: that the run has seen.

    Returns:
      {"energy_joules", "joules_per_thousand_images", "mean_utilization", "highest_temperature", "slowed_share"}, those
      that are known.
    """
    found = list(records)
    if not found:
        return {}
    energy = sum(record[ENERGY] for record in found)
    described = {"energy_joules": round(energy, 1)}
    if examples:
        described["joules_per_thousand_images"] = round(1000 * energy / examples, 3)
    for name, key, of_all in (("mean_utilization", "gpu_utilization", statistics.fmean),
                              ("highest_temperature", "gpu_temperature", max),
                              ("slowed_share", "gpu_slowed", statistics.fmean)):
        values = [record[key] for record in found if key in record]
        if values:
            described[name] = round(of_all(values), 4)
    return described


def create_gpu_metrics(kind: str, metrics_path: str, info: Callable[[str], None], warning: Callable[[str], None]
                       ) -> list[Callback]:
    """Returns the GpuMetrics of a run; no callback on CPUs, and where NVML does not answer, which is said in one line.

    Args:
      kind: "GPU" or "CPU": of the replicas.
      metrics_path, info, warning: as of GpuMetrics.
    """
    if kind != "GPU":
        return []
    bus_ids = visible_bus_ids()
    try:
        if None in bus_ids:
            raise SensorError("the driver does not tell where the GPUs are")
        return [GpuMetrics(GpuSensors(bus_ids), metrics_path, info, warning)]
    except SensorError as error:
        info(f"GPU     no load, power or temperature is recorded: {error}")
        return []
