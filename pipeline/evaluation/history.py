"""How a run came to its model: learning curves from metrics.jsonl, and what they have cost."""
import array
import math

import numpy as np

MOST_POINTS = 500
TRAIN = ("loss", "accuracy", "learning_rate")
EVALUATION = ("loss", "accuracy")
TIMES_FORWARD = 3  # A backward pass costs about two forward ones.


def thinned(columns, most=MOST_POINTS):
    """Shortens columns of the same length to at most `most` values, the means of ranges of (nearly) equal length.

    Args:
      columns: {name: float64 [N]}; NaN counts nothing.
      most: how many values stay.

    Returns:
      {name: list}; a range without a number gives None.
    """
    length = len(next(iter(columns.values())))
    ranges = np.array_split(np.arange(length), min(length, most)) if length else []

    def mean(values):
        values = values[np.isfinite(values)]
        return float(values.mean()) if len(values) else None

    return {name: [mean(values[r]) for r in ranges] for name, values in columns.items()}


def learning_curves(records):
    """Returns the learning curves of a run.

    Args:
      records: the records of its metrics.jsonl, which are gone through once and not kept: a run may have millions.

    Returns:
      {"train": {"step", "loss", "accuracy", "learning_rate"}, "evaluation": {split: {"step", "loss", "accuracy"}}}:
      lists of at most MOST_POINTS numbers or None; a step is the mean of those that a point stands for.
    """
    train, evaluation = _columns(TRAIN), {}
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


def _columns(names):
    return {name: array.array("d") for name in ("step", *names)}


def _thin(columns):
    return thinned({name: np.asarray(values) for name, values in columns.items()})


def cost(goodput, examples_seen, device=None, flops_per_example=None):
    """Adds up what a run has cost over all its launches.

    Args:
      goodput: that of result.json, see pipeline.monitoring.goodput.summarize.
      examples_seen: examples it was trained on, repetitions counted.
      device: {"kind": "CPU" or "GPU", "count": devices, "cores": of the machine} it ran on, None where nobody wrote it
        down.
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
