"""The cells of a benchmark: every combination of what is varied. Standard library only."""
import dataclasses
import itertools
import re
from collections.abc import Mapping
from typing import Any

from pipeline.augmentation import smallest_part
from pipeline.config import ExperimentConfig
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

    def config(self, base: ExperimentConfig, batch_size: int | None = None) -> ExperimentConfig:
        """Returns the configuration of the cell, with another batch size if one is given.

        A precision that is slow on this hardware is measured anyway.
        """
        values = {**dataclasses.asdict(self), "batch_size": batch_size or self.batch_size}
        del values["workers"]  # A process reads their number from TF_CONFIG.
        return base.replace(**values, force=True)

    @property
    def all_replicas(self) -> int:
        """Number of replicas that share a batch, over all workers."""
        return self.workers * self.replicas

    @property
    def name(self) -> str:
        """A name for files, the same in every benchmark."""
        several = f"{self.workers}w-" if self.workers > 1 else ""
        text = (f"{self.model}-{self.dataset}-{self.precision}-{several}{self.replicas}x-batch{self.batch_size}-"
                f"xla_{self.xla}")
        return re.sub(r"[^\w.-]+", "_", text)


def cells(axes: Mapping[str, Any]) -> list[Cell]:
    """Returns every Cell of the axes: models, datasets, precisions, workers, replica_counts, batch_sizes, xla_modes.

    One precision after the other; batch sizes ascend.
    """
    combinations = itertools.product(axes["precisions"], axes["models"], axes["datasets"], axes["xla_modes"],
                                     axes["workers"], axes["replica_counts"], sorted(axes["batch_sizes"]))
    return [Cell(model, dataset, precision, replicas, batch_size, xla, workers)
            for precision, model, dataset, xla, workers, replicas, batch_size in combinations]


def unit(config: ExperimentConfig, replicas: int) -> int:
    """Returns the number that a batch over so many replicas has to be a multiple of."""
    return replicas * config.optimizer.accumulate_steps * smallest_part(config.data)


def halved(batch_size: int, multiple_of: int) -> int | None:
    """Returns about half of a batch size, a multiple of `multiple_of`, or None where there is none."""
    return batch_size // 2 // multiple_of * multiple_of or None


def check(cell: Cell, base: ExperimentConfig) -> None:
    """Raises UsageError for a cell that cannot run, before hours are spent on others."""
    config, several = cell.config(base), replicas_words(cell.workers, cell.replicas)
    if cell.xla == "on" and cell.all_replicas > 1 and config.model.sync_batch_norm:
        fewer = " --workers=1 and" * (cell.workers > 1)
        raise UsageError(f"--xla_modes=on with {several} needs --nosync_batch_norm: batch statistics over replicas are "
                         f"a collective, which cannot be part of compiled code; or give{fewer} --replica_counts=1")
    multiple = unit(config, cell.all_replicas)
    if cell.batch_size % multiple:
        raise UsageError(f"a batch of {cell.batch_size} cannot be shared out over {several}: with these settings it "
                         f"has to be a multiple of {multiple}; give other --batch_sizes or "
                         f"{'--workers' if cell.workers > 1 else '--replica_counts'}")


def replicas_words(workers: int, replicas: int) -> str:
    """Returns "2 replicas", "2 workers" of one replica each, or "2 workers of 2 replicas"."""
    each = counted(replicas, "replica")
    return each if workers == 1 else f"{workers} workers" + (f" of {each}" if replicas > 1 else "")


def name_of(cell: Mapping[str, Any]) -> str:
    """Returns the key of a cell in words."""
    replicas = replicas_words(cell["workers"], cell["replicas"])
    return (f"{cell['model']} {cell['image_size']} {cell['precision']}, {replicas}, batch {cell['batch_size']}, "
            f"xla {cell['xla']}")
