"""Figures that compare cells: speed-up, scaling efficiency, share of the machine's ceiling."""
import statistics
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from pipeline.benchmark.grid import KEY

NAMES = ("speedup_over_float32", "weak_scaling_efficiency", "strong_scaling_efficiency", "ceiling_share",
         "ideal_speedup")


def is_measured(cell: Mapping[str, Any]) -> bool:
    """Returns whether a cell has a throughput."""
    return bool(cell.get("examples_per_second"))


def batch_of(cell: Mapping[str, Any]) -> int:
    """Returns the batch size that was measured, smaller than the requested one where that did not fit."""
    return cell.get("fitted_batch_size") or cell["batch_size"]


def is_halved(cell: Mapping[str, Any]) -> bool:
    """Returns whether a smaller batch than the requested one was measured."""
    return is_measured(cell) and batch_of(cell) < cell["batch_size"]


def derive(cells: Sequence[dict[str, Any]], ceilings: Mapping[str, Any] | None,
           shared_cores: bool | None = None) -> None:
    """Adds the figures that compare cells to each of them, in place; None where the other cell is missing.

    - speedup_over_float32: examples/s over that of float32 with all else equal; None for float32.
    - weak_scaling_efficiency: examples/s of n replicas at batch n*b over n times that of one replica at batch b.
    - strong_scaling_efficiency: examples/s of n replicas at batch b over n times that of one replica at batch b.
    - ideal_speedup: the n of these two; 1 where replicas are logical devices that share the same cores.

    With several workers n is their number, and the other cell is one worker with as many replicas.

    - ceiling_share: floating-point operations a second of the training step over those of the devices' largest
      matrix product in the same precision.

    A batch that was halved is compared with others of its measured size.

    Args:
      cells: dicts as in benchmark.json.
      ceilings: {precision: {"matmul_gflops": GFLOP/s of one device}}.
      shared_cores: whether replicas and workers share one CPU; None: if no cell has used the memory of a GPU.
    """
    if shared_cores is None:
        shared_cores = not any((cell.get("peak_memory_mib") or {}).get("device") for cell in cells)
    rates: dict[tuple, float] = {}
    # Of two cells of one size, the one that was not halved counts.
    for cell in sorted(filter(is_measured, cells), key=is_halved):
        rates.setdefault(_place(cell), cell["examples_per_second"])
    for cell in cells:
        cell.update(dict.fromkeys(NAMES))
        if is_measured(cell):
            _derive_one(cell, rates, ceilings or {}, shared_cores)


def median_speedup(cells: Iterable[Mapping[str, Any]], precision: str) -> float | None:
    """Returns the median speed-up over float32 of the cells of one precision, or None."""
    known = [cell["speedup_over_float32"] for cell in cells
             if cell["precision"] == precision and cell.get("speedup_over_float32")]
    return statistics.median(known) if known else None


def _place(cell, **other):
    values = {**{name: cell[name] for name in KEY}, "batch_size": batch_of(cell), **other}
    return tuple(values[name] for name in KEY)


def _derive_one(cell, rates, ceilings, shared_cores):
    rate, batch = cell["examples_per_second"], batch_of(cell)
    over = "workers" if cell["workers"] > 1 else "replicas"
    count = cell[over]
    ideal = cell["ideal_speedup"] = 1 if shared_cores else count
    if cell["precision"] != "float32":
        cell["speedup_over_float32"] = _ratio(rate, rates.get(_place(cell, precision="float32")))
    if count > 1:
        one = rates.get(_place(cell, **{over: 1}))
        cell["strong_scaling_efficiency"] = _ratio(rate, one and ideal * one)
        share = rates.get(_place(cell, **{over: 1}, batch_size=batch // count)) if batch % count == 0 else None
        cell["weak_scaling_efficiency"] = _ratio(rate, share and ideal * share)
    gflops = (ceilings.get(cell["precision"]) or {}).get("matmul_gflops")
    operations = cell.get("flops_per_example")
    if gflops and operations:
        devices = 1 if shared_cores else cell["workers"] * cell["replicas"]
        cell["ceiling_share"] = rate * operations / 1e9 / (gflops * devices)


def _ratio(value, base):
    return value / base if base else None
