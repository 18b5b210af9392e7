"""Image files with their labels become a data set: kept in memory where they fit, else decoded on demand."""
import dataclasses
import os
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from pipeline.activity import activity
from pipeline.config import DataConfig
from pipeline.console import Console
from pipeline.data.decode import UnreadableImage
from pipeline.data.file_stream import ImageFiles, unreadable
from pipeline.data.file_table import IMAGE, UNREADABLE, FileTable
from pipeline.data.holdout import source_of
from pipeline.data.image_index import FileNames, ImageIndex, PackedNames, readable
from pipeline.data.image_reader import ImageReader
from pipeline.data.memory import InMemory, empty_images
from pipeline.data.parallel import for_each
from pipeline.data.source import Source, Split
from pipeline.data.unreadable import Unreadable
from pipeline.errors import UsageError
from pipeline.preprocessing import CURRENT, Preprocessing, preprocessings, uses_resized_crop
from pipeline.quantities import counted


@dataclasses.dataclass(frozen=True, eq=False)
class ImageFacts:
    """Image files of a data set, and what is known of each by its number in the table.

    Attributes:
      name: of the data set, as in --dataset.
      root: absolute path of the folder that names are relative to.
      table: facts about the files.
      labels: int32 [N].
      splits: {"train", "validation", "test": numbers of the images, int64 [n], in order}, those that exist.
      class_names: in the order of the labels.
      notes: lines for the user.
      check: takes (split, numbers of its files that can be read); raises UsageError where these are not enough.
      origin: of the number of a file: where it is named, for messages, "" where its path says it.
      groups: int64 [N], see Split, or None.
    """

    name: str
    root: str
    table: FileTable
    labels: np.ndarray
    splits: dict[str, np.ndarray]
    class_names: tuple[str, ...]
    notes: Sequence[str]
    check: Callable[[str, np.ndarray], None]
    origin: Callable[[int], str] = lambda number: ""
    groups: np.ndarray | None = None


def image_source(facts: ImageFacts, config: DataConfig, console: Console, before: Preprocessing | None,
                 fingerprint: Callable[..., list[Any]], earlier: Callable[..., Callable[[], list[Any]]] | None = None
                 ) -> Source:
    """Makes a Source of image files.

    Args:
      facts: the files.
      config: image_size, validation_split, skip_unreadable and memory_budget are used.
      console: where messages go.
      before: see load.load.
      fingerprint: takes (table, splits); returns what a fingerprint consists of besides the classes and the shape.
      earlier: see folder_fingerprint.earlier_fingerprint_parts.

    Raises:
      UsageError: an unreadable image without --skip_unreadable, sizes that differ without --image_size, no way to get
        a test split.
    """
    path, table, files = facts.root, facts.table, facts.splits
    bad: dict[int, Any] = {i: table.reasons[i] for i in np.flatnonzero(table.facts["kind"] == UNREADABLE).tolist()}
    _refuse(bad, facts, config.skip_unreadable)
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
        _refuse(unread, facts, config.skip_unreadable)
        bad.update(unread)
        files = {name: images[~np.isin(images, list(unread))] for name, images in files.items()}
    splits, names = {}, PackedNames(table.names)
    skips = Unreadable(names, len(bad)) if config.skip_unreadable else None
    for name, images in files.items():
        facts.check(name, images)
        index = _index(facts, names, images)
        reader = InMemory(pixels[name], index.labels) if in_memory else ImageFiles(
            index, read_training, read_evaluation, skips)
        splits[name] = Split(name, len(images), reader, index.labels, FileNames(index),
                             None if facts.groups is None else facts.groups[images])
    parts = [facts.class_names, shape, *fingerprint(table, files)]
    before_parts = earlier and earlier(path, table, files, console)
    source = source_of(facts.name, facts.class_names, shape, splits, parts, config.held_out,
                       [*facts.notes, *_notes(path, table, bad, in_memory)],
                       before_parts and (lambda: [facts.class_names, shape, *before_parts()]), evaluation)
    return dataclasses.replace(source, unreadable=skips, resized=resized)


def _refuse(bad, facts, skip):
    """Raises UsageError about {number: reason} of unreadable files, unless they are skipped or there are none."""
    if bad and not skip:
        first = min(bad)
        more = f" (and {len(bad) - 1} more)" if len(bad) > 1 else ""
        path = os.path.join(facts.root, facts.table.name(first))
        raise UsageError(facts.origin(first) + unreadable(path, bad[first]) + more)


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


def _index(facts, names, images):
    """Returns the ImageIndex of files by their numbers, int64 [n]."""
    start, length = facts.table.places
    columns = {name: facts.table.facts[name][images] for name in ("height", "width", "orientation", "decoder")}
    return ImageIndex(facts.root, names, start[images], length[images], facts.labels[images], **columns)


def _notes(path, table, bad, in_memory):
    """Returns lines about the numbers `bad` of unreadable files, and how images are read."""
    notes = []
    if bad:
        first = ", ".join(readable(os.path.join(path, table.name(i))) for i in list(bad)[:3])
        notes.append(f"skipped {counted(len(bad), 'unreadable image')}: {first}{', ...' if len(bad) > 3 else ''}")
    if not in_memory:
        notes.append("images are decoded on demand, each epoch in a random order of all of them")
    return notes
