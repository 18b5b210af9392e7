"""The weights of a trained model alone, as Keras's .weights.h5: for a model that is made anew."""
import contextlib
import io
import json
import os

import numpy as np

from pipeline.errors import UsageError
from pipeline.export.signatures import check_single_precision
from pipeline.files import write_bytes
from pipeline.internals.keras_internals import H5Store, read_dataset, save_state
from pipeline.models import registry
from pipeline.models.identity import described_variables, match_variables, variable_names
from pipeline.models.image_classifier import ImageClassifier
from pipeline.models.trainability import freeze_parts, frozen_parts

OWN = "_mirrorline"  # A group that Keras does not look into.
DESCRIPTION, UNSEEN = f"{OWN}/description", f"{OWN}/unseen"


class RecordingStore(H5Store):
    """Keras's file of weights, which notes where each variable goes.

    Attributes:
      places: {id of a variable: path of its data set in the file}.
    """

    def __init__(self, file):
        """
        Args:
          file: io.BytesIO to write to.
        """
        self.places, self._path = {}, ""
        super().__init__(file, mode="w")

    def make(self, path, metadata=None):
        """Opens a group, as Keras asks for it."""
        self._path = path
        return super().make(path, metadata=metadata)

    def __setitem__(self, key, value):
        self.places[id(value)] = f"{self._path}/vars/{key}".lstrip("/")
        super().__setitem__(key, value)


def write(trained, path, metadata, calibration=None):
    """Writes the weights so that both `load_into` and model.load_weights of Keras read them.

    Args:
      trained: TrainedModel whose model computes in float32.
      path: of the file, ending in .weights.h5.
      metadata: dict of JSON types; lies in the file too.
      calibration: not used.

    Raises:
      ValueError: the model does not compute in float32.
    """
    model = trained.model
    check_single_precision(model)
    file = io.BytesIO()
    with contextlib.closing(RecordingStore(file)) as store:
        places = _save(model, store)
        height, width, _ = trained.image_shape
        description = {"input_shape": [height, width, trained.inference.settings.image_channels],
                       "variables": described_variables(model), "places": places, "frozen": frozen_parts(model),
                       "metadata": metadata}
        store.h5_file.create_dataset(DESCRIPTION, data=json.dumps(description))
    write_bytes(path, file.getvalue())  # Not by HDF5, whose errors do not say that a disk is full.


def _save(model, store):
    """Writes a model's variables; returns their places in the file, in order.

    Keras looks for layers in attributes, lists and dictionaries; what lies elsewhere goes into a group of its own.
    """
    save_state(model, store)
    unseen = [v for v in model.variables if id(v) not in store.places]
    if unseen:
        group = store.make(UNSEEN)
        for number, variable in enumerate(unseen):
            group[str(number)] = variable
    return [store.places[id(v)] for v in model.variables]


def load(path, metadata=None):
    """Makes the model anew that a file of weights is of, with its preprocessing, and what was frozen frozen.

    Args:
      path: of a file that `write` wrote.
      metadata: what travelled with it, see pipeline.export.metadata; default what the file holds.

    Returns:
      ImageClassifier: images in 0..1 to probabilities.

    Raises:
      UsageError: the file cannot be read, or is not of that model.
    """
    with _opened(path) as store:
        described = _description(store, path)
    metadata = metadata or described["metadata"]
    height, width, _ = metadata["image_shape"]
    before = metadata["preprocessing"]
    network = registry.create(metadata["model"], len(metadata["class_names"]), (height, width, before["channels"]),
                              metadata["model_options"], metadata["batch_norm_momentum"])
    load_into(network, path)
    if "frozen" in described:  # Files of the first versions do not say.
        freeze_parts(network, described["frozen"])
    return ImageClassifier(network, metadata["image_shape"], before["channels"], metadata["class_names"],
                           before["mean"], before["deviation"], metadata)


def load_into(model, path):
    """Puts the weights of a file into a model: all of them, or none.

    Args:
      model: keras.Model of the configuration that the weights are of; one without variables yet is built for the images
        that the file names.
      path: of a file that `write`, or save_weights of Keras, wrote.

    Raises:
      UsageError: the file cannot be read, or does not fit: names the first layer with its expected and found shape.
    """
    with _opened(path) as store:
        described = _description(store, path, required=False)
        if not model.built:
            if described is None:
                raise UsageError(f"model '{model.name}' has no variables yet, and {path} does not say of which images "
                                 "it is: call model.build((None, height, width, channels)) first")
            registry.build(model, described["input_shape"])
        variables, places = (described["variables"], described["places"]) if described else _as_keras_has_it(
            model, store)
        try:
            order = match_variables(variables, described_variables(model))
        except ValueError as error:
            raise UsageError(f"{path} does not fit model '{model.name}': {error}; nothing was loaded") from error
        values = [_read(store, places[place], variables[place], path) for place in order]
    for variable, value in zip(model.variables, values, strict=True):
        variable.assign(value)


def read_variables(path):
    """Reads the variables of a file that `write` wrote.

    Returns:
      {name: numpy array}, in the order of the model's variables; names as in identity.variable_names.

    Raises:
      UsageError: it cannot be read, or does not hold the names of its variables.
    """
    with _opened(path) as store:
        described = _description(store, path)
        return {variable[0]: _read(store, place, variable, path)
                for variable, place in zip(described["variables"], described["places"], strict=True)}


@contextlib.contextmanager
def _opened(path):
    """Opens a file of weights to read it."""
    if not os.path.isfile(path):
        raise UsageError(f"there is no file {path}")
    try:
        store = H5Store(path, mode="r")
    except OSError as error:
        raise UsageError(f"{path} is no file of weights, or is cut short; give one that mirrorline export, or "
                         "model.save_weights(\"NAME.weights.h5\"), wrote") from error
    with contextlib.closing(store):
        yield store


def _description(store, path, required=True):
    """Returns what `write` says of the file, or None where Keras alone wrote it and it is not required."""
    if DESCRIPTION in store.h5_file:
        return json.loads(read_dataset(store.h5_file, DESCRIPTION)[()])
    if required:
        raise UsageError(f"{path} does not say what its variables are called: it was not written by mirrorline export; "
                         "give a .keras file instead")
    return None


def _as_keras_has_it(model, store):
    """Returns ([[name, shape, dtype], ...], places) of those variables of a model that a file of Keras's holds."""
    with contextlib.closing(RecordingStore(io.BytesIO())) as recording:
        places = _save(model, recording)
    found = [(name, place) for name, place in zip(variable_names(model), places, strict=True)
             if place in store.h5_file]
    shapes = [read_dataset(store.h5_file, place) for _, place in found]
    return ([[name, list(data.shape), str(data.dtype)] for (name, _), data in zip(found, shapes, strict=True)],
            [place for _, place in found])


def _read(store, place, described, path):
    """Returns the value of a variable as a numpy array."""
    group, key = ("/" + place).rsplit("/vars/", 1)
    try:
        value = np.asarray(store.get(group.lstrip("/"))[key])
    except (KeyError, ValueError, OSError) as error:
        raise UsageError(f"{path} is damaged: variable {described[0]} cannot be read") from error
    if list(value.shape) != list(described[1]):
        raise UsageError(f"{path} is damaged: variable {described[0]} is {value.shape}, not {tuple(described[1])}")
    return value
