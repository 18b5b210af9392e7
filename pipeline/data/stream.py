"""Batches for training and evaluation."""
import dataclasses
import math
import os
from collections.abc import Sequence

import numpy as np
import tensorflow as tf

from pipeline.augmentation import Augmentation
from pipeline.choices import AUGMENTATIONS
from pipeline.data import augment
from pipeline.data.augment.resized_crop import DecodedCrop
from pipeline.data.memory import InMemory
from pipeline.data.source import Split
from pipeline.errors import UsageError
from pipeline.preprocessing import RESIZED_CROP
from pipeline.quantities import plural

# Batches made ahead of the step: as many as take so much memory, within these bounds.
PREFETCHED_BYTES, FEWEST_PREFETCHED, MOST_PREFETCHED = 64 * 2**20, 2, 16


@dataclasses.dataclass(frozen=True)
class BatchLayout:
    """The division of a global batch.

    Attributes:
      batch_size: examples of one optimizer step, over all workers, replicas and micro-batches.
      replicas: parts computed in parallel, over all workers.
      micro_batches: parts that a replica computes sequentially.
      workers: processes that share the replicas evenly.
      worker: index of this process.
    """

    batch_size: int
    replicas: int = 1
    micro_batches: int = 1
    workers: int = 1
    worker: int = 0

    @property
    def part(self) -> int:
        """Examples of one micro-batch on one replica."""
        return self.batch_size // (self.replicas * self.micro_batches)

    @property
    def here(self) -> "BatchLayout":
        """Layout of this worker's own part of the batch."""
        return BatchLayout(self.batch_size // self.workers, self.replicas // self.workers, self.micro_batches)

    @property
    def rows(self) -> np.ndarray:
        """Places of this worker's examples among the positions of a batch: int64 [batch_size / workers], ascending."""
        each = self.here.part * self.here.replicas
        first = np.arange(self.micro_batches)[:, None] * (self.part * self.replicas) + self.worker * each
        return (first + np.arange(each)).reshape(-1)


def train_stream(split: Split, layout: BatchLayout, seed: int, start_step: int,
                 augmentations: Sequence[Augmentation] = (), in_step: bool = False,
                 image_size: int | None = None) -> tf.data.Dataset:
    """Returns the endless stream of training batches from a step on: this worker's part of the global batches.

    The batch of step s has the positions [s B, (s + 1) B) of the stream. Each example and its augmentation is a
    function of (seed, position), and depends neither on where the stream was opened nor on the layout. Rows are
    arranged for a strategy that divides the batch into `replicas` contiguous parts, each divided into `micro_batches`
    contiguous parts: micro-batch m of all replicas together is the positions [s B + m B/k, s B + (m + 1) B/k), in
    replica order.

    Args:
      split: has at least one example.
      layout: division of the batch.
      seed: the run's seed.
      start_step: step of the first batch.
      augmentations: in order of application.
      in_step: leave augmentations of pixels to the step: batches come with "position" int64 [B] instead.
      image_size: height and width of the images; default those of the split. Files are decoded to it, images in memory
        resized with their augmentation.

    Returns:
      Data set of {"image": uint8 [B, H, W, C], "label": int32 [B], "weight": float32 [B] (ones)}, and "mix":
      float32 [B] (share of the own image; the rest is the neighbour's, row 2i's is 2i + 1 and the reverse) where one
      of the augmentations mixes.

    Raises:
      UsageError: an empty split, a batch that does not divide, or an odd part of a batch with mixing.
    """
    check_layout(split, layout, augmentations)
    rows, size = layout.rows, len(layout.rows)
    crop, place = decoded_crop(split, augmentations)
    arguments = {} if crop is None else {"crop": crop}  # Readers of users may know of none.
    reader = split.reader.sized(image_size) if image_size and hasattr(split.reader, "sized") else split.reader

    def finish(images, labels, step):
        images, labels = tf.ensure_shape(images, [size, *images.shape[1:]]), tf.ensure_shape(labels, [size])
        batch = {"image": images, "label": labels, "weight": tf.ones([size])}
        positions = step * layout.batch_size + tf.constant(rows, tf.int64)
        changed = augmentations[place:] or image_size not in (None, images.shape[1])
        if changed and in_step:
            batch["position"] = positions
        elif changed:
            with tf.device("CPU:0"):  # Where tf.data computes, whatever the scope is in which the stream is opened.
                batch["image"], mix = augment.apply(images, positions, seed, augmentations, place, image_size)
            if mix is not None:
                batch["mix"] = mix
        return {name: _arrange(value, layout.here) for name, value in batch.items()}

    return _tuned(reader.shuffled(seed, start_step, layout.batch_size, finish,
                                  rows if layout.workers > 1 else None, **arguments))


def decoded_crop(split: Split, augmentations: Sequence[Augmentation]) -> tuple[DecodedCrop | None, int]:
    """Returns what decoding does of a list of augmentations, and how many these are: (None, 0) without a crop."""
    names = [augmentation.name for augmentation in augmentations]
    if names[:1] != [RESIZED_CROP] or not getattr(split.reader, "crops", False):
        return None, 0
    done = 2 if names[1:2] == ["flip"] else 1
    strengths = [AUGMENTATIONS.find(one.name).row.default if one.strength is None else one.strength
                 for one in augmentations[:done]]
    return DecodedCrop(*strengths), done


def eval_batches(split: Split, layout: BatchLayout, start_batch: int = 0) -> tf.data.Dataset:
    """Returns the batches of one pass over a split, in its own order.

    Args:
      split: has at least one example.
      layout: its replicas must divide the batch size; micro-batches are ignored.
      start_batch: number of the first batch.

    Returns:
      Finite data set of {"image": uint8 [B, H, W, C], "label": int32 [B], "weight": float32 [B]}; examples have weight
      1, and the last batch is padded with black images of weight 0. Each worker gets its own B / workers rows of every
      batch.

    Raises:
      UsageError: an empty split, or a batch that does not divide.
    """
    layout = dataclasses.replace(layout, micro_batches=1)
    check_layout(split, layout)
    size, rows = layout.batch_size, layout.rows

    def finish(images, labels, number):
        count = tf.shape(labels)[0]
        short = size - count
        shape = images.shape[1:]
        images = tf.pad(images, [[0, short], [0, 0], [0, 0], [0, 0]])
        weight = tf.cast(tf.range(size) < count, tf.float32)
        batch = {"image": tf.ensure_shape(images, [size, *shape]),
                 "label": tf.ensure_shape(tf.pad(labels, [[0, short]]), [size]), "weight": weight}
        return {name: value[rows[0]:rows[-1] + 1] for name, value in batch.items()} if layout.workers > 1 else batch

    return _tuned(split.reader.in_order(start_batch, size, finish))


def image_batches(split: Split, batch_size: int) -> tf.data.Dataset:
    """Returns the batches of a split in its own order: (uint8 [n, H, W, C], int32 [n]); the last may be smaller."""
    return _tuned(split.reader.in_order(0, batch_size, lambda images, labels, number: (images, labels)))


def examples(split: Split, index: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Reads examples of a split.

    Args:
      split: any.
      index: int64 [n], their numbers in the split's own order, ascending.

    Returns:
      (images uint8 [n, H, W, C], labels int32 [n]).
    """
    if not len(index):
        return np.zeros([0, 1, 1, 1], np.uint8), np.zeros([0], np.int32)
    if isinstance(split.reader, InMemory):
        return split.reader.images[index], split.reader.labels[index]
    images, labels = next(image_batches(split.select(index), len(index)).as_numpy_iterator())
    return images, labels


def check_layout(split: Split, layout: BatchLayout, augmentations: Sequence[Augmentation] = ()) -> None:
    """Raises UsageError for an empty split, a batch that does not divide, or an odd part of a batch with mixing."""
    mixing = [a.name for a in augmentations if a.mixes]
    if split.num_examples < 1:
        raise UsageError(f"the {split.name} split has 0 examples: at least 1 is needed")
    check_batch_size(layout.batch_size, layout.replicas, layout.micro_batches)
    if mixing and layout.part % 2:
        raise UsageError(f"--batch_size={layout.batch_size} gives each of {layout.replicas} replicas {layout.part} "
                         f"examples a micro-batch; {mixing[0]} pairs neighbours, so give a multiple of "
                         f"{2 * layout.replicas * layout.micro_batches}")


def check_batch_size(batch_size: int, replicas: int, micro_batches: int) -> None:
    """Raises UsageError, naming the nearest sizes that work, for a batch that cannot be divided evenly."""
    parts = replicas * micro_batches
    if batch_size % parts:
        below = batch_size // parts * parts
        sizes = f"{below} or {below + parts}" if below else f"{parts} or {2 * parts}"
        raise UsageError(f"--batch_size={batch_size} does not divide by {replicas} replicas times {micro_batches} "
                         f"{plural(micro_batches, 'micro-batch', 'micro-batches')}: the nearest that do are {sizes}")


def _arrange(value, layout):
    """Turns rows in the order [micro-batch, replica, example] into [replica, micro-batch, example]."""
    if layout.replicas == 1 or layout.micro_batches == 1:
        return value
    shape = value.shape
    value = tf.reshape(value, [layout.micro_batches, layout.replicas, layout.part, *shape[1:]])
    value = tf.transpose(value, [1, 0, 2, *range(3, len(shape) + 2)])
    return tf.reshape(value, shape)


def _tuned(dataset):
    """Returns the data set with prefetching, its own threads, and a fixed order."""
    options = tf.data.Options()
    options.deterministic = True
    options.threading.private_threadpool_size = max(2, len(os.sched_getaffinity(0)))
    # The default rewrites serialize the graph with its constants: a copy of a data set in memory.
    options.experimental_optimization.apply_default_optimizations = False
    options.experimental_distribute.auto_shard_policy = tf.data.experimental.AutoShardPolicy.OFF
    return dataset.prefetch(_prefetched(dataset.element_spec)).with_options(options)


def _prefetched(spec):
    """Returns how many batches are made ahead.

    Not tf.data.AUTOTUNE: it doubles its buffer each time that the step finds it empty after it was full, as after each
    pause for an evaluation, up to half of the machine's memory.
    """
    tensors = tf.nest.flatten(spec)
    if not all(tensor.shape.is_fully_defined() for tensor in tensors):
        return FEWEST_PREFETCHED
    size = sum(math.prod(tensor.shape) * tensor.dtype.size for tensor in tensors)
    return min(MOST_PREFETCHED, max(FEWEST_PREFETCHED, PREFETCHED_BYTES // size))
