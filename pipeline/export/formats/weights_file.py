"""The weights of a trained model alone, as Keras's .weights.h5, for a model that is created again."""
import contextlib
import io
import json
import os
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from pipeline.choices import EXPORT_FORMATS
from pipeline.errors import UsageError
from pipeline.export.export_format import ExportFormat
from pipeline.export.keras_weights import places_in_file
from pipeline.export.signatures import check_single_precision
from pipeline.files import write_bytes
from pipeline.internals.keras_internals import H5Store, read_dataset, save_state
from pipeline.models import registry
from pipeline.models.identity import described_variables, match_variables, variable_names
from pipeline.models.image_classifier import ImageClassifier
from pipeline.models.trainability import freeze_parts, frozen_parts
from pipeline.preprocessing import UNIT

# Imports inside functions: each runtime is loaded in a process that needs no other.

OWN = "_mirrorline"  # A group that Keras does not read.
DESCRIPTION, UNSEEN = f"{OWN}/description", f"{OWN}/unseen"


class RecordingStore(H5Store):
    """Keras's file of weights, which records the place of each variable.

    Attributes:
      places: {id of a variable: path of its data set in the file}.
    """

    def __init__(self, file: io.BytesIO):
        self.places: dict[int, str] = {}
        self._path = ""
        super().__init__(file, mode="w")

    def make(self, path: str, metadata: Any = None) -> Any:
        """Opens a group, as Keras asks for it."""
        self._path = path
        return super().make(path, metadata=metadata)

    def __setitem__(self, key: str, value: Any) -> None:
        self.places[id(value)] = f"{self._path}/vars/{key}".lstrip("/")
        super().__setitem__(key, value)


@EXPORT_FORMATS.built_in("weights", summary="the weights alone, for a model created with the same options")
class WeightsFile(ExportFormat):
    """The weights alone, so that both `load_into` and model.load_weights of Keras read them."""

    file = "model.weights.h5"
    runtime = "keras"
    needs_mirrorline = True
    library = "keras"
    usage = """\
It needs Mirrorline, which creates the model that the weights belong to.{{ imports }}

```python
import numpy as np
from pipeline.export.formats.weights_file import load_model  # Of Mirrorline.

model = load_model("model.weights.h5")
images = np.zeros((1, {{ array }}), np.float32)  # Yours: any number of them, values in 0..1.
probabilities = np.array(model(images))
print([model.class_names[i] for i in probabilities.argmax(axis=1)])
```
"""

    def write(self, trained: Any, path: str, metadata: dict, calibration: np.ndarray | None = None) -> None:
        """See ExportFormat; the metadata is in the file too."""
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
        write_bytes(path, file.getvalue())  # Not by HDF5, whose errors do not tell that a disk is full.

    @staticmethod
    def load(path: str, threads: int) -> tuple[Callable, Callable]:
        """See ExportFormat; reads metadata.json next to the file."""
        import json
        import os

        import numpy as np

        from pipeline.export.formats.weights_file import load_model
        with open(os.path.join(os.path.dirname(path), "metadata.json"), encoding="utf-8") as file:
            model = load_model(path, json.load(file))
        model.compile(jit_compile=False)
        return lambda images: np.float32(images) / np.float32(255), model.predict_on_batch

    def read_variables(self, path: str) -> dict[str, np.ndarray]:
        """See ExportFormat.

        Raises:
          UsageError: it cannot be read, or does not hold the names of its variables.
        """
        with _opened(path) as store:
            described = _description(store, path)
            return {variable[0]: _read(store, place, variable, path)
                    for variable, place in zip(described["variables"], described["places"], strict=True)}


def _save(model: Any, store: RecordingStore) -> list[str]:
    """Writes a model's variables; returns their places in the file, in order.

    Keras finds layers in attributes, lists and dictionaries; variables elsewhere get a group of their own.
    """
    save_state(model, store)
    unseen = [v for v in model.variables if id(v) not in store.places]
    if unseen:
        group = store.make(UNSEEN)
        for number, variable in enumerate(unseen):
            group[str(number)] = variable
    return [store.places[id(v)] for v in model.variables]


def load_model(path: str, metadata: dict | None = None) -> ImageClassifier:
    """Creates the model of a file of weights, with its preprocessing and its frozen variables.

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
    if "frozen" in described:  # Missing in files of the first versions.
        freeze_parts(network, described["frozen"])
    return ImageClassifier(network, metadata["image_shape"], before["channels"], metadata["class_names"],
                           before["mean"], before["deviation"], metadata, input_range=before.get("input_range", UNIT))


def load_into(model: Any, path: str) -> None:
    """Loads the weights of a file into a model: all of them, or none.

    Args:
      model: keras.Model of the same configuration; an unbuilt one is built for the images of the file.
      path: of a file that `write`, or save_weights of Keras, wrote.

    Raises:
      UsageError: the file cannot be read, or does not fit; names the first layer with its expected and found shape.
    """
    with _opened(path) as store:
        described = _description(store, path, required=False)
        if not model.built:
            if described is None:
                raise UsageError(f"model '{model.name}' has no variables yet, and {path} does not have their shapes: "
                                 "call model.build((None, height, width, channels)) first")
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


def names_variables(path: str) -> bool:
    """Tells whether a file of weights was written by `write`, and so names its variables."""
    with _opened(path) as store:
        return DESCRIPTION in store.h5_file


@contextlib.contextmanager
def _opened(path: str) -> Iterator[H5Store]:
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


def _description(store: Any, path: str, required: bool = True) -> Any:
    """Returns the description of the file, or None where Keras alone wrote it and it is not required."""
    if DESCRIPTION in store.h5_file:
        return json.loads(read_dataset(store.h5_file, DESCRIPTION)[()])
    if required:
        raise UsageError(f"{path} does not name its variables: it was not written by mirrorline export; "
                         "give a .keras file instead")
    return None


def _as_keras_has_it(model: Any, store: Any) -> tuple[list[list], list[str]]:
    """Returns ([[name, shape, dtype], ...], places) of the variables of a model that are in a file of Keras."""
    places = {id(variable): place for place, variable in places_in_file(model).items()}
    found = [(name, places[id(variable)]) for name, variable in zip(variable_names(model), model.variables, strict=True)
             if places.get(id(variable), DESCRIPTION) in store.h5_file]
    shapes = [read_dataset(store.h5_file, place) for _, place in found]
    return ([[name, list(data.shape), str(data.dtype)] for (name, _), data in zip(found, shapes, strict=True)],
            [place for _, place in found])


def _read(store: Any, place: str, described: Any, path: str) -> np.ndarray:
    """Returns the value of a variable as a numpy array."""
    group, key = ("/" + place).rsplit("/vars/", 1)
    try:
        value = np.asarray(store.get(group.lstrip("/"))[key])
    except (KeyError, ValueError, OSError) as error:
        raise UsageError(f"{path} is damaged: variable {described[0]} cannot be read") from error
    if list(value.shape) != list(described[1]):
        raise UsageError(f"{path} is damaged: variable {described[0]} is {value.shape}, not {tuple(described[1])}")
    return value
