"""The cells of a sweep: every combination of what is varied. Standard library only."""
import dataclasses
import itertools
import re

from pipeline.augmentation import smallest_part
from pipeline.errors import UsageError
from pipeline.quantities import counted

KEY = ("model", "image_size", "precision", "workers", "replicas", "batch_size", "xla")


@dataclasses.dataclass(frozen=True)
class Cell:
    """One combination: names as in pipeline.config; `xla` is "on" or "off".

    `workers` processes train together, each with `replicas`; `batch_size` is that of all of them.
    """

    model: str
    dataset: str
    precision: str
    replicas: int
    batch_size: int
    xla: str
    workers: int = 1

    def config(self, base, batch_size=None):
        """Returns the ExperimentConfig of the cell: `base` with what is varied, and another batch size if one is given.

        That a precision is slow on this hardware is what a benchmark is to show: it stops nothing.
        """
        values = {**dataclasses.asdict(self), "batch_size": batch_size or self.batch_size}
        del values["workers"]  # How many there are, a process learns from its environment.
        return base.replace(**values, force=True)

    @property
    def all_replicas(self):
        """How many replicas share a batch, over all workers."""
        return self.workers * self.replicas

    @property
    def name(self):
        """A name for files, the same in every sweep."""
        several = f"{self.workers}w-" if self.workers > 1 else ""
        text = (f"{self.model}-{self.dataset}-{self.precision}-{several}{self.replicas}x-batch{self.batch_size}-"
                f"xla_{self.xla}")
        return re.sub(r"[^\w.-]+", "_", text)


def cells(axes):
    """Returns every Cell of the axes: models, datasets, precisions, workers, replica_counts, batch_sizes, xla_modes.

    One precision after the other, so that its ceiling is measured near its cells; batch sizes rise.
    """
    combinations = itertools.product(axes["precisions"], axes["models"], axes["datasets"], axes["xla_modes"],
                                     axes["workers"], axes["replica_counts"], sorted(axes["batch_sizes"]))
    return [Cell(model, dataset, precision, replicas, batch_size, xla, workers)
            for precision, model, dataset, xla, workers, replicas, batch_size in combinations]


def unit(config, replicas):
    """Returns the number that a batch has to be a multiple of, shared out over so many replicas in all."""
    return replicas * config.optimizer.accumulate_steps * smallest_part(config.data)


def halved(batch_size, multiple_of):
    """Returns about half a batch that can still be shared out, or None where there is none."""
    return batch_size // 2 // multiple_of * multiple_of or None


def check(cell, base):
    """Raises UsageError where a cell cannot be: before hours are spent on the others."""
    config, several = cell.config(base), replicas_words(cell.workers, cell.replicas)
    if cell.xla == "on" and cell.all_replicas > 1 and config.model.sync_batch_norm:
        fewer = " --workers=1 and" * (cell.workers > 1)
        raise UsageError(f"--xla_modes=on with {several} needs --nosync_batch_norm: batch statistics over replicas are "
                         f"a collective, which cannot stand inside compiled code; or give{fewer} --replica_counts=1")
    multiple = unit(config, cell.all_replicas)
    if cell.batch_size % multiple:
        raise UsageError(f"a batch of {cell.batch_size} cannot be shared out over {several}: with these settings it "
                         f"has to be a multiple of {multiple}; give other --batch_sizes or "
                         f"{'--workers' if cell.workers > 1 else '--replica_counts'}")


def replicas_words(workers, replicas):
    """Returns in words on how many processes and replicas a cell is: "2 replicas", "2 workers of 2 replicas"."""
    each = counted(replicas, "replica")
    return each if workers == 1 else f"{workers} workers" + (f" of {each}" if replicas > 1 else "")
