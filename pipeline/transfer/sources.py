"""Files that training can start from, whatever their form: found, read, and identified."""
import dataclasses
import glob
import hashlib
import importlib
import os
import zipfile

import tensorflow as tf

from pipeline.errors import UsageError
from pipeline.export.form import FORMS
from pipeline.files import sha256
from pipeline.paths import literal, local_path
from pipeline.training.stored_checkpoint import stored_checkpoints

SAVED_MODEL = "saved_model.pb"
# Of each form the module whose read_variables(path) returns {path of a variable: numpy array}.
READERS = {"saved_model": "pipeline.export.saved_model", "keras": "pipeline.export.keras_file",
           "weights": "pipeline.export.weights_file"}
KNOWN = "a SavedModel's folder, a .keras or .weights.h5 file, or the directory of a run"


@dataclasses.dataclass(frozen=True)
class Source:
    """Where weights come from.

    Attributes:
      form: "saved_model", "keras", "weights" or "checkpoint".
      path: the file or folder itself; of a checkpoint, its path without suffix.
    """

    form: str
    path: str

    def read(self):
        """Returns {path of a variable: numpy array}.

        Raises:
          UsageError: it cannot be read.
        """
        try:
            if self.form == "checkpoint":
                return _read_checkpoint(self.path)
            return importlib.import_module(READERS[self.form]).read_variables(self.path)
        except (OSError, ValueError, KeyError, TypeError, RuntimeError, zipfile.BadZipFile, tf.errors.OpError) as error:
            reason = (str(error).splitlines() or [type(error).__name__])[0]
            raise UsageError(f"{self.path} cannot be read, it may be damaged: {reason}") from error

    def sha256(self):
        """Returns the SHA-256 of the file, or over those of the files that hold the variables, as hex."""
        stems = {"saved_model": os.path.join(self.path, "variables", "variables"), "checkpoint": self.path}
        if self.form not in stems:
            return sha256(self.path)
        stem = glob.escape(stems[self.form])
        digests = [sha256(path) for path in sorted(glob.glob(f"{stem}.index") + glob.glob(f"{stem}.data-*"))]
        return hashlib.sha256("".join(digests).encode()).hexdigest()


def find(path):
    """Finds out what a path is.

    Args:
      path: a SavedModel's folder, a .keras or .weights.h5 file, a folder of a form's versions as `mirrorline export`
        writes it (the newest is taken) or one of them, or the directory of a run (its best checkpoint is taken, or else
        the newest).

    Returns:
      A Source.

    Raises:
      UsageError: there is nothing, or nothing of these.
    """
    path = local_path(path)
    if os.path.isfile(path):
        forms = {".keras": "keras", ".weights.h5": "weights"}
        form = next((form for suffix, form in forms.items() if path.endswith(suffix)), None)
        if form is None:
            raise UsageError(f"{path} is no model that training can start from; give {KNOWN}")
        return Source(form, path)
    if not os.path.isdir(path):
        raise UsageError(f"{path} does not exist; give {KNOWN}")
    if os.path.isdir(os.path.join(path, "checkpoints")):
        return Source("checkpoint", _checkpoint(path))
    versions = sorted((name for name in os.listdir(path) if name.isdigit()), key=int)
    for folder in (path, *(os.path.join(path, name) for name in versions[-1:])):
        for form in READERS:
            file = FORMS[form].file
            if os.path.isfile(os.path.join(folder, file or SAVED_MODEL)):
                return Source(form, os.path.join(folder, file) if file else folder)
    raise UsageError(f"{path} holds no model that training can start from; give {KNOWN}")


def _checkpoint(directory):
    """Returns the path of a run's best good checkpoint, or else of its newest good one."""
    folder = os.path.join(directory, "checkpoints")
    found = [*stored_checkpoints(os.path.join(folder, "best")), *stored_checkpoints(folder)]
    good = next((c for c in found if not c.problem), None)
    if good is None:
        raise UsageError(f"{directory} has no checkpoint yet" if not found else
                         f"every checkpoint of {directory} is damaged: {found[0].problem}")
    return good.path


def _read_checkpoint(path):
    stored = next(c for c in stored_checkpoints(os.path.dirname(path)) if c.path == path)
    with literal(path) as opened:
        reader = tf.train.load_checkpoint(opened)
        return {name: reader.get_tensor(f"model/{i}/.ATTRIBUTES/VARIABLE_VALUE")
                for i, (name, *_) in enumerate(stored.specs["model"])}
