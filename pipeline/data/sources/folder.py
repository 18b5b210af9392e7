"""A user's own images, one folder a class."""
import os
import unicodedata
from typing import Any

import numpy as np

from pipeline.activity import activity
from pipeline.choices import DATASETS
from pipeline.config import DataConfig
from pipeline.console import STANDARD, Console
from pipeline.data.decode import UnreadableImage
from pipeline.data.file_stream import ImageFiles, unreadable
from pipeline.data.file_table import IMAGE, OTHER, UNREADABLE
from pipeline.data.folder_fingerprint import earlier_fingerprint_parts, fingerprint_parts
from pipeline.data.folder_index import open_index
from pipeline.data.holdout import source_of
from pipeline.data.image_index import FileNames, ImageIndex, readable
from pipeline.data.image_reader import ImageReader
from pipeline.data.image_search import is_hidden, is_image, left_out
from pipeline.data.memory import InMemory, empty_images
from pipeline.data.parallel import for_each
from pipeline.data.source import Source, Split
from pipeline.data.splits import choose_splits, unused_validation
from pipeline.errors import UsageError
from pipeline.preprocessing import CURRENT, preprocessings, uses_resized_crop
from pipeline.quantities import counted


@DATASETS.built_in("folder", argument="PATH")
def load_folder(path: str, config: DataConfig, console: Console = STANDARD, own_validation: bool = True,
                version: int = CURRENT) -> Source:
    """Finds PATH/train/<class>/*, PATH/val/<class>/* and PATH/test/<class>/*, or PATH/<class>/*.

    A validation split has any name of splits.VALIDATION_NAMES. Without it and a test folder, the share of training that
    --validation_split holds out is the test split. Images in subfolders of a class belong to that class.

    Args:
      path: the folder.
      config: image_size, validation_split, skip_unreadable and memory_budget are used.
      console: where messages go.
      own_validation: see splits.choose_splits.
      version: how files are decoded, see Preprocessing.

    Returns:
      Source; images have one channel if all files are grey, else three.

    Raises:
      UsageError: no such folder, no class, an empty class, classes that differ between splits, an unreadable
        image without --skip_unreadable, sizes that differ without --image_size, no way to get a test split.
    """
    path = os.path.abspath(path)
    folders, notes = _split_folders(path, config.validation_split, own_validation)
    class_folders = _class_folders(folders)
    class_names = tuple(readable(name) for name in class_folders["train"])
    inside = [os.path.relpath(os.path.join(folders[split], name), path) for split, names in class_folders.items()
              for name in names]
    table = open_index(path, inside, config.cache_dir, console)
    notes += [*_alike(class_names), *_beside(table)]
    bad: dict[int, Any] = {i: table.reasons[i] for i in np.flatnonzero(table.facts["kind"] == UNREADABLE).tolist()}
    _refuse(bad, path, table, config.skip_unreadable)
    splits = _images_of(table, tuple(folders), len(class_names))
    shape = _common_shape(path, table, config.image_size)
    resized = _is_resized(table, shape)
    training, evaluation = preprocessings(config, shape, resized, version if config.image_size else CURRENT)
    decodes_once = training == evaluation and not (uses_resized_crop(config) and resized)
    size = sum(len(images) for images, _ in splits.values()) * int(np.prod(shape))
    in_memory = decodes_once and size <= config.memory_budget * 2**20
    pixels = {}
    if in_memory:
        pixels, unread = _read_images(path, table, splits, training, console)
        _refuse(unread, path, table, config.skip_unreadable)
        bad.update(unread)
        splits = {name: tuple(part[~np.isin(images, list(unread))] for part in (images, labels))
                  for name, (images, labels) in splits.items()}
    made = {}
    for name, (images, labels) in splits.items():
        _check_classes(labels, class_folders[name], folders[name])
        index = _index(path, table, images, labels)
        reader = InMemory(pixels[name], labels) if in_memory else ImageFiles(
            index, training, evaluation, config.skip_unreadable)
        made[name] = Split(name, len(images), reader, labels, FileNames(index))
    files = {name: images for name, (images, _) in splits.items()}
    return source_of(f"folder:{readable(path)}", class_names, shape, made,
                     [class_names, shape, *fingerprint_parts(table, files)], config.validation_split,
                     (*notes, *_notes([os.path.join(path, table.name(i)) for i in bad], in_memory)),
                     lambda: [class_names, shape, *earlier_fingerprint_parts(path, table, files)], evaluation)


def _split_folders(path, validation_split, own_validation):
    """Returns ({"train": folder, "validation": folder, "test": folder}, those that exist; lines for the user)."""
    if not os.path.isdir(path):
        raise UsageError(f"--dataset=folder:{path}: there is no such folder; where it was moved, give its new path")
    names = [name for name in _folders_in(path) if not is_hidden(name)]
    train, found, unused, lines = path, {}, None, []
    own = _training_folder(path, names)
    if own:
        train = os.path.join(path, own)
        found, unused = choose_splits(f"--dataset=folder:{path}", names, own_validation)
        others = [readable(name) for name in names if name not in (own, unused, *found.values())]
        if others:
            lines.append(f"not read, since they are next to '{own}': {', '.join(others[:5])}"
                         f"{', ...' if len(others) > 5 else ''}")
    if not found and not validation_split:
        raise UsageError(f"--dataset=folder:{path} has no folder 'test' or 'val' next to 'train': make "
                         f"{path}/train/<class>/ and {path}/test/<class>/, or give --validation_split=0.2 to hold a "
                         "part out for testing")
    folders = {role: os.path.join(path, name) for role, name in found.items()}
    return {"train": train, **folders}, [*unused_validation(unused, unused == found.get("test")), *lines]


