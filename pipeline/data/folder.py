"""A user's own images: one folder a class."""
import os

import numpy as np
import tensorflow as tf

from pipeline.activity import activity
from pipeline.data.holdout import divide
from pipeline.data.image_file import SUFFIXES, UnreadableImage, in_parallel, read_header, read_image
from pipeline.data.memory import InMemory
from pipeline.data.order import example_index
from pipeline.data.source import Source, Split, digest, numbered_batches
from pipeline.errors import UsageError
from pipeline.quantities import counted

_TEST_NAMES = ("test", "validation", "valid", "val")
# What images with transparency or floats become, see image_file.read_image: part of the fingerprint of those alone.
INTERPRETATION = "floats up to 1 are levels; one colour is laid over a ground"


class ImageFiles:
    """Reads image files by name, decoding them on demand: any file of any position at the same cost."""

    def __init__(self, paths, labels, shape, size):
        self.paths, self.labels, self.shape, self.size = np.asarray(paths), np.asarray(labels, np.int32), shape, size

    def shuffled(self, seed, start_step, batch_size, finish, rows=None):
        positions = tf.data.Dataset.range(start_step * batch_size, np.iinfo(np.int64).max)
        count = len(self.labels)
        if rows is not None:
            steps = tf.data.Dataset.range(start_step, np.iinfo(np.int64).max // batch_size)
            positions = steps.map(lambda step: step * batch_size + tf.constant(rows, tf.int64)).unbatch()

        def index_of(position):
            return example_index(position[None], count, seed)[0]

        return self._batches(positions, index_of, start_step, batch_size if rows is None else len(rows), finish)

    def in_order(self, start_batch, batch_size, finish):
        positions = tf.data.Dataset.range(start_batch * batch_size, len(self.labels))
        return self._batches(positions, lambda p: p, start_batch, batch_size, finish)

    def select(self, index):
        return ImageFiles(self.paths[index], self.labels[index], self.shape, self.size)

    def read_labels(self):
        return self.labels

    def _batches(self, positions, index_of, first, batch_size, finish):
        with tf.device("CPU:0"), tf.init_scope():
            paths, labels = tf.constant(self.paths), tf.constant(self.labels)

        @tf.autograph.experimental.do_not_convert
        def example(position):
            index = index_of(position)
            image = tf.numpy_function(self._decode, [paths[index]], tf.uint8, stateful=False)
            return tf.ensure_shape(image, self.shape), labels[index]

        examples = positions.map(example, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True)
        return numbered_batches(examples, first, batch_size, finish)

    def _decode(self, path):
        path = path.decode()
        try:
            return read_image(path, self.shape[-1], self.size)
        except UnreadableImage as error:
            raise UsageError(_unreadable(path, error)) from error


def load_folder(path, config, echo=print):
    """Finds PATH/train/<class>/* and PATH/test/<class>/*, or PATH/<class>/* with --validation_split.

    Without a test folder, what --validation_split holds out of training is the test split.

    Args:
      path: the folder.
      config: DataConfig; image_size, validation_split, skip_unreadable and memory_budget count.
      echo: takes lines about what takes long.

    Returns:
      Source; images are grey where all files are, else of three channels.

    Raises:
      UsageError: no such folder, no class, an empty class, classes that differ between train and test, an unreadable
        image without --skip_unreadable, sizes that differ without --image_size, no way to get a test split.
    """
    path = os.path.abspath(os.path.expanduser(path))
    with activity("looking for images", echo):
        folders = _split_folders(path, config.validation_split)
        class_names = _class_names(folders)
        files = {name: _class_files(folder, class_names) for name, folder in folders.items()}
    every = [file for paths, _ in files.values() for file in paths]
    with activity("looking at images", echo, len(every)) as doing:
        headers = dict(zip(every, in_parallel(read_header, every, doing.advance), strict=True))
    bad = _without_unreadable(headers, config.skip_unreadable)
    channels = 1 if all(header.grey for header in headers.values()) else 3
    shape = _common_shape(headers, config.image_size, channels)
    in_memory = len(headers) * int(np.prod(shape)) <= config.memory_budget * 2**20
    pixels = {}
    if in_memory:
        with activity("reading images", echo, len(headers)) as doing:
            pixels = dict(zip(headers, in_parallel(lambda file: read_image(file, channels, config.image_size), headers,
                                                   doing.advance), strict=True))
        bad += _without_unreadable(pixels, config.skip_unreadable)
    splits, parts = [], [class_names, shape]
    for name, (paths, labels) in files.items():
        kept = [(file, label) for file, label in zip(paths, labels, strict=True) if file not in bad]
        _check_classes([label for _, label in kept], class_names, folders[name])
        splits.append(_make_split(name, path, kept, pixels, shape, config.image_size))
        parts += [name, [(os.path.relpath(file, path), os.path.getsize(file), digest(np.frombuffer(
            headers[file].ends, np.uint8))) for file, _ in kept]]
        if any(headers[file].interpreted for file, _ in kept):
            parts.append(INTERPRETATION)
    notes = _notes(bad, in_memory)
    test_from_train = len(splits) == 1
    if test_from_train:
        splits = divide(splits[0], config.validation_split, "test")
        parts.append(config.validation_split)
    return Source(f"folder:{path}", class_names, shape, *splits, None, digest(*parts), notes, test_from_train)


def _split_folders(path, validation_split):
    """Returns {"train": folder} or {"train": folder, "test": folder}."""
    if not os.path.isdir(path):
        raise UsageError(f"--dataset=folder:{path}: there is no such folder; where it was moved, give its new path")
    train = os.path.join(path, "train")
    if not os.path.isdir(train):
        train, tests = path, []
    else:
        tests = [os.path.join(path, name) for name in _TEST_NAMES if os.path.isdir(os.path.join(path, name))]
    if tests:
        return {"train": train, "test": tests[0]}
    if not validation_split:
        raise UsageError(f"--dataset=folder:{path} has no folder 'test' beside 'train': make {path}/train/<class>/ and "
                         f"{path}/test/<class>/, or give --validation_split=0.2 to hold a part out for testing")
    return {"train": train}


def _class_names(folders):
    """Returns the sorted names of the class folders, which must be the same in every split."""
    names = {split: sorted(entry.name for entry in os.scandir(folder)
                           if entry.is_dir() and not entry.name.startswith((".", "__")))
             for split, folder in folders.items()}
    if len(names["train"]) < 2:
        raise UsageError(f"{folders['train']} has {len(names['train'])} class folders: put the images of each class in "
                         f"a folder of its own, two classes at least, as in {folders['train']}/cat/1.jpg")
    odd = sorted(set(names["train"]) ^ set(names.get("test", names["train"])))
    if odd:
        here, there = ("train", "test") if odd[0] in names["train"] else ("test", "train")
        raise UsageError(f"class '{odd[0]}' is in {folders[here]} but not in {folders[there]}: both need the same "
                         f"class folders ({len(odd)} differ)")
    return tuple(names["train"])


def _class_files(folder, class_names):
    """Returns (paths, labels) in the order of class and file name."""
    paths, labels = [], []
    for label, name in enumerate(class_names):
        inside = os.path.join(folder, name)
        found = sorted(entry for entry in os.listdir(inside)
                       if entry.lower().endswith(SUFFIXES) and not entry.startswith("."))
        if not found:
            raise UsageError(f"class folder {inside} has no images ({', '.join(s[1:] for s in SUFFIXES)}): add some, "
                             f"or remove the folder from every split")
        paths += [os.path.join(inside, entry) for entry in found]
        labels += [label] * len(found)
    return paths, labels


def _without_unreadable(results, skip):
    """Removes the files whose result is an UnreadableImage from a dictionary and returns their names."""
    bad = [file for file, result in results.items() if isinstance(result, UnreadableImage)]
    if bad and not skip:
        more = f" (and {len(bad) - 1} more)" if len(bad) > 1 else ""
        raise UsageError(_unreadable(bad[0], results[bad[0]]) + more)
    for file in bad:
        del results[file]
    return bad


def _unreadable(path, error):
    return f"cannot read the image {path}: {error}; repair or remove it, or give --skip_unreadable to go on without it"


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


def _check_classes(labels, class_names, folder):
    """Raises UsageError where no readable image of a class is left."""
    for label in set(range(len(class_names))) - set(labels):
        raise UsageError(f"class folder {os.path.join(folder, class_names[label])} has no image that can be read")


def _make_split(name, root, kept, pixels, shape, size):
    labels = np.array([label for _, label in kept], np.int32)
    if pixels:
        reader = InMemory(np.stack([pixels[file] for file, _ in kept]), labels)
    else:
        reader = ImageFiles([file for file, _ in kept], labels, shape, size)
    return Split(name, len(kept), reader, labels, [os.path.relpath(file, root) for file, _ in kept])


def _notes(bad, in_memory):
    notes = []
    if bad:
        notes.append(f"skipped {counted(len(bad), 'unreadable image')}: {', '.join(bad[:3])}"
                     f"{', ...' if len(bad) > 3 else ''}")
    if not in_memory:
        notes.append("images are decoded as they are needed, each epoch in a random order of all of them")
    return tuple(notes)
