"""One place where a run's numbers go: metrics.jsonl, TensorBoard and the progress display."""
import math
import os
import statistics
import sys

from pipeline.files import no_room
from pipeline.monitoring.events import EventWriter
from pipeline.monitoring.full_disk import FullDisk
from pipeline.monitoring.metrics_log import JsonLines, read_records

TRAIN_TAGS = ("loss", "accuracy", "learning_rate", "gradient_norm")


class Recorder:
    """Writes what every step and every evaluation gave.

    Order of writing: what is recorded up to a step is on disk (`sync`) before the checkpoint of that step is published,
    and a restore cuts what came after the step restored to (`cut_after`), so every step stands there once. On a full
    disk the records wait in memory, in order, and every call tries to write them.
    """

    def __init__(self, directory, batch_size, progress, disk=None):
        """
        Args:
          directory: RunDirectory, claimed.
          batch_size: examples of a step.
          progress: the display, see progress.py.
          disk: FullDisk that the run's checkpoints share; default one that writes to standard error.
        """
        self.disk = disk or FullDisk(lambda text: print(text, file=sys.stderr, flush=True))
        self.batch_size, self.progress = batch_size, progress
        self.path = directory.file("metrics.jsonl")
        self._log = JsonLines(self.path)
        self._train = EventWriter(directory.file("tensorboard", "train"))
        self._validation = EventWriter(directory.file("tensorboard", "validation"))

    def cut_after(self, step, evaluated=math.inf):
        """Forgets what later steps recorded, and evaluations of steps after `evaluated`.

        A process that is asked to stop in the middle of an evaluation saves its step before that is done.
        """
        self._log.cut_after(step, evaluated)
        self._train.cut_after(step)
        self._validation.cut_after(min(step, evaluated))

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
        count = len(rows)
        records, rate = [], count * self.batch_size / max(seconds, 1e-9)
        for i, row in enumerate(rows.tolist()):
            values = dict(zip(columns, row, strict=True))
            at, when = step - count + 1 + i, started + seconds * (i + 1) / count
            record = {"kind": "train", "step": at, "examples": at * self.batch_size, "wall_time": round(when, 3),
                      **{tag: values[tag] for tag in TRAIN_TAGS}}
            if scale_loss:
                record["loss_scale"] = values["loss_scale"]
            if not values["applied"]:
                record["skipped"] = True
            scalars = {tag: record[tag] for tag in (*TRAIN_TAGS, *(("loss_scale",) if scale_loss else ()))}
            if i == count - 1 and steady:
                scalars["examples_per_second"] = record["examples_per_second"] = rate
            self._train.scalars(at, when, scalars)
            records.append(record)
        self._log.append(records)
        self._flush()
        last = dict(zip(columns, rows.mean(axis=0).tolist(), strict=True))
        self.progress.window(step, last["loss"], last["accuracy"], rate)

    def evaluation(self, step, split, figures, wall_time):
        """Records an evaluation: figures is {"loss", "accuracy", "examples"}."""
        self._log.append([{"kind": "evaluation", "step": step, "split": split, "wall_time": round(wall_time, 3),
                           **figures}])
        self._validation.scalars(step, wall_time, {"loss": figures["loss"], "accuracy": figures["accuracy"]})
        self._flush()
        self.progress.evaluation(step, split, figures)

    def _flush(self, sync=False):
        """Writes what there is to write, as far as the disk has room; returns the OSError if it has not, or None."""
        parts = (self._log, self._train, self._validation)
        for part in parts:
            part.flush(sync)
        problem = next((part.problem for part in parts if part.problem), None)
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
        """
        problem = self._flush(sync=True)
        if problem is not None:
            self.disk.make_room(no_room(problem))
            problem = self._flush(sync=True)
        return problem is None

    def mean_loss(self, first_step):
        """Returns the mean training loss of the steps from `first_step` on; steps without a finite loss left out."""
        losses = [r["loss"] for r in read_records(self.path)
                  if r["kind"] == "train" and r["step"] >= first_step and r["loss"] is not None]
        return sum(losses) / len(losses) if losses else None

    def last_evaluation(self, step, split):
        """Returns the figures of an evaluation that was recorded at `step` on `split`, or None."""
        found = [r for r in read_records(self.path)
                 if r["kind"] == "evaluation" and r["step"] == step and r["split"] == split]
        if not found:
            return None
        return {k: math.nan if found[-1][k] is None else found[-1][k] for k in ("loss", "accuracy", "examples")}

    def examples_per_second(self):
        """Returns the median speed of the windows of steps, over all restarts, or None."""
        rates = [r["examples_per_second"] for r in read_records(self.path) if "examples_per_second" in r]
        return statistics.median(rates) if rates else None

    def close(self):
        """Syncs and closes every file; on a disk that is full to the end, what waits is lost."""
        self.sync()
        for part in (self._log, self._train, self._validation):
            part.close()


def tensorboard_command(directory):
    """Returns the command that shows this run beside its neighbours."""
    return f"tensorboard --logdir {os.path.dirname(os.path.abspath(directory.path))}"
