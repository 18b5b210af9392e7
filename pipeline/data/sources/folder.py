"""A user's own images, one folder a class."""
import os

import numpy as np

from pipeline.choices import DATASETS
from pipeline.config import DataConfig
from pipeline.console import STANDARD, Console
from pipeline.data.class_folders import find_class_folders
from pipeline.data.file_table import IMAGE, OTHER
from pipeline.data.folder_fingerprint import earlier_fingerprint_parts, fingerprint_parts
from pipeline.data.folder_index import open_index
from pipeline.data.image_index import readable
from pipeline.data.image_search import left_out
from pipeline.data.image_source import ImageFacts, image_source
from pipeline.data.source import Source
from pipeline.errors import UsageError
from pipeline.preprocessing import Preprocessing


@DATASETS.built_in("folder", argument="PATH")
def load_folder(path: str, config: DataConfig, console: Console = STANDARD, own_validation: bool = True,
                before: Preprocessing | None = None) -> Source:
    """Finds PATH/train/<class>/*, PATH/val/<class>/* and PATH/test/<class>/*, or PATH/<class>/*.

    A validation split has any name of splits.VALIDATION_NAMES. Without it and a test folder, the share of training that
    --validation_split holds out is the test split. Images in subfolders of a class belong to that class.

    Args:
      path: the folder.
      config: image_size, validation_split, skip_unreadable and memory_budget are used.
      console: where messages go.
      own_validation: see splits.choose_splits.
      before: see load.load.

    Returns:
      Source; images have one channel if all files are grey, else three.

    Raises:
      UsageError: no such folder, no class, an empty class, classes that differ between splits, an unreadable
        image without --skip_unreadable, sizes that differ without --image_size, no way to get a test split.
    """
    path = os.path.abspath(path)
    found = find_class_folders(path, config.held_out, own_validation)
    inside = [os.path.relpath(folder, path) for folders in found.folders.values() for folder in folders]
    table = open_index(path, inside, config.cache_dir, console)
    labels = np.repeat(np.arange(len(inside)) % len(found.class_names), np.diff(table.first)).astype(np.int32)

    def check(split, files):
        counts = np.bincount(labels[files], minlength=len(found.class_names))
        for label in np.flatnonzero(counts == 0):
            raise UsageError(f"class folder {found.folders[split][label]} has no image that can be read")

    others = left_out([readable(table.name(i)) for i in np.flatnonzero(table.facts["kind"] == OTHER).tolist()])
    facts = ImageFacts(f"folder:{readable(path)}", path, table, labels, _images_of(table, found.folders),
                       found.class_names, [*found.notes, *([others] if others else [])], check)
    return image_source(facts, config, console, before, fingerprint_parts, earlier_fingerprint_parts)


def _images_of(table, folders):
    """Returns {split: int64 [n], the numbers of its images}, ordered by class and name."""
    found, first = {}, 0
    for name, classes in folders.items():
        begin, end = table.first[first], table.first[first + len(classes)]
        found[name] = begin + np.flatnonzero(table.facts["kind"][begin:end] == IMAGE)
        first += len(classes)
    return found
