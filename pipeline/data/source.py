"""The interface of a data set to the rest of the pipeline."""
import dataclasses
import hashlib
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import numpy as np
import tensorflow as tf

from pipeline.data.augment.resized_crop import DecodedCrop
from pipeline.data.unreadable import Unreadable
from pipeline.preprocessing import Preprocessing

Finish = Callable[..., Any]  # Of (images, labels, number), see Reader.


class Reader(Protocol):
    """Reads the examples of a split in batches. `crops`: whether it decodes files, and can decode parts of them.

    Both methods map each batch with `finish(images, labels, number)` inside the graph: images uint8 [n, H, W, C],
    labels int32 [n], number int64 scalar, that of the batch.
    """

    crops: bool

    def shuffled(self, seed: int, start_step: int, batch_size: int, finish: Finish, rows: np.ndarray | None = None,
                 crop: DecodedCrop | None = None) -> tf.data.Dataset:
        """Endless batches in the order of (seed, position), from position start_step * batch_size.

        With rows, int64 [n] ascending, only these rows of each batch are decoded and passed on. With a crop, which
        only a reader with `crops` takes, each image is a part of its file.
        """

    def in_order(self, start_batch: int, batch_size: int, finish: Finish) -> tf.data.Dataset:
        """The batches of one pass in the data set's own order from number start_batch; the last may be smaller."""

    def select(self, index: np.ndarray) -> "Reader":
        """A reader of the examples `index`, int64 [n] ascending."""

    def read_labels(self) -> np.ndarray:
        """Every label, int32 [N]; may read the whole split once."""

    # A reader that decodes files also has `sized(size: int) -> Reader`: one whose training images are size x size.


@dataclasses.dataclass(frozen=True, eq=False)
class Split:
    """One part of a data set.

    Attributes:
      name: "train", "test" or "validation".
      num_examples: number of examples.
      reader: reads them.
      labels: int32 [num_examples], or None where only `reader.read_labels()` knows them, by reading the whole split.
      files: names of the image files, one an example; None where examples are no files.
      groups: int64 [num_examples], of examples that belong together (a patient's) and are never divided; None without.
    """

    name: str
    num_examples: int
    reader: Reader
    labels: np.ndarray | None = None
    files: Sequence[str] | None = None
    groups: np.ndarray | None = None

    def select(self, index: np.ndarray, name: str | None = None) -> "Split":
        """Returns the split of the examples `index`, int64 [n] ascending, called `name`; None: as before."""
        index = np.asarray(index, np.int64)
        labels = None if self.labels is None else self.labels[index]
        files = None if self.files is None else _Chosen(self.files, index)
        groups = None if self.groups is None else self.groups[index]
        return Split(name or self.name, len(index), self.reader.select(index), labels, files, groups)


class _Chosen(Sequence[str]):
    """The members `index`, int64 [n], of a sequence, found when they are asked for."""

    def __init__(self, of: Sequence[str], index: np.ndarray):
        self._of: Sequence[str] = of._of if isinstance(of, _Chosen) else of
        self._index: np.ndarray = of._index[index] if isinstance(of, _Chosen) else index

    def __len__(self) -> int:
        return len(self._index)

    def __getitem__(self, i: Any) -> Any:
        return [self._of[k] for k in self._index[i]] if isinstance(i, slice) else self._of[int(self._index[i])]


@dataclasses.dataclass(frozen=True, eq=False)
class Source:
    """A data set for image classification.

    Attributes:
      name: value of --dataset.
      class_names: one a class, in the order of the labels.
      image_shape: (H, W, C) of the uint8 images.
      train, test: its splits; test is None for a data set with only a validation split.
      validation: the split that selects the checkpoint; None where that is the test split.
      fingerprint: hex digest that changes when examples, their order, labels or classes change.
      notes: lines for the user.
      test_from_train: whether the test split was held out of training.
      validation_from: origin of the validation split, splits.DATA_SET or TRAINING; None without one.
      earlier_fingerprint: computes the fingerprint that earlier versions stored with their runs, which may read all
        data; None where it is the same.
      evaluation: how files become images for evaluation and prediction; None for arrays, until they are loaded.
      unreadable: files that are skipped; None where they are not.
      resized: whether any file has another size than `image_shape`.
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
    earlier_fingerprint: Callable[[], str] | None = None
    evaluation: Preprocessing | None = None
    unreadable: Unreadable | None = None
    resized: bool = False

    @property
    def preprocessing(self) -> Preprocessing:
        """How files become images for evaluation and prediction."""
        return self.evaluation or Preprocessing(self.image_shape)

    @property
    def num_classes(self) -> int:
        return len(self.class_names)

    @property
    def watched(self) -> Split:
        """The split of evaluations during training, which selects the checkpoint."""
        return self.validation or self.test  # type: ignore[return-value]  # A data set without either is refused.

    @property
    def final(self) -> Split:
        """The split of the final evaluation: the test split, or validation where there is none."""
        return self.test or self.validation  # type: ignore[return-value]


    def fingerprint_as(self, stored: str) -> str:
        """Returns the fingerprint in the form of one stored with a run: equal to it if the data are the same."""
        if stored != self.fingerprint and self.earlier_fingerprint and self.earlier_fingerprint() == stored:
            return stored
        return self.fingerprint

    def derived(self, *parts: Any, **changes: Any) -> "Source":
        """Returns the source with other attributes, and `parts` that describe how added to its fingerprints."""
        earlier = self.earlier_fingerprint
        return dataclasses.replace(self, fingerprint=digest(self.fingerprint, *parts), **changes,
                                   earlier_fingerprint=earlier and (lambda: digest(earlier(), *parts)))


def numbered_batches(elements: tf.data.Dataset, example: Callable[..., tuple], first: int, batch_size: int,
                     finish: Finish) -> tf.data.Dataset:
    """Makes examples of elements for a Reader, batches them, and maps each batch with `finish`.

    Args:
      elements: of any structure.
      example: function of an element to (uint8 [H, W, C], int32).
      first: number of the first batch.
      batch_size: examples of a batch.
      finish: see Reader.
    """
    numbers = tf.data.Dataset.range(first, np.iinfo(np.int64).max)
    # The threads that make examples write them into the batch. tf.data fuses map and batch to this itself, unless its
    # rewrites are off, see stream._tuned.
    fused = tf.data.experimental.map_and_batch(example, batch_size, num_parallel_calls=tf.data.AUTOTUNE)
    batches = tf.data.Dataset.zip(numbers, elements.apply(fused))

    @tf.autograph.experimental.do_not_convert
    def finished(number, batch):
        return finish(*batch, number)

    return batches.map(finished, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True)


def digest(*parts: Any) -> str:
    """Returns the SHA-256 of strings, numbers and arrays, with their types and lengths, as hex."""
    total = hashlib.sha256()
    for part in parts:
        if isinstance(part, np.ndarray):
            part = np.ascontiguousarray(part)
            head, body = f"array {part.dtype.str} {part.shape}", part.data.cast("B") if part.size else b""
        else:
            head, body = type(part).__name__, repr(part).encode()
        total.update(f"{head} {len(body)}\n".encode())
        total.update(body)
    return total.hexdigest()