def _folders_in(path):
    """Returns the sorted names of the folders in a folder, including links to folders."""
    try:
        return sorted(name for name in os.listdir(path) if os.path.isdir(os.path.join(path, name)))
    except OSError as error:
        raise UsageError(f"cannot read the folder {path}: {(error.strerror or str(error)).lower()}") from error


def _training_folder(path, names):
    """Returns the name of the folder of the training split, or None where the folders are classes.

    A folder `train` next to others that contains images and no folders is a class (of vehicles).
    """
    found = [name for name in names if name.lower() == "train"]
    if len(found) > 1:
        raise UsageError(f"--dataset=folder:{path} has several training splits, {' and '.join(found)}: keep one")
    if not found:
        return None
    inside = os.path.join(path, found[0])
    is_class = not any(not is_hidden(name) for name in _folders_in(inside)) and any(
        is_image(os.path.join(inside, name)) for name in os.listdir(inside) if not is_hidden(name))
    return None if is_class and len(names) > 1 else found[0]


def _class_folders(folders):
    """Returns {split: names of its class folders}, in the same order of classes in every split.

    Names are equal whichever way an accented letter is composed: archives from other systems change that.
    """
    found = {split: [name for name in _folders_in(folder) if not is_hidden(name)] for split, folder in folders.items()}
    train = found["train"]
    if len(train) < 2:
        raise UsageError(f"{folders['train']} has {len(train)} class folders: put the images of each class in "
                         f"a folder of its own, two classes at least, as in {folders['train']}/cat/1.jpg")
    for split, names in found.items():
        exact = set(train) & set(names)
        composed = {unicodedata.normalize("NFC", name): name for name in names if name not in exact}
        same = {name: name if name in exact else composed.pop(unicodedata.normalize("NFC", name), None)
                for name in train}
        odd = sorted([name for name in train if same[name] is None] + list(composed.values()))
        if odd:
            here, there = ("train", split) if odd[0] in train else (split, "train")
            raise UsageError(f"class '{odd[0]}' is in {folders[here]} but not in {folders[there]}: both need the same "
                             f"class folders ({len(odd)} differ)")
        found[split] = [same[name] for name in train]
    return found


def _alike(class_names):
    """Returns lines about classes whose names look the same, or differ only in case."""
    seen, lines = {}, []
    for name in class_names:
        other = seen.setdefault(unicodedata.normalize("NFC", name).casefold(), name)
        if other != name:
            lines.append(f"classes '{other}' and '{name}' differ only in case or in how their letters are composed: "
                         "they are two classes")
    return lines


def _beside(table):
    """Returns lines about ignored files."""
    line = left_out([readable(table.name(i)) for i in np.flatnonzero(table.facts["kind"] == OTHER)])
    return [] if line is None else [line]


def _refuse(bad, path, table, skip):
    """Raises UsageError about {number: reason} of unreadable files, unless they are skipped or there are none."""
    if bad and not skip:
        first = min(bad)
        more = f" (and {len(bad) - 1} more)" if len(bad) > 1 else ""
        raise UsageError(unreadable(os.path.join(path, table.name(first)), bad[first]) + more)


def _images_of(table, splits, num_classes):
    """Returns {split: (images, int64 [n], numbers of files; labels, int32 [n])}, both ordered by class and name."""
    found = {}
    for k, name in enumerate(splits):
        first = table.first[k * num_classes:(k + 1) * num_classes + 1]
        labels = np.repeat(np.arange(num_classes, dtype=np.int32), np.diff(first))
        is_image = table.facts["kind"][first[0]:first[-1]] == IMAGE
        found[name] = first[0] + np.flatnonzero(is_image), labels[is_image]
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
    found = table.facts[table.facts["kind"] == IMAGE]
    return bool(((found["height"] != shape[0]) | (found["width"] != shape[1])).any())


def _read_images(path, table, splits, preprocessing, console):
    """Reads all images into memory.

    Returns:
      ({split: uint8 [n, H, W, C]} without those that cannot be decoded, {number of a file: UnreadableImage} of those).
    """
    pixels, bad, reader = {}, {}, ImageReader(preprocessing)
    with activity("reading images", console, sum(len(images) for images, _ in splits.values())) as doing:
        for name, (images, _) in splits.items():
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


def _check_classes(labels, class_folders, folder):
    """Raises UsageError where no readable image of a class is left."""
    for label in np.flatnonzero(np.bincount(labels, minlength=len(class_folders)) == 0):
        raise UsageError(f"class folder {os.path.join(folder, class_folders[label])} has no image that can be read")


def _index(path, table, images, labels):
    """Returns the ImageIndex of files by their numbers, int64 [n]."""
    start, length = table.places
    columns = {name: table.facts[name][images] for name in ("height", "width", "orientation", "decoder")}
    return ImageIndex(path, table.names, start[images], length[images], labels, **columns)


def _notes(bad, in_memory):
    notes = []
    if bad:
        notes.append(f"skipped {counted(len(bad), 'unreadable image')}: {', '.join(map(readable, bad[:3]))}"
                     f"{', ...' if len(bad) > 3 else ''}")
    if not in_memory:
        notes.append("images are decoded on demand, each epoch in a random order of all of them")
    return tuple(notes)
