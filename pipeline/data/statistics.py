"""Statistics over all examples of a split."""
from typing import Any

import numpy as np

from pipeline.activity import activity
from pipeline.data.source import Split
from pipeline.data.stream import BatchLayout, eval_batches

_BATCH = 256


def channel_statistics(split: Split) -> tuple[list[float], list[float]]:
    """Returns mean and standard deviation of each channel over all pixels of all examples.

    Sums are integers, so the result is exact and does not depend on the order of summation.

    Returns:
      (mean, std): C floats each, for images scaled to [0, 1].
    """
    total: Any = 0
    count = 0
    with activity("measuring the mean of the images", total=split.num_examples) as doing:
        for batch in eval_batches(split, BatchLayout(_BATCH)):
            images = batch["image"].numpy()[batch["weight"].numpy() > 0]
            channels = images.shape[-1]
            # A histogram yields both sums, needs no wider copy of the images and cannot overflow.
            histograms = np.stack([np.bincount(images[..., c].ravel(), minlength=256) for c in range(channels)])
            total = total + histograms
            count += images[..., 0].size
            doing.advance(len(images))
    values = np.arange(256, dtype=np.int64)
    sums, squares = (total * values).sum(1), (total * values**2).sum(1)
    mean = [int(s) / (255 * count) for s in sums]
    variance = [(int(q) * count - int(s)**2) / (255 * count)**2 for q, s in zip(squares, sums, strict=True)]
    return mean, [float(np.sqrt(v)) for v in variance]


def class_counts(split: Split, num_classes: int) -> np.ndarray:
    """Returns the number of examples of each class: int64 [num_classes]."""
    labels = split.reader.read_labels() if split.labels is None else split.labels
    return np.bincount(labels, minlength=num_classes).astype(np.int64)
