"""System metrics of a run, once a window of steps: speed and its share of the ceiling, waiting for input, memory."""
import tensorflow as tf

from pipeline.callbacks import Callback, Restored, Window
from pipeline.data.records import default_cache_dir
from pipeline.monitoring import known_rates
from pipeline.monitoring.ceiling import QUICK_SECONDS, quick_matrix_product_rate
from pipeline.monitoring.goodput import process_age, summarize
from pipeline.monitoring.memory import MIB, DeviceMemory, HostMemory

MOST_SHARE = 0.02  # Of the time trained so far: what looking at the machine may take.


class Ceiling:
    """The rate of the machine's own matrix product: kept from an earlier run, or measured once that is affordable."""

    def __init__(self, precision, kind, products, folder):
        """
        Args:
          precision: one of pipeline.config.PRECISIONS.
          kind: "CPU" or "GPU": what the replicas are.
          products: how many such devices compute at the same time.
          folder: the cache folder.
        """
        self._precision, self._kind, self._products, self._folder = precision, kind, products, folder
        self._key, self._rate, self._measured = None, None, False

    def rate(self, trained):
        """Returns 1e9 operations/s over all devices as float, or None as long as it is not known.

        Args:
          trained: seconds of training so far, of which measuring may take MOST_SHARE.
        """
        if self._key is None:
            self._key = known_rates.machine_key(self._precision, self._kind)
            self._rate = known_rates.read_rate(self._key, self._folder)
        if self._rate is None:
            self._measure(trained)
        return self._rate * self._products if self._rate else None

    def doubt(self, trained):
        """Takes note that a run was faster: what is kept was measured while something else took the machine."""
        self._measure(trained)

    def _measure(self, trained):
        if self._measured or trained * MOST_SHARE < QUICK_SECONDS:
            return
        self._measured = True
        try:
            rate = quick_matrix_product_rate(self._precision, self._kind)
        except tf.errors.ResourceExhaustedError:
            return  # No memory is left for it: this run does without.
        if rate > (self._rate or 0.0):
            self._rate = rate
            known_rates.write_rate(self._key, self._folder, rate)


class RunningGoodput:
    """The share of a run's time, over all its restarts, that went into steps that count; see goodput.summarize."""

    def __init__(self, launches_path, age=process_age):
        """
        Args:
          launches_path: launches.jsonl, the start of this process noted in it.
          age: returns the seconds since this process began.
        """
        before = summarize(launches_path)["seconds"]
        self._steps_before, self._before, self._age = before["steps"], sum(before.values()), age
        self._first, self._reached = None, []  # [(step, seconds of this process's steps up to it)]

    def cut_after(self, step):
        """Forgets the steps after one that the run goes back to."""
        while self._reached and self._reached[-1][0] > step:
            self._reached.pop()

    def _add(self, step, seconds):
        self._reached.append((step, seconds + (self._reached[-1][1] if self._reached else 0.0)))

    def share(self, step, count, seconds, waited):
        """Takes note of a window of `count` steps that ends at `step`; returns the share in [0, 1] up to now.

        The first window is traced and compiled: of its time, what its steps took is known with the second.
        """
        if self._first is None:
            self._first = (step, count, seconds)
        else:
            first, steps, longest = self._first
            if steps:
                self._add(first, min(longest, steps * seconds / count))
                self._first = (first, 0, 0.0)
            self._add(step, seconds - min(waited, seconds))
        productive = self._steps_before + (self._reached[-1][1] if self._reached else 0.0)
        return min(1.0, productive / max(self._before + self._age(), 1e-9))


class SystemMetrics(Callback):
    """Adds what a window of steps says about the machine to `Window.system`.

    "examples_per_second", "examples_per_second_per_replica", "ceiling_share" (operations a second over the rate of the
    machine's own matrix product in this precision) and "input_wait" (share of the time) of a steady window; of any,
    "host_memory_mib" and "host_memory_share" of what the process holds, "host_memory_full" of what everybody holds,
    "device_memory_mib" and "device_memory_full" of the fullest GPU, and "goodput". What is not known is left out, and
    so is a share above 1: something else slowed the measurement down.
    """

    def __init__(self, batch_size, replicas, ceiling, goodput, tracker, devices, operations=lambda: None, host=None):
        """
        Args:
          batch_size: examples of a step.
          replicas: in sync.
          ceiling: Ceiling.
          goodput: RunningGoodput.
          tracker: GoodputTracker; the time of measuring the machine is booked as "reporting".
          devices: DeviceMemory.
          operations: returns the floating-point operations of a step, None where they are not known.
          host: HostMemory; default that of this machine.
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
                             goodput=self._goodput.share(window.step, count, window.seconds, waited))

    def _ceiling_share(self, steps_per_second):
        operations = self._operations()
        if not operations:
            return None
        with self._tracker.measure("reporting"):
            rate = self._ceiling.rate(self._trained)
            share = operations * steps_per_second / (rate * 1e9) if rate else None
            if share and share > 1:
                self._ceiling.doubt(self._trained)
                share = None
        return share

    def _memory(self):
        found, host, devices = {}, self._host.read(), self._devices.read()
        if host:
            found.update(host_memory_mib=host.process / MIB, host_memory_share=host.process / host.limit,
                         host_memory_full=host.full)
        if devices:
            found["device_memory_mib"] = devices[0] / MIB
            if devices[1] is not None:
                found["device_memory_full"] = devices[1]
        return found


def create_system_metrics(experiment, tracker, launches_path):
    """Returns the SystemMetrics of a run.

    Args:
      experiment: Experiment.
      tracker: GoodputTracker.
      launches_path: launches.jsonl of the run, this start noted in it.
    """
    config, replicas = experiment.config, experiment.strategy.num_replicas_in_sync
    workers = experiment.strategy.extended.worker_devices
    kind = "GPU" if any("GPU" in name for name in workers) else "CPU"
    # Replicas on one CPU share its cores, and one product takes them all.
    ceiling = Ceiling(config.runtime.precision, kind, replicas if kind == "GPU" else 1,
                      config.data.cache_dir or default_cache_dir())
    return SystemMetrics(experiment.plan.batch_size, replicas, ceiling, RunningGoodput(launches_path), tracker,
                         DeviceMemory(workers), lambda: experiment.step_operations)
