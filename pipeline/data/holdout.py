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

Part = float | tuple[int, int]  # Of a split: a share, or (number, parts), one of equal parts.
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


def folds(labels: np.ndarray, groups: np.ndarray | None, parts: int) -> list[np.ndarray]:
    """Divides examples into parts of about the same size, with about the same share of each class.

    Args:
      labels: int [N].
      groups: int [N], of examples that stay together, or None.
      parts: at most as many as there are examples, or groups.

    Returns:
      [parts] arrays, int64 [n] ascending: the indices of each part, a function of the arguments alone.
    """
    from sklearn.model_selection import StratifiedGroupKFold, StratifiedKFold  # Half a second, for this alone.
    way = (StratifiedKFold if groups is None else StratifiedGroupKFold)(parts, shuffle=True, random_state=_KEY)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # Of a class with fewer examples than parts.
        return [held_out for _, held_out in way.split(labels, labels, groups)]


def divide(split: Split, part: Part, name: str) -> tuple[Split, Split]:
    """Holds out a part of a split with the same shares of the classes, and of whole groups where it has groups.

    Args:
      split: it.
      part: see Part. A share of a split with groups is one of 2, 3, 4, ... equal parts, the nearest.
      name: of what is held out.

    Returns:
      (rest, held_out), the second called `name`.

    Raises:
      UsageError: one of the two would be empty, there are too few groups, or no class would be in both.
    """
    labels, groups = split.reader.read_labels() if split.labels is None else split.labels, split.groups
    flag = f"--fold={part[0]}/{part[1]}" if isinstance(part, tuple) else f"--validation_split={part:g}"
    if isinstance(part, tuple) or groups is not None:
        number, parts = part if isinstance(part, tuple) else (1, max(2, round(1 / part)))
        what, known = ("example", len(labels)) if groups is None else ("group", len(np.unique(groups)))
        if known < parts:
            raise UsageError(f"{flag} holds out {'whole groups, ' * (what == 'group')}one of {parts} equal parts, and "
                             f"there are only {counted(known, what)} in {split.name}: take fewer parts")
        held_out = folds(labels, groups, parts)[number - 1]
    else:
        held_out = stratified(labels, round(split.num_examples * part))
    if not 0 < len(held_out) < split.num_examples:
        raise UsageError(f"{flag} holds out {len(held_out)} of {counted(split.num_examples, 'example')} of "
                         f"{split.name}: neither part may be empty")
    rest = np.setdiff1d(np.arange(split.num_examples), held_out, assume_unique=True)
    if not np.isin(labels[held_out], labels[rest]).any():
        raise UsageError(f"{flag} holds out {len(held_out)} of {split.num_examples} examples of "
                         f"{split.name}, each the only one of its class: nothing would be trained that is asked for; "
                         "at least two examples of a class are needed")
    split = dataclasses.replace(split, labels=labels)
    return split.select(rest), split.select(held_out, name)


def source_of(name: str, class_names: tuple[str, ...], image_shape: tuple[int, int, int], splits: dict[str, Split],
              parts: list[Any], share: Part, notes: Sequence[str] = (),
              earlier: Callable[[], list[Any]] | None = None, evaluation: Preprocessing | None = None) -> Source:
    """Makes a Source; without a test or validation split, a part of training is held out as the test split.

    Args:
      name, class_names, image_shape, notes: see Source.
      splits: {"train", "validation", "test": split}, those that exist.
      parts: contents of the fingerprint.
      share: DataConfig.held_out.
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


def hold_out_validation(source: Source, share: Part) -> Source:
    """Returns the source with a part of its training split held out as `validation`."""
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
