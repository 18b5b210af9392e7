"""The table of users' data sets by name, and how what one of them returns becomes a Source."""
import dataclasses
import inspect
import typing

import numpy as np

from pipeline import choices, extension
from pipeline.config import DataConfig
from pipeline.data.holdout import divide
from pipeline.data.memory import InMemory
from pipeline.data.source import Source, Split, digest
from pipeline.errors import UsageError
from pipeline.registration import caller_location, enter, format_location, raise_with_location

BUILT_IN = ("digits", "folder", "synthetic")
FORM = ("(train images, train labels), (test images, test labels), class names, or the same with (validation images, "
        "validation labels) before the test images")


@dataclasses.dataclass(frozen=True)
class DatasetEntry:
    """A data set of a user's: the function that makes it, and (file, line) where it was registered."""

    origin: typing.Callable
    location: tuple

    @property
    def wants(self):
        """Names of the options of DataConfig that the function takes as arguments."""
        return [name for name in inspect.signature(self.origin).parameters if name in _options()]


REGISTERED = choices.DATASETS.registered


def register(name, depth=1):
    """Puts a user's data set into the table of names: a decorator of a function.

    The function returns a pipeline.data.source.Source, or arrays: (train images, train labels), (test images, test
    labels), class names, or with (validation images, validation labels) before those of test. Images are uint8
    [N, height, width, channels], labels whole numbers [N] from 0, class names one text a class. Where there is no test
    split, None stands for it, and without validation --validation_split says how much of training is held out for
    testing. The same arguments must give the same examples in the same order.

    Arguments of the function have the names of data options (data_dir, image_size, ...) and get their values.

    Args:
      name: what --dataset calls it.
      depth: how many callers up the registration stands.

    Raises:
      UsageError: a name that is taken, or arguments that nobody could give.
    """
    location = caller_location(depth)

    def enter_function(function):
        where = f"{format_location(location)}: data set '{name}'"
        if not inspect.isroutine(function):
            raise UsageError(f"{where} is no function: give one that returns {FORM}")
        for argument, parameter in inspect.signature(function).parameters.items():
            if argument not in _options() and parameter.default is parameter.empty and (
                    parameter.kind not in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD)):
                raise UsageError(f"{where} wants the argument {argument}, which is no option of data: "
                                 f"{', '.join(_options())}; give it a default")
        enter(REGISTERED, "data set", name, DatasetEntry(function, location), BUILT_IN)
        return function

    return enter_function


def find(name):
    """Returns the entry of a user's data set, or None; packages are looked at only for a name that is not built in."""
    if name not in REGISTERED:
        extension.load_entry_points()
    return REGISTERED.get(name)


def load_registered(config):
    """Loads a user's data set.

    Args:
      config: DataConfig whose dataset is registered.

    Raises:
      UsageError: what the function raised, with its location, or what it returned that is no data set.
    """
    name, found = config.dataset, REGISTERED[config.dataset]
    with raise_with_location(f"data set {name}", found.location):
        made = found.origin(**{argument: getattr(config, argument) for argument in found.wants})
    what = f"data set {name} ({format_location(found.location)})"
    source = made if isinstance(made, Source) else _from_arrays(what, made, config)
    if source.final is None:
        raise UsageError(f"{what}: its Source has neither a test nor a validation split")
    if config.image_size and source.image_shape[:2] != (config.image_size,) * 2:
        height, width, _ = source.image_shape
        raise UsageError(f"--image_size={config.image_size}: data set {name} has images of {height}x{width}; to resize "
                         "them, its function takes the argument image_size")
    return source


def _from_arrays(what, made, config):
    """Makes a Source of arrays; raises UsageError naming the first thing that is wrong with them."""
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
    parts = [array for pair in arrays.values() for array in pair]
    alone = len(splits) == 1
    if alone:
        if not config.validation_split:
            raise UsageError(f"{what} has no test split: give --validation_split=0.2 to hold a part out for testing")
        splits["train"], splits["test"] = divide(splits["train"], config.validation_split, "test")
        parts.append(config.validation_split)
    if "validation" in splits:  # Its arrays alone could be those of test.
        parts.append("validation")
    return Source(config.dataset, names, shape, splits["train"], splits.get("test"), splits.get("validation"),
                  digest(config.dataset, names, *parts), test_from_train=alone)


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


def _options():
    return [field.name for field in dataclasses.fields(DataConfig)]
