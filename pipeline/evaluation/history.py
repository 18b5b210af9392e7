"""The history of a run: learning curves from metrics.jsonl, and its cost."""
import array
import math
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

MOST_POINTS = 500
TRAIN = ("loss", "accuracy", "learning_rate")
EVALUATION = ("loss", "accuracy")
TIMES_FORWARD = 3  # A backward pass costs about two forward ones.


def thinned(columns: Mapping[str, np.ndarray], most: int = MOST_POINTS) -> dict[str, list]:
    """Shortens columns of equal length to at most `most` values: means of (nearly) equal ranges, NaN ignored.

    Returns:
      {name: list}; None for a range of NaN alone.
    """
    length = len(next(iter(columns.values())))
    ranges = np.array_split(np.arange(length), min(length, most)) if length else []

    def mean(values):
        values = values[np.isfinite(values)]
        return float(values.mean()) if len(values) else None

    return {name: [mean(values[r]) for r in ranges] for name, values in columns.items()}


def learning_curves(records: Iterable[dict]) -> dict[str, dict]:
    """Returns the learning curves of a run from the records of its metrics.jsonl, which are read once and not kept.

    Returns:
      {"train": {"step", "loss", "accuracy", "learning_rate"}, "evaluation": {split: {"step", "loss", "accuracy"}}}:
      lists of at most MOST_POINTS numbers or None; the step of a point is the mean of its range.
    """
    train = _columns(TRAIN)
    evaluation: dict[Any, dict[str, array.array]] = {}
    for record in records:
        if record.get("kind") == "train":
            part = train
        elif record.get("kind") == "evaluation":
            part = evaluation.setdefault(record.get("split"), _columns(EVALUATION))
        else:
            continue
        for name, values in part.items():
            value = record.get(name)
            values.append(math.nan if value is None else value)
    return {"train": _thin(train), "evaluation": {split: _thin(part) for split, part in evaluation.items()}}


def _columns(names: Iterable[str]) -> dict[str, array.array]:
    return {name: array.array("d") for name in ("step", *names)}


def _thin(columns: Mapping[str, array.array]) -> dict[str, list]:
    return thinned({name: np.asarray(values) for name, values in columns.items()})


def cost(goodput: Mapping, examples_seen: int, device: Mapping | None = None,
         flops_per_example: float | None = None) -> dict[str, Any]:
    """Returns the cost of a run over all its launches.

    Args:
      goodput: that of result.json, see pipeline.monitoring.goodput.summarize.
      examples_seen: examples it was trained on, repetitions counted.
      device: {"kind": "CPU" or "GPU", "count": devices, "cores": of the machine} it ran on, None where it is unknown.
      flops_per_example: operations of a forward pass for an example, or None.

    Returns:
      {"wall_seconds", "examples_seen", "training_flops": TIMES_FORWARD times those of a forward pass or None, and
      "gpu_hours" or "core_hours" where the device is known}.
    """
    seconds = sum(goodput["seconds"].values())
    found = {"wall_seconds": round(seconds, 3), "examples_seen": examples_seen,
             "training_flops": flops_per_example and TIMES_FORWARD * flops_per_example * examples_seen}
    if device:
        name, number = ("gpu_hours", "count") if device["kind"] == "GPU" else ("core_hours", "cores")
        found[name] = round(seconds / 3600 * device[number], 6)
    return found
