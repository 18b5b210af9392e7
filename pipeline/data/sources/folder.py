"""A user's own images, one folder a class."""
import os
import unicodedata

import numpy as np

from pipeline.activity import activity
from pipeline.choices import DATASETS
from pipeline.config import DataConfig
from pipeline.console import STANDARD, Console
from pipeline.data.decode import UnreadableImage, in_parallel, read_image
from pipeline.data.file_stream import ImageFiles, unreadable
from pipeline.data.holdout import source_of
from pipeline.data.image_header import read_header
from pipeline.data.image_index import FileNames, ImageIndex, readable
from pipeline.data.image_search import images_below, is_hidden, is_image, left_out
from pipeline.data.memory import InMemory
from pipeline.data.source import Source, Split
from pipeline.data.splits import choose_splits, unused_validation
from pipeline.errors import UsageError
from pipeline.quantities import counted

# How decode.read_image treats transparency and floats: part of the fingerprint of data sets that have such images.
INTERPRETATION = "floats up to 1 are levels; one colour is laid over a ground"


@DATASETS.built_in("folder", argument="PATH")
def load_folder(path: str, config: DataConfig, console: Console = STANDARD, own_validation: bool = True) -> Source:
    """Finds PATH/train/<class>/*, PATH/val/<class>/* and PATH/test/<class>/*, or PATH/<class>/*.

    A validation split has any name of splits.VALIDATION_NAMES. Without it and a test folder, the share of training that
    --validation_split holds out is the test split. Images in subfolders of a class belong to that class.

    Args:
      path: the folder.
      config: image_size, validation_split, skip_unreadable and memory_budget are used.
      console: where messages go.
      own_validation: see splits.choose_splits.

    Returns:
      Source; images have one channel if all files are grey, else three.

    Raises:
      UsageError: no such folder, no class, an empty class, classes that differ between splits, an unreadable
        image without --skip_unreadable, sizes that differ without --image_size, no way to get a test split.
    """
    path = os.path.abspath(path)
    with activity("looking for images", console):
        folders, notes = _split_folders(path, config.validation_split, own_validation)
        class_folders = _class_folders(folders)
        class_names = tuple(readable(name) for name in class_folders["train"])
        files = {name: _class_files(folder, class_folders[name]) for name, folder in folders.items()}
    notes += [*_alike(class_names), *_beside(path, files)]
    files = {name: (paths, labels) for name, (paths, labels, _) in files.items()}
    every = [file for paths, _ in files.values() for file in paths]
    with activity("looking at images", console, len(every)) as doing:
        headers = dict(zip(every, in_parallel(read_header, every, doing.advance), strict=True))
    bad = _without_unreadable(headers, config.skip_unreadable)
    channels = 1 if all(header.grey for header in headers.values()) else 3
    shape = _common_shape(headers, config.image_size, channels)
    in_memory = len(headers) * int(np.prod(shape)) <= config.memory_budget * 2**20
    pixels = {}
    if in_memory:
        with activity("reading images", console, len(headers)) as doing:
            pixels = dict(zip(headers, in_parallel(lambda file: read_image(file, channels, config.image_size), headers,
                                                   doing.advance), strict=True))
        bad += _without_unreadable(pixels, config.skip_unreadable)
    splits, parts = {}, [class_names, shape]
    for name, (paths, labels) in files.items():
        kept = [(file, label) for file, label in zip(paths, labels, strict=True) if file not in bad]
        _check_classes([label for _, label in kept], class_folders[name], folders[name])
        splits[name] = _make_split(name, path, kept, headers, pixels, shape, config)
        parts += [name, [(os.path.relpath(file, path), headers[file].file_size, headers[file].ends_digest)
                         for file, _ in kept]]
        if any(headers[file].interpreted for file, _ in kept):
            parts.append(INTERPRETATION)
    return source_of(f"folder:{readable(path)}", class_names, shape, splits, parts, config.validation_split,
                     (*notes, *_notes(bad, in_memory)))


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


def _class_files(folder, class_folders):
    """Returns (paths, labels, files that are no images), the first two ordered by class and file name."""
    paths, labels, others = [], [], []
    for label, name in enumerate(class_folders):
        inside = os.path.join(folder, name)
        found, rest = images_below(inside)
        if not found:
            raise UsageError(f"class folder {inside} has no images: add some, or remove the folder from every split")
        paths += [os.path.join(inside, entry) for entry in found]
        labels += [label] * len(found)
        others += [os.path.join(inside, entry) for entry in rest]
    return paths, labels, others


def _beside(path, files):
    """Returns lines about ignored files.

    Args:
      path: the folder of the data set.
      files: {split: what _class_files returns}.
    """
    line = left_out([readable(os.path.relpath(file, path)) for *_, others in files.values() for file in others])
    return [] if line is None else [line]


def _without_unreadable(results, skip):
    """Removes the files whose result is an UnreadableImage from a dictionary and returns their names."""
    bad = [file for file, result in results.items() if isinstance(result, UnreadableImage)]
    if bad and not skip:
        more = f" (and {len(bad) - 1} more)" if len(bad) > 1 else ""
        raise UsageError(unreadable(bad[0], results[bad[0]]) + more)
    for file in bad:
        del results[file]
    return bad


def _common_shape(headers, image_size, channels):
    """Returns the (H, W, C) of all images."""
    if image_size is not None:
        return image_size, image_size, channels
    sizes = {}
    for file, header in headers.items():
        sizes.setdefault((header.height, header.width), file)
    if len(sizes) > 1:
        (first, file), (second, other) = list(sizes.items())[:2]
        raise UsageError(f"images differ in size: {file} is {first[0]}x{first[1]}, {other} is {second[0]}x{second[1]} "
                         f"(height x width): give --image_size to resize all, such as --image_size={min(first)}")
    return (*next(iter(sizes), (0, 0)), channels)


def _check_classes(labels, class_folders, folder):
    """Raises UsageError where no readable image of a class is left."""
    for label in set(range(len(class_folders))) - set(labels):
        raise UsageError(f"class folder {os.path.join(folder, class_folders[label])} has no image that can be read")


def _make_split(name, root, kept, headers, pixels, shape, config):
    index = _index(root, kept, headers)
    if pixels:
        reader = InMemory(np.stack([pixels[file] for file, _ in kept]), index.labels)
    else:
        reader = ImageFiles(index, shape, config.image_size, config.skip_unreadable)
    return Split(name, len(kept), reader, index.labels, FileNames(index))


def _index(root, kept, headers):
    """Returns the ImageIndex of [(file, label)]."""
    names = [os.fsencode(os.path.relpath(file, root)) for file, _ in kept]
    length = np.array([len(name) for name in names], np.int32)
    figures = {name: np.array([getattr(headers[file], name) for file, _ in kept], kind)
               for name, kind in (("height", np.int32), ("width", np.int32), ("orientation", np.uint8),
                                  ("decoder", np.uint8))}
    return ImageIndex(root, b"".join(names), np.cumsum(length) - length, length,
                      np.array([label for _, label in kept], np.int32), **figures)


def _notes(bad, in_memory):
    notes = []
    if bad:
        notes.append(f"skipped {counted(len(bad), 'unreadable image')}: {', '.join(map(readable, bad[:3]))}"
                     f"{', ...' if len(bad) > 3 else ''}")
    if not in_memory:
        notes.append("images are decoded on demand, each epoch in a random order of all of them")
    return tuple(notes)
