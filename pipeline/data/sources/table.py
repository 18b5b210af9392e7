"""A user's own images, listed in a table with their labels."""
import collections
import os

import numpy as np

from pipeline.choices import DATASETS
from pipeline.config import DataConfig
from pipeline.console import STANDARD, Console
from pipeline.data.file_table import IMAGE, OTHER, UNREADABLE
from pipeline.data.folder_fingerprint import fingerprint_parts
from pipeline.data.folder_index import open_files
from pipeline.data.holdout import Part
from pipeline.data.image_index import readable
from pipeline.data.image_source import ImageFacts, image_source
from pipeline.data.source import Source
from pipeline.data.splits import unused_validation
from pipeline.data.table_rows import Row, Table, read_table
from pipeline.errors import UsageError
from pipeline.preprocessing import Preprocessing

NO_IMAGE = "it is no image"


@DATASETS.built_in("table", argument="PATH")
def load_table(path: str, config: DataConfig, console: Console = STANDARD, own_validation: bool = True,
               before: Preprocessing | None = None) -> Source:
    """Reads the images that a table names in a row each, see table_rows.read_table.

    Without a split column, or with the training split alone in it, the share that --validation_split holds out is the
    test split. What has the same group is never divided.

    Args:
      path: of a .csv, .tsv, .jsonl or .parquet file.
      config: columns, image_root and what load_folder uses.
      console: where messages go.
      own_validation: see splits.choose_splits.
      before: see load.load.

    Raises:
      UsageError: as of read_table and load_folder; a row whose image is missing, is no image or is listed twice; a
        class of one image; a group in two splits.
    """
    path = os.path.abspath(path)
    found = read_table(path, config.columns)
    root = os.path.abspath(config.image_root or os.path.dirname(path))
    if not os.path.isdir(root):
        raise UsageError(f"--image_root={root}: there is no such folder; the paths in {path} are relative to it")
    rows = _by_name(path, found.rows, root)
    names = list(rows)
    _check_classes(path, rows)
    _check_groups(path, rows)
    class_names = _class_names(found.rows)
    splits = _splits(path, found, rows, config.held_out)
    table = open_files(path, root, names, config.cache_dir, console)
    for i in np.flatnonzero(table.facts["kind"] == OTHER).tolist():
        table.facts["kind"][i], table.reasons[i] = UNREADABLE, NO_IMAGE
    number_of = {name: label for label, name in enumerate(class_names)}
    labels = np.array([number_of[row.label] for row in rows.values()], np.int32)
    images = {name: index[table.facts["kind"][index] == IMAGE] for name, index in splits.items()}
    notes = [f"columns of the table that are not used: {', '.join(found.unused)}"] if found.unused else []
    if not own_validation and "validation" in images:
        unused = images.pop("validation")
        notes += unused_validation("validation", "test" not in images)
        images.setdefault("test", unused)
    facts = ImageFacts(
        f"table:{readable(path)}", root, table, labels, images, class_names, notes,
        lambda split, files: _check_left(path, split, files), lambda i: f"{path}, line {rows[names[i]].number}: ",
        _groups(rows))
    return image_source(facts, config, console, before, lambda table, splits: [
        *fingerprint_parts(table, splits), *(labels[files] for files in splits.values()),
        *(facts.groups[files] for files in splits.values() if facts.groups is not None)])


def _by_name(path: str, rows: list[Row], root: str) -> dict[str, Row]:
    """Returns {path relative to the root: row}, in the order of the paths; raises UsageError for one listed twice."""
    found: dict[str, Row] = {}
    for row in rows:
        name = os.path.relpath(os.path.join(root, row.path), root)
        if "\\" in name and not os.path.exists(os.path.join(root, name)):  # A table made on Windows.
            name = os.path.relpath(os.path.join(root, row.path.replace("\\", "/")), root)
        other = found.setdefault(name, row)
        if other is not row:
            where = "" if other.split == row.split else f", there in split {other.split}, here in {row.split}"
            raise UsageError(f"{path}, line {row.number}: {readable(row.path)} is in line {other.number} too{where}: "
                             "keep one of the rows")
    return dict(sorted(found.items()))


def _check_classes(path, rows):
    """Raises UsageError for fewer than two classes, and for a class of one image."""
    counts = collections.Counter(row.label for row in rows.values())
    if len(counts) < 2:
        raise UsageError(f"{path} has one class, '{next(iter(counts))}': two are needed at least")
    alone = [row for row in rows.values() if counts[row.label] == 1]
    if alone:
        first = min(alone, key=lambda row: row.number)
        raise UsageError(f"{path}, line {first.number}: the only image of class '{first.label}': a class needs two, "
                         f"one to train on{f' ({len(alone)} classes have one)' if len(alone) > 1 else ''}")


def _check_groups(path, rows):
    """Raises UsageError for a group in two splits."""
    first: dict[str, Row] = {}
    for row in sorted(rows.values(), key=lambda row: row.number):
        other = first.setdefault(row.group, row) if row.group else row
        if other.split != row.split:
            raise UsageError(f"{path}, line {row.number}: group '{row.group}' is in split {row.split}, and in line "
                             f"{other.number} in {other.split}: a model that knows a group is not tested by it")


def _class_names(rows: list[Row]) -> tuple[str, ...]:
    """Returns the labels in their order: of numbers by value."""
    labels = {row.label for row in rows}
    are_numbers = all(label.lstrip("-").isdecimal() for label in labels)
    return tuple(sorted(labels, key=(lambda label: (int(label), label)) if are_numbers else None))


def _splits(path: str, found: Table, rows: dict[str, Row], share: Part) -> dict[str, np.ndarray]:
    """Returns {split: int64 [n], the numbers of its rows}, train first."""
    of = np.array([row.split or "train" for row in rows.values()])
    splits = {name: np.flatnonzero(of == name) for name in ("train", "validation", "test") if (of == name).any()}
    if "train" not in splits:
        raise UsageError(f"{path}: no row has the split train, in column {found.columns['split']}")
    if len(splits) == 1 and not share:
        raise UsageError(f"{path} has no {'test or validation rows' if 'split' in found.columns else 'split column'}: "
                         "give --validation_split=0.2 to hold a part out for testing")
    return splits


def _groups(rows: dict[str, Row]) -> np.ndarray | None:
    """Returns the number of each row's group, int64 [N]; a row without one is its own. None where no row has one."""
    if not any(row.group for row in rows.values()):
        return None
    number: dict[str, int] = {}
    return np.array([number.setdefault(row.group or f"\0{i}", len(number)) for i, row in enumerate(rows.values())])


def _check_left(path, split, files):
    if not len(files):
        raise UsageError(f"{path}: no image of the split {split} can be read")
