"""From --dataset to a Source."""
import dataclasses
import inspect
from typing import Any

from pipeline import dataset_name, extension
from pipeline.choices import DATASETS
from pipeline.config import DataConfig
from pipeline.console import STANDARD, Console
from pipeline.data.arrays import from_arrays
from pipeline.data.holdout import hold_out_validation, keep_only, untrained_classes
from pipeline.data.source import Source
from pipeline.data.splits import DATA_SET
from pipeline.errors import UsageError
from pipeline.preprocessing import Preprocessing
from pipeline.registration import format_location, raise_with_location
from pipeline.registry import RegistryEntry


def load(config: DataConfig, batch_size: int, console: Console = STANDARD, own_validation: bool = True,
         before: Preprocessing | None = None) -> Source:
    """Loads the data set that a configuration asks for.

    Args:
      config: its extensions are loaded.
      batch_size: examples of one optimizer step, the unit of --subset.
      console: where messages go.
      own_validation: whether a validation split of the data set's own selects the checkpoint; False for a run that was
        begun without it, see splits.choose_splits.
      before: that of the run that continues, whose version and policy hold; None for a new run.

    Raises:
      UsageError: an unknown name, an extension that cannot be loaded, or a data set that cannot be used as it was asked
        for; one line says why.
    """
    extension.load(config.extension)
    kind, argument = dataset_name.split(config.dataset)
    if kind not in DATASETS:
        extension.load_entry_points()
    entry = DATASETS.get(kind)
    given = {**{f.name: getattr(config, f.name) for f in dataclasses.fields(config)},
             "config": config, "console": console, "own_validation": own_validation, "before": before}
    if entry is None or (argument and not entry.row.argument):
        # Imported here, as each kind of data set: TensorFlow Datasets takes a second.
        from pipeline.data.sources.tfds import load_tfds
        source = load_tfds(config, console, own_validation, before)
    elif entry.location is None:
        source = _call(entry, argument, given)
    else:
        source = _load_registered(entry, argument, given)
    if source.evaluation is None:
        _check_no_files(config, source)
        if before:  # Files that are predicted become images as they did when the run began.
            source = dataclasses.replace(source, evaluation=dataclasses.replace(
                before, image_shape=source.image_shape))
    source = _with_validation(source, config.held_out, own_validation)
    untrained = untrained_classes(source)
    source = dataclasses.replace(source, notes=(*source.notes, *untrained)) if untrained else source
    return keep_only(source, config.subset * batch_size) if config.subset else source


def _check_no_files(config, source):
    """Raises UsageError for options about image files where a data set has none."""
    height, width, _ = source.image_shape
    for name in ("resize", "eval_image_size", "interpolation"):
        value, field = getattr(config, name), DataConfig.__dataclass_fields__[name]
        if value != field.default:
            raise UsageError(f"--{name}={value}: data set {source.name} has no image files, but arrays of {height}x"
                             f"{width} pixels; this is for folder:PATH and TensorFlow Datasets")


def _call(entry: RegistryEntry, argument: str, given: dict[str, Any]) -> Any:
    """Calls the function of a kind of data set: with its argument first, and with whatever it asks for by name."""
    function = entry.load()
    first = [argument] if entry.row.argument else []
    names = list(inspect.signature(function).parameters)[len(first):]
    return function(*first, **{name: given[name] for name in names if name in given})


def _load_registered(entry, argument, given):
    """Loads a user's data set; what is wrong in their code is one line that names the location."""
    config, what = given["config"], f"data set {given['dataset']}"
    with raise_with_location(what, entry.location):
        made = _call(entry, argument, given)
    name, what = config.dataset, f"{what} ({format_location(entry.location)})"
    source = made if isinstance(made, Source) else from_arrays(what, made, config)
    if source.final is None:
        raise UsageError(f"{what}: its Source has neither a test nor a validation split")
    if config.image_size and source.image_shape[:2] != (config.image_size,) * 2:
        height, width, _ = source.image_shape
        raise UsageError(f"--image_size={config.image_size}: data set {name} has images of {height}x{width}; to resize "
                         "them, its function takes the argument image_size")
    return source


def _with_validation(source, share, own_validation):
    """Returns the source with what selects the checkpoint: its own validation split, or else a part of training."""
    if source.validation is not None and (own_validation or not share):
        if isinstance(share, tuple):
            raise UsageError(f"--fold={share[0]}/{share[1]}: data set {source.name} has a validation split of its own, "
                             "which selects the checkpoint; leave it out of the data set, or --fold")
        note = ("its own validation split selects the checkpoint; nothing is held out of training",) if share else ()
        return dataclasses.replace(source, validation_from=DATA_SET, notes=(*source.notes, *note))
    # A data set without a test split has given the share away as that already.
    return hold_out_validation(source, share) if share and not source.test_from_train else source
