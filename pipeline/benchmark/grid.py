"""The cells of a sweep: every combination of what is varied. Standard library only."""
import dataclasses
import itertools
import re

from pipeline.errors import UsageError
from pipeline.options import augmentations

MIXING = ("mixup", "cutmix")  # They pair neighbours of a replica's rows.
KEY = ("model", "image_size", "precision", "replicas", "batch_size", "xla")


@dataclasses.dataclass(frozen=True)
class Cell:
    """One combination: names as in pipeline.config; `xla` is "on" or "off"."""

    model: str
    dataset: str
    precision: str
    replicas: int
    batch_size: int
    xla: str

    def config(self, base, batch_size=None):
        """Returns the ExperimentConfig of the cell: `base` with what is varied, and another batch size if one is given.

        That a precision is slow on this hardware is what a benchmark is to show: it stops nothing.
        """
        return base.replace(**{**dataclasses.asdict(self), "batch_size": batch_size or self.batch_size}, force=True)

    @property
    def name(self):
        """A name for files, the same in every sweep."""
        text = f"{self.model}-{self.dataset}-{self.precision}-{self.replicas}x-batch{self.batch_size}-xla_{self.xla}"
        return re.sub(r"[^\w.-]+", "_", text)


def cells(axes):
    """Returns every Cell of {"models", "datasets", "precisions", "replica_counts", "batch_sizes", "xla_modes"}.

    One precision after the other, so that its ceiling is measured near its cells; batch sizes rise.
    """
    combinations = itertools.product(axes["precisions"], axes["models"], axes["datasets"], axes["xla_modes"],
                                     axes["replica_counts"], sorted(axes["batch_sizes"]))
    return [Cell(model, dataset, precision, replicas, batch_size, xla)
            for precision, model, dataset, xla, replicas, batch_size in combinations]


def unit(config, replicas):
    """Returns the number that a batch has to be a multiple of."""
    pairs = 2 if any(a.name in MIXING for a in augmentations(config.data)) else 1
    return replicas * config.optimizer.accumulate_steps * pairs


def halved(batch_size, multiple_of):
    """Returns about half a batch that can still be shared out, or None where there is none."""
    return batch_size // 2 // multiple_of * multiple_of or None


def check(cell, base):
    """Raises UsageError where a cell cannot be: before hours are spent on the others."""
    config = cell.config(base)
    if cell.xla == "on" and cell.replicas > 1 and config.model.sync_batch_norm:
        raise UsageError(f"--xla_modes=on with {cell.replicas} replicas needs --nosync_batch_norm: batch statistics "
                         "over replicas are a collective, which cannot stand inside compiled code; or give "
                         "--replica_counts=1")
    if cell.batch_size % unit(config, cell.replicas):
        raise UsageError(f"a batch of {cell.batch_size} cannot be shared out over {cell.replicas} replicas: with these "
                         f"settings it has to be a multiple of {unit(config, cell.replicas)}; give other --batch_sizes "
                         "or --replica_counts")
