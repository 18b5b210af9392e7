"""What every kind of data set looks like to the rest of the pipeline."""
import dataclasses
import hashlib
from collections.abc import Callable
from typing import Protocol

import numpy as np
import tensorflow as tf

Finish = Callable[..., dict[str, tf.Tensor]]


class Reader(Protocol):
    """Gets the examples of a split as batches.

    Both methods hand each batch to `finish(images, labels, number)` inside the graph: images uint8 [n, H, W, C], labels
    int32 [n], number int64 scalar, the batch's number; they return a data set of what it returns.
    """

    def shuffled(self, seed: int, start_step: int, batch_size: int, finish: Finish, rows=None) -> tf.data.Dataset:
        """Endless batches in the order of (seed, position), from position start_step * batch_size.

        With rows, int64 [n] ascending, only these rows of each batch are decoded, and n images are handed on.
        """

    def in_order(self, start_batch: int, batch_size: int, finish: Finish) -> tf.data.Dataset:
        """The batches of one pass in the data set's own order from number start_batch; the last may be short."""

    def select(self, index: np.ndarray) -> "Reader":
        """A reader of the examples `index`, int64 [n] ascending, alone."""

    def read_labels(self) -> np.ndarray:
        """Every label, int32 [N]; may have to read the whole split once."""


@dataclasses.dataclass(frozen=True, eq=False)
class Split:
    """One part of a data set.

    Attributes:
      name: "train", "test" or "validation".
      num_examples: how many.
      reader: gets them.
      labels: int32 [num_examples], or None where finding out means reading everything (`reader.read_labels()`).
      files: list of the names of the files that the examples are, or None where they are none.
    """

    name: str
    num_examples: int
    reader: Reader
    labels: np.ndarray | None = None
    files: list | None = None

    def select(self, index, name=None):
        """Returns the split of the examples `index`, int64 [n] ascending, alone."""
        index = np.asarray(index, np.int64)
        labels = None if self.labels is None else self.labels[index]
        files = None if self.files is None else [self.files[i] for i in index]
        return Split(name or self.name, len(index), self.reader.select(index), labels, files)


@dataclasses.dataclass(frozen=True, eq=False)
class Source:
    """A data set for image classification.

    Attributes:
      name: what the user called it.
      class_names: one a class, in the order of the labels.
      image_shape: (H, W, C) of the uint8 images.
      train, test: its splits; test is None where it has a validation split alone.
      validation: the split that selects the checkpoint, where it is not the test split, or None.
      fingerprint: hex digest that changes when examples, their order, labels or classes change.
      notes: lines to tell the user.
      test_from_train: whether the test split was held out of training, for want of one.
      validation_from: where the validation split is from, splits.DATA_SET or TRAINING; None without one.
    """

    name: str
    class_names: tuple[str, ...]
    image_shape: tuple[int, int, int]
    train: Split
    test: Split | None
    validation: Split | None
    fingerprint: str
    notes: tuple[str, ...] = ()
    test_from_train: bool = False
    validation_from: str | None = None

    @property
    def num_classes(self):
        return len(self.class_names)

    @property
    def watched(self):
        """The split that evaluations along the way look at and that selects the checkpoint."""
        return self.validation or self.test

    @property
    def final(self):
        """The split that the figures at the end of a run are of: the test split, or validation where there is none."""
        return self.test or self.validation


def numbered_batches(examples, first, batch_size, finish):
    """Batches a data set of (image, label) for a Reader and hands each batch to `finish` with its number.

    Args:
      examples: tf.data.Dataset of (uint8 [H, W, C], int32).
      first: number of the first batch.
      batch_size: examples of a batch.
      finish: see Reader.
    """
    numbers = tf.data.Dataset.range(first, np.iinfo(np.int64).max)
    batches = tf.data.Dataset.zip(numbers, examples.batch(batch_size))

    @tf.autograph.experimental.do_not_convert
    def finished(number, batch):
        return finish(*batch, number)

    return batches.map(finished, num_parallel_calls=1, deterministic=True)


def digest(*parts):
    """Returns the SHA-256 of strings, numbers and arrays, told apart by type and length, as hex."""
    total = hashlib.sha256()
    for part in parts:
        if isinstance(part, np.ndarray):
            part = np.ascontiguousarray(part)
            head, body = f"array {part.dtype.str} {part.shape}", memoryview(part).cast("B") if part.size else b""
        else:
            head, body = type(part).__name__, repr(part).encode()
        total.update(f"{head} {len(body)}\n".encode())
        total.update(body)
    return total.hexdigest()
