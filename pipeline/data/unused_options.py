"""Data options that were given and change nothing: one line about each."""
import inspect

from pipeline import dataset_name
from pipeline.augmentation import augmentations
from pipeline.choices import DATASETS
from pipeline.config import DataConfig
from pipeline.console import Console
from pipeline.data.source import Source
from pipeline.data.stream import decoded_crop

FOLDER, TABLE, TFDS = "folder:PATH", "table:PATH", "TensorFlow Datasets"
# Options that some kinds of data sets read. Others apply to all, or are refused in pipeline.data.load.
READ_BY = {"data_dir": (TFDS,), "memory_budget": (FOLDER, TABLE, TFDS), "cache_dir": (FOLDER, TABLE, TFDS),
           "skip_unreadable": (FOLDER, TABLE), "columns": (TABLE,), "image_root": (TABLE,)}


def warn_unused(config: DataConfig, source: Source, console: Console) -> None:
    """Warns of each option that has no effect with the data set that was loaded."""
    for name, reason in unused(config, source).items():
        value = getattr(config, name)
        console.warning(f"note    --{name}{'' if value is True else f'={value}'} has no effect: {reason}")


def unused(config: DataConfig, source: Source) -> dict[str, str]:
    """Returns {name of an option that was given and has no effect: why}."""
    found = {**_of_kind(config), **_of_sizes(config, source), **_of_augmentation(config, source)}
    fields = DataConfig.__dataclass_fields__
    return {name: reason for name, reason in found.items() if getattr(config, name) != fields[name].default}


def _of_kind(config):
    """Returns the reasons of the options that the function of this kind of data set does not take."""
    kind, argument = dataset_name.split(config.dataset)
    entry = DATASETS.get(kind)
    if entry is None or (argument and not entry.row.argument):
        read = [name for name, kinds in READ_BY.items() if TFDS in kinds]
    elif kind in ("folder", "table"):
        read = [name for name, kinds in READ_BY.items() if f"{kind}:PATH" in kinds]
    else:
        read = list(inspect.signature(entry.load()).parameters)
        read = list(READ_BY) if "config" in read else read
    return {name: f"it is for {' and '.join(kinds)}, and the data set is {dataset_name.without_path(config.dataset)}"
            for name, kinds in READ_BY.items() if name not in read}


def _of_sizes(config, source):
    """Returns the reasons of the options of resizing where nothing is resized."""
    height, width, _ = source.image_shape
    found, same = {}, source.preprocessing.image_shape == source.image_shape
    if same:
        found["eval_image_size"] = f"images of training are {height}x{width} too"
    crops = decoded_crop(source.train, augmentations(config))[0] is not None
    if source.evaluation and not (source.resized or crops) and same and source.evaluation.policy != "crop":
        reason = f"every file has {height}x{width} pixels, and no --image_size asks for others"
        found["resize"] = found["interpolation"] = reason if config.image_size is None else (
            f"every file has {height}x{width} pixels already")
    return found


def _of_augmentation(config, source):
    """Returns the reason of --augment_on where no augmentation is left to place."""
    chain = augmentations(config)
    if not chain:
        return {"augment_on": "there is no --augment"}
    if config.cache == "device" and config.augment_on == "host":
        return {"augment_on": "with --cache=device the step augments"}
    if config.cache == "device" or decoded_crop(source.train, chain)[1] < len(chain):
        return {}
    return {"augment_on": f"{' and '.join(one.name for one in chain)} {'are' if chain[1:] else 'is'} part of decoding"}
