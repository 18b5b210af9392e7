"""A benchmark from its cells to benchmark.json, .csv, .md and .html."""
import datetime
import math
import os
import tempfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any

from pipeline.benchmark import derived, page
from pipeline.benchmark.cell_runner import CellRunner
from pipeline.benchmark.display import PlainDisplay
from pipeline.benchmark.grid import Cell
from pipeline.benchmark.store import INDIFFERENT, Store
from pipeline.config import ExperimentConfig, defaults
from pipeline.files import plain, write_json
from pipeline.processes import Processes
from pipeline.quantities import counted, plural
from pipeline.training.preemption import StopRequest

SCHEMA = 1
VARIED = ("model", "precision", "replicas", "batch_size", "xla")  # Options that the key of a cell has.


def measure_cells(cells: Sequence[Cell], config: ExperimentConfig, store: Store, extent: Mapping[str, float],
                  display: PlainDisplay, memory_limit: int, workers: Callable[[str], AbstractContextManager],
                  ) -> tuple[list[dict[str, Any]], bool]:
    """Measures the cells that the store does not have.

    Args:
      cells: in order.
      config: of what is not varied.
      store: of the cells measured before.
      extent: the fields of pipeline.benchmark.measure.Extent.
      display: where progress is shown.
      memory_limit: MiB for the process of a cell; 0 for no limit.
      workers: returns launch.cluster.benchmark_workers.CellWorkers for a folder of their logs.

    Returns:
      (figures of the cells, whether all were measured).
    """
    timeout = config.runtime.hang_timeout or None
    kept = {cell: figures for cell in cells if (figures := store.load(cell, config))}
    display.info(f"benchmark {counted(len(cells), 'cell')} in {store.folder}"
                 + (f", {len(kept)} of them measured before" if kept else ""))
    for part, count in store.ignored.items():
        display.info(f"          {count} measured before under other {part} {plural(count, 'does', 'do')} not count")
    with StopRequest() as stop, tempfile.TemporaryDirectory(prefix="mirrorline-benchmark-") as folder, \
            Processes(timeout or math.inf) as processes, workers(folder) as start_workers:
        return CellRunner(processes, start_workers, folder, store, config, extent, display, stop, memory_limit,
                          timeout).run(cells, kept)


def write_report(found: list[dict[str, Any]], complete: bool, store: Store, config: ExperimentConfig, command: str,
                 projected: Mapping[str, Any] | None, shared_cores: bool) -> dict[str, Any]:
    """Derives the figures that compare cells and writes the four files.

    Args:
      found: figures of each cell.
      complete: whether these are all cells.
      store, config: see `measure_cells`.
      command: line to repeat the benchmark.
      projected: result of projection.project, or None.
      shared_cores: whether replicas and workers share one CPU.

    Returns:
      The contents of benchmark.json.
    """
    measured = {cell["precision"] for cell in found}
    ceilings = {name: figures for name, figures in store.ceilings().items() if name in measured}
    derived.derive(found, ceilings, shared_cores)
    default = defaults()
    report = plain({
        "schema": SCHEMA, "created": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "command": command, "complete": complete, "machine": store.context["machine"],
        "versions": store.context["versions"], "measuring": store.context["measuring"],
        "flags": {name: value for name, value in config.flat().items()
                  if value != default[name] and name not in (*INDIFFERENT, *VARIED)},
        "ceilings": ceilings, "cells": found, "projection": projected})
    os.makedirs(store.folder, exist_ok=True)
    write_json(store.file("benchmark.json"), report)
    page.write_all(report, store.folder)
    return report
