"""Parts of a data set that do not depend on the seed of a run."""
import dataclasses
import functools
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from pipeline.data.source import Source, Split, digest
from pipeline.data.splits import TRAINING
from pipeline.errors import UsageError
from pipeline.preprocessing import Preprocessing
from pipeline.quantities import counted

_KEY = 20_240_229  # Fixed: the same examples are held out in every run, whatever its seed.


def stratified(labels: np.ndarray, count: int) -> np.ndarray:
    """Chooses examples so that every class keeps its share to within one example.

    Args:
      labels: int [N].
      count: how many to choose, at most N.

    Returns:
      int64 [count], ascending: the indices chosen, a function of the arguments alone.
    """
    labels = np.asarray(labels)
    order = np.argsort(labels, kind="stable")
    begins = np.flatnonzero(np.diff(labels[order])) + 1  # Of the classes but the first.
    sizes = np.diff([0, *begins, len(labels)])
    exact = sizes * (count / len(labels))
    quota = np.floor(exact).astype(np.int64)
    largest = np.argsort(-(exact - quota), kind="stable")[:count - quota.sum()]
    quota[largest] += 1
    generator = np.random.RandomState(_KEY)  # NumPy guarantees that its streams never change.
    chosen = [generator.permutation(members)[:q] for members, q in zip(np.split(order, begins), quota, strict=True)]
    return np.sort(np.concatenate(chosen))


def whole_groups(labels: np.ndarray, groups: np.ndarray, share: float) -> np.ndarray:
    """Chooses whole groups that have about a share of the examples, and of each class.

    Args:
      labels: int [N].
      groups: int [N].
      share: in (0, 1); rounded to one of 2, 3, 4, ... equal parts.

    Returns:
      int64 [n], ascending: the indices chosen, a function of the arguments alone.

    Raises:
      UsageError: fewer groups than parts.
    """
    from sklearn.model_selection import StratifiedGroupKFold  # Half a second, for data sets with groups alone.
    parts, known = max(2, round(1 / share)), len(np.unique(groups))
    if known < parts:
        raise UsageError(f"--validation_split={share:g} holds out whole groups, one of {parts} equal parts, and there "
                         f"are only {counted(known, 'group')}: hold out a larger part, or give a split column")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # Of a class with fewer examples than parts.
        divided = StratifiedGroupKFold(parts, shuffle=True, random_state=_KEY).split(labels, labels, groups)
        return next(iter(divided))[1]


def divide(split: Split, share: float, name: str) -> tuple[Split, Split]:
    """Holds out a stratified share of a split, of whole groups where it has groups.

    Returns:
      (rest, held_out), the second called `name`.

    Raises:
      UsageError: one of the two would be empty, or no class would be in both.
    """
    labels = split.reader.read_labels() if split.labels is None else split.labels
    count = round(split.num_examples * share)
    if not 0 < count < split.num_examples:
        raise UsageError(f"--validation_split={share:g} holds out {count} of "
                         f"{counted(split.num_examples, 'example')} of {split.name}: neither part may be empty")
    held_out = stratified(labels, count) if split.groups is None else whole_groups(labels, split.groups, share)
    rest = np.setdiff1d(np.arange(split.num_examples), held_out, assume_unique=True)
    if not np.isin(labels[held_out], labels[rest]).any():
        raise UsageError(f"--validation_split={share:g} holds out {len(held_out)} of {split.num_examples} examples of "
                         f"{split.name}, each the only one of its class: nothing would be trained that is asked for; "
                         "at least two examples of a class are needed")
    split = dataclasses.replace(split, labels=labels)
    return split.select(rest), split.select(held_out, name)


def source_of(name: str, class_names: tuple[str, ...], image_shape: tuple[int, int, int], splits: dict[str, Split],
              parts: list[Any], share: float, notes: Sequence[str] = (),
              earlier: Callable[[], list[Any]] | None = None, evaluation: Preprocessing | None = None) -> Source:
    """Makes a Source; without a test or validation split, a share of training is held out as the test split.

    Args:
      name, class_names, image_shape, notes: see Source.
      splits: {"train", "validation", "test": split}, those that exist.
      parts: contents of the fingerprint.
      share: --validation_split.
      earlier: returns the contents of the fingerprint that earlier versions stored, where it was another.
      evaluation: see Source.
    """
    alone = len(splits) == 1
    more = [share] if alone else []
    if alone:
        train, test = divide(splits["train"], share, "test")
        splits = {"train": train, "test": test}
    return Source(name, class_names, image_shape, splits["train"], splits.get("test"), splits.get("validation"),
                  digest(*parts, *more), tuple(notes), alone,
                  earlier_fingerprint=earlier and functools.cache(lambda: digest(*earlier(), *more)),
                  evaluation=evaluation)


def untrained_classes(source: Source) -> list[str]:
    """Returns lines about classes that are evaluated without an example to train on."""
    lines = []
    for split in (source.validation, source.test):
        if split is None or split.labels is None or source.train.labels is None:
            continue
        absent = np.unique(split.labels[~np.isin(split.labels, source.train.labels)])
        if len(absent):
            classes = "1 class" if len(absent) == 1 else f"{len(absent)} classes"
            lines.append(f"no example to train on of {classes} of the {split.name} split, such as "
                         f"'{source.class_names[absent[0]]}': its examples there will be counted as wrong")
    return lines


def hold_out_validation(source: Source, share: float) -> Source:
    """Returns the source with a share of its training split held out as `validation`."""
    rest, held_out = divide(source.train, share, "validation")
    return source.derived("validation", share, train=rest, validation=held_out, validation_from=TRAINING)


def keep_only(source: Source, count: int) -> Source:
    """Returns the source with at most `count` examples in each split.

    Where labels are known, the classes keep their shares; otherwise the first examples are kept, since data sets too
    large for memory are stored in a random order.
    """
    def cut(split):
        if split is None or split.num_examples <= count:
            return split
        chosen = np.arange(count) if split.labels is None else stratified(split.labels, count)
        return split.select(chosen)

    return source.derived("subset", count, train=cut(source.train), test=cut(source.test),
                          validation=cut(source.validation))
