"""System metrics of a run, once a window of steps: speed and its share of the ceiling, waiting for input, memory."""
from collections.abc import Callable
from typing import Any

import tensorflow as tf

from pipeline.callbacks import Callback, Restored, Window
from pipeline.data.array_cache import default_cache_dir
from pipeline.monitoring import known_rates
from pipeline.monitoring.ceiling import QUICK_SECONDS, quick_matrix_product_rate
from pipeline.monitoring.goodput import GoodputTracker, process_age, summarize
from pipeline.monitoring.memory import MIB, DeviceMemory, HostMemory

MOST_SHARE = 0.02  # Of the time trained so far that measuring the machine may take.


class Ceiling:
    """The rate of the machine's matrix product: kept from an earlier run, or measured once it is cheap enough."""

    def __init__(self, precision: str, kind: str, products: int, folder: str):
        """
        Args:
          precision: one of pipeline.config.PRECISIONS.
          kind: "CPU" or "GPU": the kind of the replicas' devices.
          products: number of such devices that compute at the same time.
          folder: the cache folder.
        """
        self._precision, self._kind, self._products, self._folder = precision, kind, products, folder
        self._key: dict[str, Any] | None = None
        self._rate: float | None = None
        self._measured = False

    def rate(self, trained: float) -> float | None:
        """Returns 1e9 operations/s over all devices, or None as long as it is not known.

        Measuring may take MOST_SHARE of the seconds trained so far.
        """
        if self._key is None:
            self._key = known_rates.machine_key(self._precision, self._kind)
            self._rate = known_rates.read_rate(self._key, self._folder)
        if self._rate is None:
            self.measure(trained)
        return self._rate * self._products if self._rate else None

    def measure(self, trained: float) -> None:
        """Measures once per process, and keeps the rate if it is higher.

        To be called too when a run exceeds the kept rate, which was then measured on a busy machine.
        """
        if self._key is None or self._measured or trained * MOST_SHARE < QUICK_SECONDS:
            return
        self._measured = True
        try:
            rate = quick_matrix_product_rate(self._precision, self._kind)
        except tf.errors.ResourceExhaustedError:
            return  # There is no memory left for it.
        if rate > (self._rate or 0.0):
            self._rate = rate
            known_rates.write_rate(self._key, self._folder, rate)


class RunningGoodput:
    """The share of a run's time, over all its restarts, spent in steps that count; see goodput.summarize."""

    def __init__(self, launches_path: str, age: Callable[[], float] = process_age):
        """Args: launches_path: launches.jsonl with this start; age: returns the seconds since this process began."""
        before = summarize(launches_path)["seconds"]
        self._steps_before, self._before, self._age = before["steps"], sum(before.values()), age
        self._first: tuple[int, int, float] | None = None
        self._reached: list[tuple[int, float]] = []  # (step, seconds of this process's steps up to it)

    def cut_after(self, step: int) -> None:
        """Forgets the steps after the one that the run returns to."""
        while self._reached and self._reached[-1][0] > step:
            self._reached.pop()

    def _productive(self) -> float:
        return self._reached[-1][1] if self._reached else 0.0

    def share(self, step: int, count: int, seconds: float, waited: float, compiled: bool = False) -> float:
        """Adds a window of `count` steps that ends at `step`; returns the share in [0, 1] so far.

        The first window is traced and compiled, and so are others (`compiled`): the time of its steps is known with the
        next.
        """
        if compiled or self._first is None:
            self._first = (step, count, seconds)
        else:
            first, steps, longest = self._first
            if steps:
                self._reached.append((first, self._productive() + min(longest, steps * seconds / count)))
                self._first = (first, 0, 0.0)
            self._reached.append((step, self._productive() + seconds - min(waited, seconds)))
        return min(1.0, (self._steps_before + self._productive()) / max(self._before + self._age(), 1e-9))


