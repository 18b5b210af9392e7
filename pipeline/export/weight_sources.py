"""Files that training can start from, of every format: found, read, and identified."""
import contextlib
import dataclasses
import glob
import hashlib
import os
import zipfile

import numpy as np
import tensorflow as tf

from pipeline.choices import EXPORT_FORMATS
from pipeline.errors import UsageError
from pipeline.export import keras_weights, published_weights
from pipeline.export.export_format import ExportFormat, find_format
from pipeline.export.formats import weights_file
from pipeline.files import sha256
from pipeline.internals.keras_internals import H5Store
from pipeline.models.plain import PlainModel
from pipeline.paths import literal, local_path
from pipeline.stored_checkpoint import stored_checkpoints

SAVED_MODEL = "saved_model.pb"
PUBLISHED = "imagenet"  # In place of a path: what Keras publishes for the architecture.
H5 = (".h5", ".hdf5")
KNOWN = "a SavedModel's folder, a .keras or .h5 file, the directory of a run, or imagenet"


@dataclasses.dataclass(frozen=True)
class WeightSource:
    """Where weights come from.

    Attributes:
      form: name of an export format, "checkpoint", "h5" for a file of weights that Keras wrote, or "imagenet" for one
        that it publishes.
      path: the file or folder itself; of a checkpoint, its path without suffix.
      plain: the model that a file of Keras is for; None: files that need it are refused.
      published: {path of a variable: numpy array} of what Keras publishes.
    """

    form: str
    path: str
    plain: PlainModel | None = None
    published: dict[str, np.ndarray] | None = None

    def read(self) -> dict[str, np.ndarray]:
        """Returns {path of a variable: numpy array}.

        Raises:
          UsageError: it cannot be read.
        """
        try:
            values = self._read()
        except (OSError, ValueError, KeyError, TypeError, RuntimeError, zipfile.BadZipFile, tf.errors.OpError) as error:
            reason = (str(error).splitlines() or [type(error).__name__])[0]
            raise UsageError(f"{self.path} cannot be read, it may be damaged: {reason}") from error
        return self.plain.completed(values) if self.plain else values

    def _read(self):
        if self.published is not None:
            return self.published
        if self.form == "checkpoint":
            return _read_checkpoint(self.path)
        if self.form == "h5":
            return _read_h5(self.path, self.plain)
        return find_format(self.form).read_variables(self.path)

    def sha256(self) -> str:
        """Returns the SHA-256 of the file, or over those of the files that hold the variables, as hex."""
        stems = {"saved_model": os.path.join(self.path, "variables", "variables"), "checkpoint": self.path}
        if self.form not in stems:
            return sha256(self.path)
        stem = glob.escape(stems[self.form])
        digests = [sha256(path) for path in sorted(glob.glob(f"{stem}.index") + glob.glob(f"{stem}.data-*"))]
        return hashlib.sha256("".join(digests).encode()).hexdigest()


def find(path: str, plain: PlainModel | None = None) -> WeightSource:
    """Finds the weights that a path stands for.

    Args:
      path: a SavedModel's folder, a .keras, .weights.h5 or legacy .h5 file, a folder of a format's versions as
        `mirrorline export` writes it (the latest is taken) or one of them, the directory of a run (its best checkpoint
        is taken, or else the latest), or "imagenet" for what Keras publishes for the model.
      plain: the model that they are for.

    Raises:
      UsageError: there is nothing, or nothing of these.
    """
    if path == PUBLISHED and plain:
        file, values = published_weights.read(plain)
        return WeightSource(PUBLISHED, file, plain, values)
    path = local_path(path)
    if os.path.isfile(path):
        if path.endswith(H5) and not weights_file.names_variables(path):
            return WeightSource("h5", path, plain)
        for known in _readable():
            if known.file and path.endswith(known.file[known.file.index("."):]):
                return WeightSource(known.name, path, plain)
        raise UsageError(f"{path} is no model that training can start from; give {KNOWN}")
    if not os.path.isdir(path):
        raise UsageError(f"{path} does not exist; give {KNOWN}")
    if os.path.isdir(os.path.join(path, "checkpoints")):
        return WeightSource("checkpoint", _checkpoint(path))
    versions = sorted((name for name in os.listdir(path) if name.isdigit()), key=int)
    for folder in (path, *(os.path.join(path, name) for name in versions[-1:])):
        for known in _readable():
            if os.path.isfile(os.path.join(folder, known.file or SAVED_MODEL)):
                return WeightSource(known.name, os.path.join(folder, known.file) if known.file else folder, plain)
    raise UsageError(f"{path} holds no model that training can start from; give {KNOWN}")


def _readable() -> list[ExportFormat]:
    """Returns the formats that training can start from."""
    return [known for known in map(find_format, EXPORT_FORMATS) if known.reads_variables]


def _checkpoint(directory: str) -> str:
    """Returns the path of a run's best good checkpoint, or else of its latest good one."""
    folder = os.path.join(directory, "checkpoints")
    found = [*stored_checkpoints(os.path.join(folder, "best")), *stored_checkpoints(folder)]
    good = next((c for c in found if not c.problem), None)
    if good is None:
        raise UsageError(f"{directory} has no checkpoint yet" if not found else
                         f"every checkpoint of {directory} is damaged: {found[0].problem}")
    return good.path


def _read_h5(path: str, plain: PlainModel | None) -> dict[str, np.ndarray]:
    """Returns the variables of a file of weights that Keras alone wrote."""
    if plain is None:
        raise UsageError(f"{path} does not name its variables: it was not written by mirrorline export; give a .keras "
                         "file instead")
    with contextlib.closing(H5Store(path, mode="r")) as store:
        try:
            return keras_weights.read(store, plain)
        except UsageError as error:
            raise UsageError(f"{path} does not fit: {error}") from error


def _read_checkpoint(path: str) -> dict[str, np.ndarray]:
    stored = next(c for c in stored_checkpoints(os.path.dirname(path)) if c.path == path)
    with literal(path) as opened:
        reader = tf.train.load_checkpoint(opened)
        return {name: reader.get_tensor(f"model/{i}/.ATTRIBUTES/VARIABLE_VALUE")
                for i, (name, *_) in enumerate(stored.specs["model"])}
