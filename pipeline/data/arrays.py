"""Arrays in memory, as a user's function returns them, become a Source."""
from typing import Any

import numpy as np

from pipeline.config import DataConfig
from pipeline.data.holdout import source_of
from pipeline.data.memory import InMemory
from pipeline.data.source import Source, Split
from pipeline.errors import UsageError

FORM = ("(train images, train labels), (test images, test labels), class names, or the same with (validation images, "
        "validation labels) before the test images")


def from_arrays(what: str, made: Any, config: DataConfig) -> Source:
    """Makes a Source of the arrays that a user's function returns, see FORM.

    Args:
      what: the data set in messages.
      made: images are uint8 [N, height, width, channels], labels whole numbers [N] from 0, class names one text a
        class; None in place of the test split where there is none.
      config: DataConfig; dataset and validation_split count.

    Raises:
      UsageError: names the first thing that is wrong with them.
    """
    try:
        train, *others, class_names = made
        validation, test = others if len(others) == 2 else (None, *others)
    except (TypeError, ValueError):
        raise UsageError(f"{what} must return {FORM}, or a Source; found {_described(made)}") from None
    if isinstance(class_names, str) or not all(isinstance(text, (str, np.str_)) for text in class_names):
        raise UsageError(f"{what}: class names must be a list of texts; found {_described(class_names)}")
    names = tuple(map(str, class_names))
    pairs = {split: pair for split, pair in (("train", train), ("validation", validation), ("test", test))
             if pair is not None or split == "train"}
    arrays = {split: _checked(what, split, pair, len(names)) for split, pair in pairs.items()}
    shape = arrays["train"][0].shape[1:]
    for split, (images, _) in arrays.items():
        if images.shape[1:] != shape:
            raise UsageError(f"{what}: train images are {_size(shape)}, and {split} images {_size(images.shape[1:])}: "
                             "all must be alike")
    splits = {split: Split(split, len(labels), InMemory(images, labels), labels)
              for split, (images, labels) in arrays.items()}
    if len(splits) == 1 and not config.held_out:
        raise UsageError(f"{what} has no test split: give --validation_split=0.2 to hold a part out for testing")
    parts = [config.dataset, names, *(array for pair in arrays.values() for array in pair)]
    if "validation" in splits:  # Its arrays alone could be those of test.
        parts.append("validation")
    return source_of(config.dataset, names, shape, splits, parts, config.held_out)


def _checked(what, split, pair, classes):
    """Returns (images uint8 [N, H, W, C], labels int32 [N]) of a split."""
    try:
        images, labels = (np.asarray(array) for array in pair)
    except (TypeError, ValueError):
        raise UsageError(f"{what}: {split} must be (images, labels); found {_described(pair)}") from None
    if images.dtype != np.uint8 or images.ndim != 4 or not images.size:
        remedy = "; give images[..., None]" if images.dtype == np.uint8 and images.ndim == 3 else (
            "; of numbers from 0 to 1, np.rint(255 * images).astype('uint8')" if images.dtype.kind == "f" else "")
        raise UsageError(f"{what}: {split} images must be uint8 [N, height, width, channels], at least one; found "
                         f"{_described(images)}{remedy}")
    if labels.dtype.kind not in "iu" or labels.shape != images.shape[:1]:
        raise UsageError(f"{what}: {split} labels must be {len(images)} whole numbers, one an image; found "
                         f"{_described(labels)}")
    if not 0 <= labels.min() <= labels.max() < classes:
        raise UsageError(f"{what}: {split} labels are from {labels.min()} to {labels.max()}; for {classes} class names "
                         f"they must be from 0 to {classes - 1}")
    return images, labels.astype(np.int32)


def _described(value):
    if isinstance(value, np.ndarray):
        return f"{value.dtype} {list(value.shape)}"
    if isinstance(value, (list, tuple)):
        return f"a {type(value).__name__} of {len(value)}"
    return f"a {type(value).__name__}"


def _size(shape):
    return "x".join(map(str, shape))