class SystemMetrics(Callback):
    """Adds metrics of the machine to `Window.system`.

    Of a steady window: "examples_per_second", "examples_per_second_per_replica", "ceiling_share" (operations a second
    over the rate of the machine's matrix product in this precision), "input_wait" (share of the time). Of any window:
    "host_memory_mib" and "host_memory_share" of this process, "host_memory_full" of all processes, "device_memory_mib"
    and "device_memory_full" of the fullest GPU, and "goodput". Unknown values are left out, and so is a ceiling share
    above 1, which means that the measurement was disturbed.
    """

    def __init__(self, batch_size: int, replicas: int, ceiling: Any, goodput: RunningGoodput, tracker: GoodputTracker,
                 devices: DeviceMemory, operations: Callable[[], float | None] = lambda: None,
                 host: HostMemory | None = None):
        """
        Args:
          batch_size: examples of a step.
          replicas: in sync.
          ceiling: Ceiling.
          goodput, tracker: of the run; measuring the machine counts as "reporting".
          devices: memory of the replicas' devices.
          operations: returns the floating-point operations of a step, None as long as they are not known.
          host: default that of this machine.
        """
        self._batch_size, self._replicas, self._ceiling, self._goodput = batch_size, replicas, ceiling, goodput
        self._tracker, self._devices, self._host = tracker, devices, host or HostMemory()
        self._operations, self._trained = operations, 0.0

    def on_rollback(self, restored: Restored) -> None:
        """Forgets the abandoned steps."""
        self._goodput.cut_after(restored.step)

    def on_window(self, window: Window) -> None:
        """Adds the metrics of a window."""
        count, seconds = len(window.rows), max(window.seconds, 1e-9)
        waited = float(window.column("input_wait").sum()) if "input_wait" in window.columns else 0.0
        if window.steady:
            self._trained += window.seconds
            speed = count * self._batch_size / seconds
            window.system.update(examples_per_second=speed, examples_per_second_per_replica=speed / self._replicas)
            share = self._ceiling_share(count / seconds)
            if share is not None:
                window.system["ceiling_share"] = share
            window.system["input_wait"] = min(1.0, waited / seconds)
        window.system.update(self._memory(),
                             goodput=self._goodput.share(window.step, count, window.seconds, waited,
                                                         window.compiled))

    def _ceiling_share(self, steps_per_second: float) -> float | None:
        operations = self._operations()
        if not operations:
            return None
        with self._tracker.measure("reporting"):
            rate = self._ceiling.rate(self._trained)
            share = operations * steps_per_second / (rate * 1e9) if rate else None
            if share and share > 1:
                self._ceiling.measure(self._trained)
                share = None
        return share

    def _memory(self) -> dict[str, float]:
        host, devices = self._host.read(), self._devices.read()
        found = {"host_memory_mib": host.process / MIB, "host_memory_share": host.process / host.limit,
                 "host_memory_full": host.full}
        if devices:
            found["device_memory_mib"] = devices[0] / MIB
            if devices[1] is not None:
                found["device_memory_full"] = devices[1]
        return found


def create_system_metrics(experiment: Any, tracker: GoodputTracker, launches_path: str) -> SystemMetrics:
    """Returns the SystemMetrics of an Experiment's run; launches_path: its launches.jsonl with this start."""
    config, replicas = experiment.config, experiment.strategy.num_replicas_in_sync
    workers = experiment.strategy.extended.worker_devices
    kind = "GPU" if any("GPU" in name for name in workers) else "CPU"
    # Replicas on one CPU share its cores, and one product uses them all.
    ceiling = Ceiling(config.runtime.precision, kind, replicas if kind == "GPU" else 1,
                      config.data.cache_dir or default_cache_dir())
    return SystemMetrics(experiment.plan.batch_size, replicas, ceiling, RunningGoodput(launches_path), tracker,
                         DeviceMemory(workers), lambda: experiment.step_operations)
