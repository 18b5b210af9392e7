"""Figures over all examples of a split."""
import numpy as np

from pipeline.activity import activity
from pipeline.data.stream import BatchLayout, eval_batches

_BATCH = 256


def channel_statistics(split):
    """Returns mean and standard deviation of each channel over all pixels of all examples.

    Sums are integers, so the result is exact and does not depend on an order of summation.

    Args:
      split: Split with uint8 images.

    Returns:
      (mean, deviation): two lists of C floats for images scaled to [0, 1].
    """
    total = None
    count = 0
    with activity("measuring the mean of the images", total=split.num_examples) as doing:
        for batch in eval_batches(split, BatchLayout(_BATCH)):
            images = batch["image"].numpy()[batch["weight"].numpy() > 0]
            channels = images.shape[-1]
            # A histogram holds both sums, needs no wider copy of the images and cannot overflow.
            histograms = np.stack([np.bincount(images[..., c].ravel(), minlength=256) for c in range(channels)])
            total = histograms if total is None else total + histograms
            count += images[..., 0].size
            doing.advance(len(images))
    values = np.arange(256, dtype=np.int64)
    sums, squares = (total * values).sum(1), (total * values**2).sum(1)
    mean = [int(s) / (255 * count) for s in sums]
    variance = [(int(q) * count - int(s)**2) / (255 * count)**2 for q, s in zip(squares, sums, strict=True)]
    return mean, [float(np.sqrt(v)) for v in variance]


def class_counts(split, num_classes):
    """Returns how many examples each class has: int64 [num_classes]."""
    labels = split.reader.read_labels() if split.labels is None else split.labels
    return np.bincount(labels, minlength=num_classes).astype(np.int64)
