"""Records every step and evaluation of a run: metrics.jsonl and the scalars of TensorBoard."""
import itertools
import math
import os
import shlex
import statistics
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from pipeline.callbacks import Callback, Evaluated, Restored, Window
from pipeline.console import STANDARD
from pipeline.files import no_room
from pipeline.metrics.evaluation import Evaluation, per_class_accuracy
from pipeline.monitoring.events import EventWriter
from pipeline.monitoring.full_disk import FullDisk
from pipeline.monitoring.metrics_log import JsonLines, read_backwards, read_records, table_lines
from pipeline.monitoring.scalar_events import scalar_events
from pipeline.run_directory import RunDirectory

TRAIN_TAGS = ("loss", "accuracy", "learning_rate", "gradient_norm")
MEASURED_AT_TIMES = ("weight_norm", "update_ratio", "top5_accuracy")  # NaN in steps that do not measure them.
# TensorBoard groups tags by their prefix. The main results have none.
SECTIONS = {"optimization": ("gradient_norm", "weight_norm", "update_ratio", "loss_scale", "skipped_steps"),
            "speed": ("examples_per_second", "examples_per_second_per_replica", "ceiling_share", "input_wait",
                      "goodput"),
            "gpu": ("gpu_utilization", "gpu_memory_mib", "gpu_power_watts", "gpu_temperature", "gpu_clock_mhz",
                    "gpu_clock_share", "gpu_slowed", "gpu_power_capped", "gpu_ecc_errors", "gpu_energy_joules"),
            "memory": ("host_memory_mib", "host_memory_share", "host_memory_full", "device_memory_mib",
                       "device_memory_full")}
TAGS = {name: f"{section}/{name}" for section, names in SECTIONS.items() for name in names}
ABOUT_EVALUATION = {"kind", "step", "split", "wall_time", "per_class_accuracy"}  # In its record; the rest are figures.
MOST_CLASS_TAGS = 50  # Curves in TensorBoard; metrics.jsonl has all classes.


