"""A trained model as a Keras file: for keras.saving.load_model, once pipeline is imported."""
import io
import json
import os
import zipfile
from collections.abc import Callable, Iterator
from typing import Any

import keras
import numpy as np

from pipeline.choices import EXPORT_FORMATS
from pipeline.errors import UsageError
from pipeline.export.export_format import ExportFormat
from pipeline.export.signatures import check_single_precision
from pipeline.internals.keras_internals import H5Store, read_member
from pipeline.models.identity import variable_names
from pipeline.models.image_classifier import ImageClassifier

# Imports inside functions: each runtime is loaded in a process that needs no other.

CONFIG, WEIGHTS = "config.json", "model.weights.h5"  # Names in the archive that Keras writes.
PYTHON_CODE = "__lambda__"  # Class of a configuration that holds code.


@EXPORT_FORMATS.built_in("keras", summary="a Keras file, for keras.saving.load_model once pipeline is imported")
class KerasFile(ExportFormat):
    """A Keras file: an ImageClassifier, which takes images in 0..1 and returns probabilities."""

    file = "model.keras"
    runtime = "keras"
    needs_mirrorline = True
    library = "keras"
    usage = """\
It needs Mirrorline, which defines the layers in the file.{{ imports }}

```python
import keras
import numpy as np
import pipeline.models.registry  # The layers of the file, from Mirrorline.

model = keras.saving.load_model("model.keras")
images = np.zeros((1, {{ array }}), np.float32)  # Yours: any number of them, values in 0..1.
probabilities = np.array(model(images))
print([model.class_names[i] for i in probabilities.argmax(axis=1)])
```
"""

    def write(self, trained: Any, path: str, metadata: dict, calibration: np.ndarray | None = None) -> None:
        """See ExportFormat; `metadata` of the loaded model."""
        check_single_precision(trained.model)
        keras.saving.save_model(image_classifier(trained, metadata), path)

    @staticmethod
    def load(path: str, threads: int) -> tuple[Callable, Callable]:
        """See ExportFormat."""
        import keras
        import numpy as np

        import pipeline.models.registry  # noqa: F401 (registers the layers)
        model = keras.saving.load_model(path, compile=False, safe_mode=True)
        model.compile(jit_compile=False)
        return lambda images: np.float32(images) / np.float32(255), model.predict_on_batch

    def read_variables(self, path: str) -> dict[str, np.ndarray]:
        """See ExportFormat; the model of a file that `write` wrote is not created.

        Raises:
          UsageError: as `load_model`.
        """
        config = _config(path)
        _check_config(config, path)
        if config.get("registered_name") != keras.saving.get_registered_name(ImageClassifier):
            model = load_model(path)
            values = (keras.ops.convert_to_numpy(v) for v in model.variables)
            return dict(zip(variable_names(model), values, strict=True))
        with zipfile.ZipFile(path) as archive:
            store = H5Store(io.BytesIO(read_member(archive, WEIGHTS)), mode="r").get("")
            return {name: store[str(number)] for number, (name, *_) in enumerate(config["config"]["variables"])}


def image_classifier(trained: Any, metadata: dict) -> ImageClassifier:
    """Returns the ImageClassifier of a TrainedModel: the same network, with its preprocessing."""
    settings = trained.inference.settings
    return ImageClassifier(
        trained.model, trained.image_shape, settings.image_channels, trained.class_names, settings.image_mean,
        settings.image_std, metadata, input_range=settings.input_range, name="image_classifier", dtype="float32")


def load_model(path: str) -> keras.Model:
    """Loads a Keras file that may come from others: none of it is run as code.

    Raises:
      UsageError: it cannot be read, holds Python code, is of a class that is not imported, or was changed.
    """
    _check_config(_config(path), path)
    try:
        return keras.saving.load_model(path, compile=False, safe_mode=True)
    except TypeError as error:
        if "Could not locate" not in str(error):
            raise UsageError(f"{path} cannot be loaded: {_first_line(error)}") from error
        wanted = str(error).split("'")[1]
        raise UsageError(f"{path} needs {wanted}, which is not registered with Keras: import the module that defines "
                         "it first (--extension=FILE.py on the command line)") from error
    except (ValueError, KeyError, OSError, UsageError) as error:
        raise UsageError(f"{path} cannot be loaded: {_first_line(error)}") from error


def _config(path: str) -> dict:
    """Returns what config.json of a Keras file holds."""
    if not os.path.isfile(path):
        raise UsageError(f"there is no file {path}")
    try:
        with zipfile.ZipFile(path) as archive:
            return json.loads(read_member(archive, CONFIG))
    except (zipfile.BadZipFile, KeyError, ValueError, RecursionError) as error:
        raise UsageError(f"{path} is no Keras file, or is cut short: {_first_line(error)}; give a file that "
                         "model.save(\"NAME.keras\") wrote") from error


def _check_config(config: dict, path: str) -> None:
    """Raises UsageError where a configuration holds Python code."""
    if PYTHON_CODE in _class_names(config):
        raise UsageError(f"{path} is refused: it holds a Lambda layer, that is Python code by the author of the file, "
                         "which would run here; write it as a registered layer in a file of your own, and save again")


def _class_names(config: dict) -> Iterator[str | None]:
    """Yields the class of every object in a configuration."""
    waiting = [config]
    while waiting:
        value = waiting.pop()
        if isinstance(value, dict):
            yield value.get("class_name")
            waiting += value.values()
        elif isinstance(value, list):
            waiting += value


def _first_line(error: Exception) -> str:
    """Returns the first informative line of an error."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
    # Keras begins with the length of its list of what went wrong.
    return lines[1 if len(lines) > 1 and "Example error message" in lines[0] else 0].rstrip(".")
