"""What a trained model says of a user's image files: found, decoded on threads and classified, batch by batch."""
import collections
import dataclasses
import itertools
import os
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import scipy.special

from pipeline.data.image_file import UnreadableImage, read_image
from pipeline.data.image_search import is_hidden, is_image
from pipeline.errors import RunFailure, UsageError
from pipeline.paths import local_path

# Data sets of light strokes or clothes on black, where a photograph of ink on paper is the other way round.
DARK_GROUND = ("digits", "mnist", "emnist", "kmnist", "fashion_mnist")
DARK_MEAN = 0.3  # Mean of a training split in [0, 1] below which its ground is taken for dark.
LIGHT_BORDER = 0.6  # Mean of a picture's border in [0, 1] above which its ground is taken for light.


@dataclasses.dataclass(frozen=True, eq=False)
class Prediction:
    """What the model says of one file.

    Attributes:
      file: its path.
      classes: ((name, probability in [0, 1]), ...), the most probable first; as many as were asked for.
      border: mean of the outermost pixels that the model saw, in [0, 1].
      saliency: float32 [H, W] >= 0, how much each pixel moves the logit of the first class, or None.
    """

    file: str
    classes: tuple
    border: float
    saliency: np.ndarray | None = None

    @property
    def light_ground(self):
        """Whether it is a picture on light ground."""
        return self.border > LIGHT_BORDER


def find_files(arguments, recursive=True, without=()):
    """Finds the files that a user means.

    Args:
      arguments: paths of files, and of folders, which stand for all their files by name, hidden ones left out.
      recursive: whether folders inside of folders count.
      without: paths of files and folders that are left out of folders.

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
            # What is neither file nor link is a device or a pipe: to read it may never end.
            files += [path for path in found if os.path.realpath(path) not in left_out
                      and (os.path.isfile(path) or os.path.islink(path))]
    return files, problems


def is_no_image(path, arguments):
    """Tells whether a file that cannot be read is none that was meant: in a folder, and no image as for training.

    Args:
      path: one of the paths that `find_files` found.
      arguments: what it was given.
    """
    return path not in arguments and not is_image(path)


def short_names(files):
    """Returns the function from one of the files to its path below the folder that all of them lie in."""
    if not files:
        return str
    shared = os.path.commonpath([os.path.dirname(os.path.abspath(file)) for file in files])
    return lambda file: os.path.relpath(os.path.abspath(file), shared)


def read_batches(files, shape, batch_size, unreadable):
    """Decodes files on threads, ahead of who takes them; at most three batches are in memory.

    Args:
      files: paths.
      shape: (H, W, C) that every picture is brought to, as a folder of pictures is for training; what TensorFlow makes
        of a data set of TensorFlow Datasets is at most 1 of 255 apart from it.
      batch_size: most pictures of a batch.
      unreadable: called with path and reason of a file that is no image; the batch is filled up from behind it.

    Yields:
      (list of n paths, uint8 [n, H, W, C]), in the order of `files`; only the last batch is short.
    """
    waiting, names, images, coming = collections.deque(), [], [], iter(files)
    pool = ThreadPoolExecutor(len(os.sched_getaffinity(0)), thread_name_prefix="decode")
    try:
        while True:
            for file in itertools.islice(coming, 2 * batch_size - len(waiting)):
                waiting.append((file, pool.submit(read_image, file, shape[-1], shape[:2])))
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


def predict(model, files, unreadable, top=3, invert=False, explained=0):
    """Classifies image files.

    Args:
      model: pipeline.trained.TrainedModel.
      files: paths.
      unreadable: called with path and reason of each file that is no image.
      top: how many classes are told of each; 0 for all.
      invert: whether light and dark are exchanged before the model sees a picture.
      explained: of how many pictures, from the first on, a saliency map is made.

    Yields:
      Lists of Prediction, in the order of `files`, a batch each.

    Raises:
      RunFailure: what the model says is no number.
    """
    top, done = top or len(model.class_names), 0
    for names, images in read_batches(files, model.image_shape, model.inference.settings.batch_size, unreadable):
        images = 255 - images if invert else images
        logits = np.asarray(model.logits(images), np.float64)
        wrong = np.flatnonzero(~np.isfinite(logits).all(axis=-1))
        if len(wrong):
            raise RunFailure(f"the model says of {names[wrong[0]]} what is no number: its training had diverged by "
                             f"step {model.step}; take an earlier --checkpoint")
        probabilities = scipy.special.softmax(logits, axis=-1)
        ranked = np.argsort(-logits, axis=-1, kind="stable")
        asked = min(max(0, explained - done), len(names))
        maps = model.saliency(images[:asked], ranked[:asked, 0].astype(np.int32)) if asked else ()
        borders = border_brightness(images)
        yield [Prediction(name, tuple((model.class_names[c], float(probabilities[i, c])) for c in ranked[i, :top]),
                          float(borders[i]), maps[i] if i < asked else None) for i, name in enumerate(names)]
        done += len(names)


def border_brightness(images):
    """Returns float64 [n], the mean of the outermost pixels of images uint8 [n, H, W, C], in [0, 1]."""
    inside = np.zeros(images.shape[1:3], bool)
    inside[1:-1, 1:-1] = True
    return images[:, ~inside].mean(axis=(1, 2)) / 255


def has_dark_ground(stored):
    """Tells whether a model is known to have been trained on one channel with light things on dark ground.

    Args:
      stored: what config.json of its run holds.
    """
    if stored["data"]["image_shape"][-1] != 1:
        return False
    if stored.get("normalization"):
        return stored["normalization"]["mean"][0] < DARK_MEAN
    return stored["config"]["dataset"].partition("/")[0].partition(":")[0] in DARK_GROUND