class Recorder(Callback):
    """Writes the values of every step and every evaluation.

    Order of writing: records up to a step are on disk (`sync`) before the checkpoint of that step is published, and a
    restore cuts the records after its step (`cut_after`), so that every step is recorded exactly once. On a full disk
    records wait in memory, in order, and every call tries to write them.

    Attributes:
      train_events, validation_events, root_events: EventWriter of the TensorBoard runs `train`, `validation` and `.`;
        what other callbacks write there is cut and synced with the rest.
    """

    def __init__(self, directory: RunDirectory, batch_size: int, disk: FullDisk | None = None,
                 class_names: Sequence[str] = (), scale_loss: bool = False):
        """
        Args:
          directory: claimed.
          batch_size: examples of a step.
          disk: shared with the run's checkpoints; default one that warns on standard error.
          class_names: in the order of the labels; default their numbers.
          scale_loss: whether to record the loss scale.
        """
        self._directory, self.disk = directory, disk or FullDisk(STANDARD)
        self.batch_size, self._class_names, self._scale_loss = batch_size, class_names, scale_loss
        self.path, self._skipped = directory.file("metrics.jsonl"), 0
        self._log = JsonLines(self.path)
        self.train_events = EventWriter(directory.file("tensorboard", "train"))
        self.validation_events = EventWriter(directory.file("tensorboard", "validation"))
        self.root_events = EventWriter(directory.file("tensorboard"))
        self._parts = (self._log, self.train_events, self.validation_events, self.root_events)

    def cut_after(self, step: int, evaluated: float = math.inf) -> Restored:
        """Removes the records of later steps, and evaluations of steps after `evaluated`; returns what is left.

        A process that is stopped in the middle of an evaluation saves its step before the evaluation is complete.
        """
        self._log.cut_after(step, evaluated)
        self.train_events.cut_after(step)
        self.validation_events.cut_after(min(step, evaluated))
        self.root_events.cut_after(step)
        self._skipped = sum(record.get("skipped", False) for record in self._marked(b'"skipped"'))
        return Restored(step, tuple(self._marked(b'"evaluation"')))

    def _marked(self, mark: bytes) -> Iterator[dict[str, Any]]:
        """Returns the records whose line contains `mark`."""
        return read_records(self.path, mark)

    def on_window(self, window: Window) -> None:
        """Records the steps of a window."""
        count, step = len(window.rows), window.step
        values = dict(zip(window.columns, window.rows.T, strict=True))
        self._write(np.arange(step - count + 1, step + 1),
                    window.started + window.seconds * np.arange(1, count + 1) / count,
                    {**values, "skipped_steps": self._count_skipped(values["applied"])}, window.system)
        self._flush()

    def _count_skipped(self, applied: np.ndarray) -> np.ndarray:
        """Returns the number of skipped steps of the run up to each step of a window; applied: [n], 0 where skipped."""
        skipped = self._skipped + np.cumsum(applied == 0)
        self._skipped = int(skipped[-1])
        return skipped

    def _write(self, steps: np.ndarray, times: np.ndarray, values: Mapping[str, np.ndarray],
               system: Mapping[str, float]) -> None:
        """Adds n steps to the event file and metrics.jsonl, with wall times and values, [n] each.

        The metrics of the system are recorded with the last step.
        """
        events, lines = np.empty(len(steps), object), np.empty(len(steps), object)
        for index, names in _alike(values, self._scale_loss):
            scalars = {name: values[name][index] for name in names}
            if index[-1] == len(steps) - 1:
                scalars.update((name, np.array([value])) for name, value in system.items())
            events[index] = scalar_events(steps[index], times[index],
                                          {TAGS.get(name, name): column for name, column in scalars.items()})
            columns = {"step": steps[index], "examples": steps[index] * self.batch_size,
                       "wall_time": times[index].round(3), **scalars}
            lines[index] = table_lines({"kind": "train", **({} if values["applied"][index[0]] else {"skipped": True})},
                                       {name: column.tolist() for name, column in columns.items()})
        self.train_events.events(steps.tolist(), events.tolist())
        self._log.append_lines(steps.tolist(), lines.tolist())

    def on_evaluation(self, evaluated: Evaluated) -> None:
        """Records an evaluation."""
        figures, classes = evaluated.evaluation.figures, self._by_class(evaluated.evaluation)
        which = {"weights": evaluated.weights} if evaluated.weights else {}
        self._log.append([{"kind": "evaluation", "step": evaluated.step, "split": evaluated.split.name,
                           "wall_time": round(evaluated.wall_time, 3), **which, **figures,
                           "per_class_accuracy": classes}])
        scalars = {tag: value for tag, value in figures.items() if tag != "examples"}
        if len(classes) <= MOST_CLASS_TAGS:
            scalars.update((f"per_class_accuracy/{name}", share) for name, share in classes.items()
                           if not math.isnan(share))
        self.validation_events.scalars(evaluated.step, evaluated.wall_time, scalars)
        self._flush()

    def _by_class(self, evaluation: Evaluation) -> dict[str, float]:
        """Returns {class name: accuracy, NaN for a class without examples}."""
        names = self._class_names or [str(label) for label in range(evaluation.num_classes)]
        return dict(zip(names, per_class_accuracy(evaluation.rows, evaluation.num_classes).tolist(), strict=True))

    def _flush(self, sync: bool = False) -> OSError | None:
        """Writes what the disk has room for; returns the error of a full disk, or None."""
        for part in self._parts:
            part.flush(sync)
        problem = next((part.problem for part in self._parts if part.problem), None)
        if problem is not None:
            self.disk.failed(
                f"the disk of {os.path.dirname(self.path)} is full ({problem.strerror}): training continues, "
                "records wait in memory, and no checkpoint is saved until there is room")
        return problem

    def sync(self) -> bool:
        """Makes everything recorded durable.

        Returns:
          False on a full disk, after a warning: no checkpoint may be saved, it would be ahead of the records.

        Raises:
          RunFailure: the run's directory is gone; a new one would hold only the end of the run.
        """
        self._directory.check_here()
        problem = self._flush(sync=True)
        if problem is not None:
            self.disk.make_room(no_room(problem))
            problem = self._flush(sync=True)
        return problem is None

    def mean_loss(self, first_step: int) -> float | None:
        """Returns the mean of the finite training losses of the steps from `first_step` on, or None."""
        records = (r for r in read_backwards(self.path) if r["kind"] == "train")
        losses = [r["loss"] for r in itertools.takewhile(lambda r: r["step"] >= first_step, records)
                  if r.get("loss") is not None]
        return sum(reversed(losses)) / len(losses) if losses else None

    def last_evaluation(self, step: int, split: str) -> dict[str, Any] | None:
        """Returns the figures (see Evaluation.figures) recorded at `step` on `split`, or None."""
        found = [r for r in self._marked(b'"evaluation"') if r["step"] == step and r.get("split") == split]
        if not found:
            return None
        return {k: math.nan if v is None else v for k, v in found[-1].items() if k not in ABOUT_EVALUATION}

    def speeds(self, image_sizes: Sequence[tuple[int, int]] = ()) -> dict[str, Any]:
        """Returns the median speeds of windows of steps, over all restarts, as result.json has them.

        Args:
          image_sizes: as in cadence.Plan.

        Returns:
          {"examples_per_second": of all windows, or None}, and with sizes of images
          {"examples_per_second_by_image_size": {"160": of the windows of that size, ...}}.
        """
        rates = [(r["step"], r["examples_per_second"]) for r in self._marked(b'"examples_per_second"')
                 if "examples_per_second" in r]
        found: dict[str, Any] = {"examples_per_second": statistics.median(r for _, r in rates) if rates else None}
        by_size: dict[str, list[float]] = {}
        for step, rate in rates if image_sizes else ():
            size = max((begins, size) for begins, size in image_sizes if begins < step)[1]
            by_size.setdefault(str(size), []).append(rate)
        if image_sizes:
            found["examples_per_second_by_image_size"] = {k: statistics.median(v) for k, v in by_size.items()}
        return found

    def close(self) -> None:
        """Syncs and closes every file; on a full disk waiting records are lost."""
        self.sync()
        for part in self._parts:
            part.close()


def tensorboard_command(directory: RunDirectory) -> str:
    """Returns the command that shows the runs in the folder of this run."""
    return shlex.join(["mirrorline", "tensorboard", f"--logdir={os.path.dirname(os.path.abspath(directory.path))}"])


def _alike(values: Mapping[str, np.ndarray], scale_loss: bool) -> Iterator[tuple[np.ndarray, tuple[str, ...]]]:
    """Yields (indices, [k] ascending; names of their scalars) of the rows of {column: [n]} with the same scalars."""
    measured = [name for name in MEASURED_AT_TIMES if name in values]
    last = np.arange(len(values["applied"])) == len(values["applied"]) - 1
    marks = np.stack([last, values["applied"] == 0, *(np.isfinite(values[name]) for name in measured)])
    kinds = (1 << np.arange(len(marks))) @ marks
    for kind in np.unique(kinds):
        index = np.flatnonzero(kinds == kind)
        yield index, (*TRAIN_TAGS, *(name for name, there in zip(measured, marks[2:, index[0]], strict=True) if there),
                      *(("loss_scale", "skipped_steps") if scale_loss else ()))
