"""A trained model as a Keras file: for keras.saving.load_model, once pipeline is imported."""
import io
import json
import os
import zipfile

import keras

from pipeline.errors import UsageError
from pipeline.export.signatures import check_single_precision
from pipeline.internals.keras_internals import H5Store, read_member
from pipeline.models.identity import variable_names
from pipeline.models.image_classifier import ImageClassifier

CONFIG, WEIGHTS = "config.json", "model.weights.h5"  # Names in the archive that Keras writes.
PYTHON_CODE = "__lambda__"  # Class of a configuration that holds code.


def write(trained, path, metadata, calibration=None):
    """Writes a Keras file: an ImageClassifier, which takes images in 0..1 and returns probabilities.

    Args:
      trained: TrainedModel whose model computes in float32.
      path: of the file, ending in .keras.
      metadata: dict of JSON types; `metadata` of the loaded model.
      calibration: not used.

    Raises:
      ValueError: the model does not compute in float32.
    """
    check_single_precision(trained.model)
    keras.saving.save_model(image_classifier(trained, metadata), path)


def image_classifier(trained, metadata):
    """Returns the ImageClassifier of a TrainedModel: the same network, with its preprocessing."""
    settings = trained.inference.settings
    return ImageClassifier(
        trained.model, trained.image_shape, settings.image_channels, trained.class_names, settings.image_mean,
        settings.image_std, metadata, name="image_classifier", dtype="float32")


def load(path):
    """Loads a Keras file that somebody else may have written: nothing of it is run as code.

    Args:
      path: of the file.

    Returns:
      keras.Model, without an optimizer.

    Raises:
      UsageError: it cannot be read, holds Python code, is of a class that nobody has imported, or was changed.
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


def read_variables(path):
    """Reads the variables of a Keras file; of one that `write` wrote without making its model.

    Args:
      path: of the file.

    Returns:
      {name: numpy array}, in the order of the model's variables; names as in identity.variable_names.

    Raises:
      UsageError: as `load`.
    """
    config = _config(path)
    _check_config(config, path)
    if config.get("registered_name") != keras.saving.get_registered_name(ImageClassifier):
        model = load(path)
        return dict(zip(variable_names(model), (keras.ops.convert_to_numpy(v) for v in model.variables), strict=True))
    with zipfile.ZipFile(path) as archive:
        store = H5Store(io.BytesIO(read_member(archive, WEIGHTS)), mode="r").get("")
        return {name: store[str(number)] for number, (name, *_) in enumerate(config["config"]["variables"])}


def _config(path):
    """Returns what config.json of a Keras file holds."""
    if not os.path.isfile(path):
        raise UsageError(f"there is no file {path}")
    try:
        with zipfile.ZipFile(path) as archive:
            return json.loads(read_member(archive, CONFIG))
    except (zipfile.BadZipFile, KeyError, ValueError, RecursionError) as error:
        raise UsageError(f"{path} is no Keras file, or is cut short: {_first_line(error)}; give a file that "
                         "model.save(\"NAME.keras\") wrote") from error


def _check_config(config, path):
    """Raises UsageError where a configuration holds Python code."""
    if PYTHON_CODE in _class_names(config):
        raise UsageError(f"{path} is refused: it holds a Lambda layer, that is Python code of whoever wrote the file, "
                         "which would run here; write it as a registered layer in a file of your own, and save again")


def _class_names(config):
    """Yields the class of every object in a configuration."""
    waiting = [config]
    while waiting:
        value = waiting.pop()
        if isinstance(value, dict):
            yield value.get("class_name")
            waiting += value.values()
        elif isinstance(value, list):
            waiting += value


def _first_line(error):
    """Returns the first line of an error that says something, as one clause."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
    # Keras begins with the length of its list of what went wrong.
    return lines[1 if len(lines) > 1 and "Example error message" in lines[0] else 0].rstrip(".")
