"""Predictions of image files: found, decoded on threads and classified, batch by batch."""
import collections
import dataclasses
import itertools
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import numpy as np
import scipy.special

from pipeline.data.decode import UnreadableImage
from pipeline.data.image_reader import ImageReader
from pipeline.data.image_search import is_hidden, is_image
from pipeline.errors import RunFailure, UsageError
from pipeline.paths import local_path
from pipeline.preprocessing import Preprocessing

# Data sets of light strokes or clothes on black; a photograph of ink on paper is the inverse.
DARK_BACKGROUND = ("digits", "mnist", "emnist", "kmnist", "fashion_mnist")
DARK_MEAN = 0.3  # Mean of a training split in [0, 1] below which its background counts as dark.
LIGHT_BORDER = 0.6  # Mean of an image's border in [0, 1] above which its background counts as light.


@dataclasses.dataclass(frozen=True, eq=False)
class Prediction:
    """The prediction of one file.

    Attributes:
      file: its path.
      classes: ((name, probability in [0, 1]), ...), the most probable first.
      border: mean of the outermost pixels of the model's input, in [0, 1].
      saliency: float32 [H, W] >= 0, how much each pixel moves the logit of the first class, or None.
    """

    file: str
    classes: tuple[tuple[str, float], ...]
    border: float
    saliency: Any = None

    @property
    def light_background(self) -> bool:
        """Whether the image has a light background."""
        return self.border > LIGHT_BORDER


def find_files(arguments: Sequence[str], recursive: bool = True, without: Iterable[str] = ()
               ) -> tuple[list[str], list[tuple[str, str]]]:
    """Finds the files of a user's paths.

    Args:
      arguments: paths of files, and of folders, which stand for all their files in order, hidden ones left out.
      recursive: search folders inside of folders.
      without: paths of files and folders to leave out.

    Returns:
      (paths, [(folder, why it cannot be read)]).

    Raises:
      UsageError: there is no such file or folder.
    """
    arguments = [local_path(path, any_bytes=True) for path in arguments]
    for path in arguments:
        if not os.path.lexists(path):
            raise UsageError(f"there is no file or folder '{path}'")
    files, problems, left_out = [], [], {os.path.realpath(path) for path in without}

    def unreadable(error):
        problems.append((error.filename, error.strerror.lower()))

    for argument in arguments:
        if not os.path.isdir(argument):
            files.append(argument)
            continue
        for folder, inside, names in os.walk(argument, onerror=unreadable):
            kept = [name for name in inside if not is_hidden(name)
                    and os.path.realpath(os.path.join(folder, name)) not in left_out]
            inside[:] = sorted(kept) if recursive else []
            found = [os.path.join(folder, name) for name in sorted(names) if not is_hidden(name)]
            # Anything else is a device or a pipe: reading it may never end.
            files += [path for path in found if os.path.realpath(path) not in left_out
                      and (os.path.isfile(path) or os.path.islink(path))]
    return files, problems


def is_no_image(path: str, arguments: Sequence[str]) -> bool:
    """Returns whether an unreadable file is to be skipped: found in a folder, and without the suffix of an image."""
    return path not in arguments and not is_image(path)


def short_names(files: Sequence[str]) -> Callable[[str], str]:
    """Returns a function from one of the files to its path below their common folder."""
    if not files:
        return str
    shared = os.path.commonpath([os.path.dirname(os.path.abspath(file)) for file in files])
    return lambda file: os.path.relpath(os.path.abspath(file), shared)


def read_batches(files: Sequence[str], preprocessing: Preprocessing, batch_size: int,
                 unreadable: Callable[[str, Any], object]) -> Iterator[tuple[list[str], np.ndarray]]:
    """Decodes files on threads, ahead of the consumer; at most three batches are in memory.

    Args:
      files: paths.
      preprocessing: that of the run: files become the images that it was evaluated on.
      batch_size: largest number of images of a batch.
      unreadable: called with path and reason of a file that cannot be read; the next ones fill up its batch.

    Yields:
      (list of n paths, uint8 [n, H, W, C]), in the order of `files`; only the last batch is short.
    """
    waiting: collections.deque[tuple[str, Future]] = collections.deque()
    names: list[str] = []
    images: list[np.ndarray] = []
    coming, reader = iter(files), ImageReader(preprocessing)
    pool = ThreadPoolExecutor(len(os.sched_getaffinity(0)), thread_name_prefix="decode")
    try:
        while True:
            for file in itertools.islice(coming, 2 * batch_size - len(waiting)):
                waiting.append((file, pool.submit(reader.read, file)))
            if not waiting:
                break
            file, pending = waiting.popleft()
            try:
                images.append(pending.result())
            except UnreadableImage as error:
                unreadable(file, error)
                continue
            names.append(file)
            if len(names) == batch_size:
                yield names, np.stack(images)
                names, images = [], []
        if names:
            yield names, np.stack(images)
    finally:
        pool.shutdown(wait=False, cancel_futures=True)


def predict(model: Any, files: Sequence[str], unreadable: Callable[[str, Any], object], top: int = 3,
            invert: bool = False, explained: int = 0) -> Iterator[list[Prediction]]:
    """Classifies image files.

    Args:
      model: pipeline.evaluation.trained_model.TrainedModel.
      files: paths.
      unreadable: called with path and reason of each file that cannot be read.
      top: number of classes of each prediction; 0: all.
      invert: invert light and dark first.
      explained: number of images, from the first on, with a saliency map.

    Yields:
      Lists of Prediction, in the order of `files`, one for each batch.

    Raises:
      RunFailure: an output is not finite.
    """
    top, done = top or len(model.class_names), 0
    for names, images in read_batches(files, model.preprocessing, model.inference.settings.batch_size, unreadable):
        images = 255 - images if invert else images
        logits = np.asarray(model.logits(images), np.float64)
        wrong = np.flatnonzero(~np.isfinite(logits).all(axis=-1))
        if len(wrong):
            raise RunFailure(f"non-finite prediction for {names[wrong[0]]}: the training had diverged by step "
                             f"{model.step}; use an earlier --checkpoint")
        probabilities = scipy.special.softmax(logits, axis=-1)
        ranked = np.argsort(-logits, axis=-1, kind="stable")
        asked = min(max(0, explained - done), len(names))
        maps = model.saliency(images[:asked], ranked[:asked, 0].astype(np.int32)) if asked else ()
        borders = border_brightness(images)
        yield [Prediction(name, tuple((model.class_names[c], float(probabilities[i, c])) for c in ranked[i, :top]),
                          float(borders[i]), maps[i] if i < asked else None) for i, name in enumerate(names)]
        done += len(names)


def border_brightness(images: np.ndarray) -> np.ndarray:
    """Returns float64 [n], the mean of the outermost pixels of images uint8 [n, H, W, C], in [0, 1]."""
    inside = np.zeros(images.shape[1:3], bool)
    inside[1:-1, 1:-1] = True
    return images[:, ~inside].mean(axis=(1, 2)) / 255


def has_dark_background(stored: Mapping[str, Any]) -> bool:
    """Returns whether a model is known to have been trained on grayscale images with a dark background."""
    if stored["data"]["image_shape"][-1] != 1:
        return False
    if stored.get("normalization"):
        return stored["normalization"]["mean"][0] < DARK_MEAN
    return stored["config"]["dataset"].partition("/")[0].partition(":")[0] in DARK_BACKGROUND
