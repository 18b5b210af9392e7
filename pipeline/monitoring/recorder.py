"""One place where a run's numbers go: metrics.jsonl, TensorBoard and the progress display."""
import itertools
import math
import os
import shlex
import statistics
import sys

import numpy as np

from pipeline.config import MOVING_AVERAGE
from pipeline.evaluation.metrics import per_class_accuracy
from pipeline.files import no_room
from pipeline.monitoring.alerts import NoAlerts
from pipeline.monitoring.events import EventWriter
from pipeline.monitoring.full_disk import FullDisk
from pipeline.monitoring.metrics_log import JsonLines, read_backwards, read_records, table_lines
from pipeline.monitoring.scalar_events import scalar_events
from pipeline.monitoring.vitals import NoVitals

TRAIN_TAGS = ("loss", "accuracy", "learning_rate", "gradient_norm")
MEASURED_AT_TIMES = ("weight_norm", "update_ratio", "top5_accuracy")  # NaN where a step does not measure them.
# TensorBoard makes a section of all tags with the same beginning. What a run is looked at for stands alone.
SECTIONS = {"optimization": ("gradient_norm", "weight_norm", "update_ratio", "loss_scale", "skipped_steps"),
            "speed": ("examples_per_second", "examples_per_second_per_replica", "ceiling_share", "input_wait",
                      "goodput"),
            "memory": ("host_memory_mib", "host_memory_share", "host_memory_full", "device_memory_mib",
                       "device_memory_full")}
TAGS = {name: f"{section}/{name}" for section, names in SECTIONS.items() for name in names}
FIGURES = ("loss", "accuracy", "examples", "calibration_error", "top5_accuracy")
MOST_CLASS_TAGS = 50  # More curves than that nobody looks at; metrics.jsonl has all classes.


