"""A user's own images, one folder a class."""
import dataclasses
import os
from typing import Any

import numpy as np

from pipeline.activity import activity
from pipeline.choices import DATASETS
from pipeline.config import DataConfig
from pipeline.console import STANDARD, Console
from pipeline.data.class_folders import find_class_folders
from pipeline.data.decode import UnreadableImage
from pipeline.data.file_stream import ImageFiles, unreadable
from pipeline.data.file_table import IMAGE, OTHER, UNREADABLE
from pipeline.data.folder_fingerprint import earlier_fingerprint_parts, fingerprint_parts
from pipeline.data.folder_index import open_index
from pipeline.data.holdout import source_of
from pipeline.data.image_index import FileNames, ImageIndex, PackedNames, readable
from pipeline.data.image_reader import ImageReader
from pipeline.data.image_search import left_out
from pipeline.data.memory import InMemory, empty_images
from pipeline.data.parallel import for_each
from pipeline.data.source import Source, Split
from pipeline.data.unreadable import Unreadable
from pipeline.errors import UsageError
from pipeline.preprocessing import CURRENT, Preprocessing, preprocessings, uses_resized_crop
from pipeline.quantities import counted


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
    found = find_class_folders(path, config.validation_split, own_validation)
    inside = [os.path.relpath(folder, path) for folders in found.folders.values() for folder in folders]
    table = open_index(path, inside, config.cache_dir, console)
    bad: dict[int, Any] = {i: table.reasons[i] for i in np.flatnonzero(table.facts["kind"] == UNREADABLE).tolist()}
    _refuse(bad, path, table, config.skip_unreadable)
    files = _images_of(table, found.folders)
    shape = _common_shape(path, table, config.image_size)
    resized = _is_resized(table, shape)
    training, evaluation = preprocessings(config, shape, resized, before)
    decodes_once = training == evaluation and not (uses_resized_crop(config) and resized)
    # Where nothing is resized, every version reads the same pixels, the current one with a check of their size.
    read_training, read_evaluation = (way if config.image_size else dataclasses.replace(way, version=CURRENT)
                                      for way in (training, evaluation))
    size = sum(map(len, files.values())) * int(np.prod(shape))
    in_memory = decodes_once and size <= config.memory_budget * 2**20
    pixels = {}
    if in_memory:
        pixels, unread = _read_images(path, table, files, read_training, console)
        _refuse(unread, path, table, config.skip_unreadable)
        bad.update(unread)
        files = {name: images[~np.isin(images, list(unread))] for name, images in files.items()}
    splits, names = {}, PackedNames(table.names)
    skips = Unreadable(names, len(bad)) if config.skip_unreadable else None
    for name, images in files.items():
        index = _index(path, table, names, images, found.folders[name])
        reader = InMemory(pixels[name], index.labels) if in_memory else ImageFiles(
            index, read_training, read_evaluation, skips)
        splits[name] = Split(name, len(images), reader, index.labels, FileNames(index))
    parts = [found.class_names, shape, *fingerprint_parts(table, files)]
    earlier = earlier_fingerprint_parts(path, table, files, console)
    source = source_of(f"folder:{readable(path)}", found.class_names, shape, splits, parts, config.validation_split,
                       [*found.notes, *_notes(path, table, bad, in_memory)],
                       lambda: [found.class_names, shape, *earlier()], evaluation)
    return dataclasses.replace(source, unreadable=skips, resized=resized)


def _refuse(bad, path, table, skip):
    """Raises UsageError about {number: reason} of unreadable files, unless they are skipped or there are none."""
    if bad and not skip:
        first = min(bad)
        more = f" (and {len(bad) - 1} more)" if len(bad) > 1 else ""
        raise UsageError(unreadable(os.path.join(path, table.name(first)), bad[first]) + more)


def _images_of(table, folders):
    """Returns {split: int64 [n], the numbers of its images}, ordered by class and name."""
    found, first = {}, 0
    for name, classes in folders.items():
        begin, end = table.first[first], table.first[first + len(classes)]
        found[name] = begin + np.flatnonzero(table.facts["kind"][begin:end] == IMAGE)
        first += len(classes)
    return found


def _common_shape(path, table, image_size):
    """Returns the (H, W, C) of all images."""
    images = np.flatnonzero(table.facts["kind"] == IMAGE)
    channels = 1 if table.facts["grey"][images].all() else 3
    if image_size is not None:
        return image_size, image_size, channels
    heights, widths = table.facts["height"][images], table.facts["width"][images]
    if not len(images):
        return 0, 0, channels
    different = np.flatnonzero((heights != heights[0]) | (widths != widths[0]))
    if len(different):
        one, other = ((os.path.join(path, table.name(images[i])), f"{heights[i]}x{widths[i]}")
                      for i in (0, different[0]))
        raise UsageError(f"images differ in size: {one[0]} is {one[1]}, {other[0]} is {other[1]} (height x width): "
                         f"give --image_size to resize all, such as --image_size={min(heights[0], widths[0])}")
    return int(heights[0]), int(widths[0]), channels


def _is_resized(table, shape):
    """Returns whether any image has another size than (H, W, C)."""
    other = (table.facts["height"] != shape[0]) | (table.facts["width"] != shape[1])
    return bool((other & (table.facts["kind"] == IMAGE)).any())


def _read_images(path, table, files, preprocessing, console):
    """Reads all images into memory.

    Returns:
      ({split: uint8 [n, H, W, C]} without those that cannot be decoded, {number of a file: UnreadableImage} of those).
    """
    pixels, bad, reader = {}, {}, ImageReader(preprocessing)
    with activity("reading images", console, sum(map(len, files.values()))) as doing:
        for name, images in files.items():
            pixels[name] = empty_images(len(images), preprocessing.image_shape)

            def read(k, images=images, into=pixels[name]):
                try:
                    facts = table.facts[images[k]]
                    into[k] = reader.read(os.path.join(path, table.name(images[k])), [
                        int(facts[name]) for name in ("decoder", "height", "width", "orientation")])
                except UnreadableImage as error:
                    bad[int(images[k])] = error

            for_each(read, len(images), doing.advance)
            kept = ~np.isin(images, list(bad))
            pixels[name] = pixels[name] if kept.all() else pixels[name][kept]
    return pixels, dict(sorted(bad.items()))


def _index(path, table, names, images, folders):
    """Returns the ImageIndex of files by their numbers, int64 [n], in the folders of the classes.

    Raises:
      UsageError: no file of a class is left.
    """
    labels = (np.searchsorted(table.first, images, side="right") - 1) % len(folders)
    for label in np.flatnonzero(np.bincount(labels, minlength=len(folders)) == 0):
        raise UsageError(f"class folder {folders[label]} has no image that can be read")
    start, length = table.places
    columns = {name: table.facts[name][images] for name in ("height", "width", "orientation", "decoder")}
    return ImageIndex(path, names, start[images], length[images], labels.astype(np.int32), **columns)


def _notes(path, table, bad, in_memory):
    """Returns lines about files left out, numbers `bad` of unreadable ones, and how images are read."""
    others = left_out([readable(table.name(i)) for i in np.flatnonzero(table.facts["kind"] == OTHER)])
    notes = [] if others is None else [others]
    if bad:
        first = ", ".join(readable(os.path.join(path, table.name(i))) for i in list(bad)[:3])
        notes.append(f"skipped {counted(len(bad), 'unreadable image')}: {first}{', ...' if len(bad) > 3 else ''}")
    if not in_memory:
        notes.append("images are decoded on demand, each epoch in a random order of all of them")
    return notes