class Recorder:
    """Writes what every step and every evaluation gave.

    Order of writing: what is recorded up to a step is on disk (`sync`) before the checkpoint of that step is published,
    and a restore cuts what came after the step restored to (`cut_after`), so every step stands there once. On a full
    disk the records wait in memory, in order, and every call tries to write them.

    Attributes:
      progress: the display.
      vitals: Vitals or NoVitals.
      train_events, validation_events, root_events: EventWriter of TensorBoard's runs `train`, `validation` and `.`;
        what others write there is cut and synced with the rest.
    """

    def __init__(self, directory, batch_size, progress, disk=None, vitals=None, alerts=None, class_names=()):
        """
        Args:
          directory: RunDirectory, claimed.
          batch_size: examples of a step.
          progress: the display, see progress.py.
          disk: FullDisk that the run's checkpoints share; default one that writes to standard error.
          vitals: Vitals of the run; default one that knows the speed alone.
          alerts: Alerts of the run; default none.
          class_names: in the order of the labels; default their numbers.
        """
        self._directory = directory
        self.disk = disk or FullDisk(lambda text: print(text, file=sys.stderr, flush=True))
        self.batch_size, self.progress = batch_size, progress
        self.vitals, self._alerts = vitals or NoVitals(batch_size), alerts or NoAlerts()
        self._class_names, self._skipped = class_names, 0
        self.path = directory.file("metrics.jsonl")
        self._log = JsonLines(self.path)
        self.train_events = EventWriter(directory.file("tensorboard", "train"))
        self.validation_events = EventWriter(directory.file("tensorboard", "validation"))
        self.root_events = EventWriter(directory.file("tensorboard"))
        self._parts = (self._log, self.train_events, self.validation_events, self.root_events)

    def cut_after(self, step, evaluated=math.inf):
        """Forgets what later steps recorded, and evaluations of steps after `evaluated`.

        A process that is asked to stop in the middle of an evaluation saves its step before that is done.
        """
        self._log.cut_after(step, evaluated)
        self.train_events.cut_after(step)
        self.validation_events.cut_after(min(step, evaluated))
        self.root_events.cut_after(step)
        self.vitals.cut_after(step)
        self._alerts.forget()
        self._skipped = sum(record.get("skipped", False) for record in self._marked(b'"skipped"'))
        self.progress.restore(list(self._marked(b'"evaluation"')))

    def _marked(self, mark):
        """Returns an iterator over the records whose line holds the bytes `mark`."""
        return read_records(self.path, mark)

    def window(self, step, columns, rows, started, seconds, scale_loss, steady):
        """Records a window of steps.

        Args:
          step: global step at its end.
          columns: names of the columns of `rows`.
          rows: [window, k] float64, a row a step.
          started: wall time at its start, seconds since the epoch.
          seconds: its duration.
          scale_loss: whether the loss scale is worth recording.
          steady: whether the window's speed is that of training (the first one of a process is tracing).
        """
        count, means = len(rows), dict(zip(columns, rows.mean(axis=0).tolist(), strict=True))
        vitals = self.vitals.window(step, count, seconds, count * means.get("input_wait", 0.0), steady)
        values = dict(zip(columns, rows.T, strict=True))
        self._write(np.arange(step - count + 1, step + 1), started + seconds * np.arange(1, count + 1) / count,
                    {**values, "skipped_steps": self._count_skipped(values["applied"])}, scale_loss, vitals)
        self._flush()
        self.progress.window(step, means["loss"], means["accuracy"], vitals)
        for line in self._alerts.window(step, columns, rows, seconds, vitals):
            self.progress.warn(line)

    def _count_skipped(self, applied):
        """Returns how many steps the run has skipped by each step of a window; applied: [n] floats, 0 where skipped."""
        skipped = self._skipped + np.cumsum(applied == 0)
        self._skipped = int(skipped[-1])
        return skipped

    def _write(self, steps, times, values, scale_loss, vitals):
        """Takes the steps of a window for the event file and metrics.jsonl.

        Args:
          steps, times: [n], their numbers and wall times.
          values: {column: [n] floats}.
          scale_loss: whether the loss scale is worth recording.
          vitals: {name: float} that stand at the last one.
        """
        events, lines = np.empty(len(steps), object), np.empty(len(steps), object)
        for index, names in _alike(values, scale_loss):
            scalars = {name: values[name][index] for name in names}
            if index[-1] == len(steps) - 1:
                scalars.update((name, np.array([value])) for name, value in vitals.items())
            events[index] = scalar_events(steps[index], times[index],
                                          {TAGS.get(name, name): column for name, column in scalars.items()})
            columns = {"step": steps[index], "examples": steps[index] * self.batch_size,
                       "wall_time": times[index].round(3), **scalars}
            lines[index] = table_lines({"kind": "train", **({} if values["applied"][index[0]] else {"skipped": True})},
                                       {name: column.tolist() for name, column in columns.items()})
        self.train_events.events(steps.tolist(), events)
        self._log.append_lines(steps.tolist(), lines)

    def evaluation(self, step, split, evaluation, wall_time, average=False):
        """Records an Evaluation of a split, given by its name; `average`: of the moving average of the weights."""
        figures, classes = evaluation.figures, self._by_class(evaluation)
        which = {"weights": MOVING_AVERAGE} if average else {}
        self._log.append([{"kind": "evaluation", "step": step, "split": split, "wall_time": round(wall_time, 3),
                           **which, **figures, "per_class_accuracy": classes}])
        scalars = {tag: figures[tag] for tag in FIGURES if tag in figures and tag != "examples"}
        if len(classes) <= MOST_CLASS_TAGS:
            scalars.update((f"per_class_accuracy/{name}", share) for name, share in classes.items()
                           if not math.isnan(share))
        self.validation_events.scalars(step, wall_time, scalars)
        self._flush()
        self.progress.evaluation(step, split, figures)
        for line in self._alerts.evaluation(step, evaluation, split):
            self.progress.warn(line)

    def _by_class(self, evaluation):
        """Returns {class name: share of hits, NaN for a class without examples}."""
        names = self._class_names or [str(label) for label in range(evaluation.num_classes)]
        return dict(zip(names, per_class_accuracy(evaluation.rows, evaluation.num_classes).tolist(), strict=True))

    def _flush(self, sync=False):
        """Writes what there is to write, as far as the disk has room; returns the OSError if it has not, or None."""
        for part in self._parts:
            part.flush(sync)
        problem = next((part.problem for part in self._parts if part.problem), None)
        if problem is not None:
            self.disk.failed(
                f"the disk of {os.path.dirname(self.path)} is full ({problem.strerror}): training goes on, what it "
                "records waits in memory, and no checkpoint is saved until there is room")
        return problem

    def sync(self):
        """Makes everything recorded durable.

        Returns:
          False where the disk is full, which the user has then been told: a checkpoint of now would be ahead of what
          is recorded, and may not be saved.

        Raises:
          RunFailure: the run's directory is gone; written anew it would be another, with the end of the run alone.
        """
        self._directory.check_here()
        problem = self._flush(sync=True)
        if problem is not None:
            self.disk.make_room(no_room(problem))
            problem = self._flush(sync=True)
        return problem is None

    def mean_loss(self, first_step):
        """Returns the mean training loss of the steps from `first_step` on; steps without a finite loss left out."""
        records = (r for r in read_backwards(self.path) if r["kind"] == "train")
        losses = [r["loss"] for r in itertools.takewhile(lambda r: r["step"] >= first_step, records)
                  if r["loss"] is not None]
        return sum(reversed(losses)) / len(losses) if losses else None

    def last_evaluation(self, step, split):
        """Returns the figures (see Evaluation.figures) that were recorded at `step` on `split`, or None."""
        found = [r for r in self._marked(b'"evaluation"') if r["step"] == step and r["split"] == split]
        if not found:
            return None
        return {k: math.nan if found[-1][k] is None else found[-1][k] for k in FIGURES if k in found[-1]}

    def examples_per_second(self):
        """Returns the median speed of the windows of steps, over all restarts, or None."""
        rates = [r["examples_per_second"] for r in self._marked(b'"examples_per_second"')]
        return statistics.median(rates) if rates else None

    def close(self):
        """Syncs and closes every file; on a disk that is full to the end, what waits is lost."""
        self.sync()
        for part in self._parts:
            part.close()


def tensorboard_command(directory):
    """Returns the command that shows this run beside its neighbours."""
    return shlex.join(["mirrorline", "tensorboard", f"--logdir={os.path.dirname(os.path.abspath(directory.path))}"])


def _alike(values, scale_loss):
    """Yields (numbers of rows, [k] ascending; names of their scalars) of the rows that are written alike.

    Args:
      values: {column: [n] floats}.
      scale_loss: whether the loss scale is worth recording.
    """
    measured = [name for name in MEASURED_AT_TIMES if name in values]
    last = np.arange(len(values["applied"])) == len(values["applied"]) - 1
    marks = np.stack([last, values["applied"] == 0, *(np.isfinite(values[name]) for name in measured)])
    kinds = (1 << np.arange(len(marks))) @ marks
    for kind in np.unique(kinds):
        index = np.flatnonzero(kinds == kind)
        yield index, (*TRAIN_TAGS, *(name for name, there in zip(measured, marks[2:, index[0]], strict=True) if there),
                      *(("loss_scale", "skipped_steps") if scale_loss else ()))
