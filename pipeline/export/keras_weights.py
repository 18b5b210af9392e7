"""Files of weights that Keras alone wrote: .weights.h5 and the legacy .h5, read by Keras's own loader.

Both find variables by the structure of a model and not by their names. So Keras loads the file into the model as Keras
itself makes it, which has to fit in every variable; from there the values are known by name.
"""
import contextlib
import io
from collections.abc import Iterator
from typing import Any

import keras
import numpy as np

from pipeline.errors import UsageError
from pipeline.internals.keras_internals import (
    H5Store,
    built_aside,
    legacy_names,
    legacy_weights,
    load_legacy_state,
    load_state,
    read_dataset,
    read_group,
    save_state,
)
from pipeline.models.identity import variable_names
from pipeline.models.plain import PlainModel
from pipeline.models.weight_names import head, is_float, named
from pipeline.quantities import counted

SHOWN = 2  # Layers that do not fit in a message.
KERAS_2 = "_layer_checkpoint_dependencies"  # In place of "layers" in .weights.h5 of TensorFlow 2.13 to 2.15.


class _Layout:
    """Where a file holds the variables of a model.

    Attributes:
      shapes: {place: shape} of the float variables in the file.
    """

    shapes: dict[Any, tuple[int, ...]]

    def places(self, model: keras.Model) -> dict[Any, keras.Variable]:
        """Returns {place in the file: variable} of the float variables of a model."""
        raise NotImplementedError

    def load(self, model: keras.Model) -> None:
        """Reads all of them; raises ValueError if something does not fit."""
        raise NotImplementedError


class _Places(H5Store):
    """Keras's file of weights, in which nothing is written: it records the place of each variable.

    Attributes:
      found: {path of a data set: variable}.
    """

    def __init__(self) -> None:
        self.found: dict[str, Any] = {}
        self._at = ""
        super().__init__(io.BytesIO(), mode="w")

    def make(self, path: str, metadata: Any = None) -> Any:
        """Begins a group, as Keras asks for it."""
        self._at = path
        return self

    def __setitem__(self, key: str, value: Any) -> None:
        self.found[f"{self._at}/vars/{key}".lstrip("/")] = value


def places_in_file(model: keras.Model) -> dict[str, keras.Variable]:
    """Returns {path of a data set: variable} of a model in a .weights.h5, as Keras saves it."""
    with contextlib.closing(_Places()) as places:
        save_state(model, places)
    return places.found


class _ByPath(_Layout):
    """A .weights.h5 of Keras 3: "layers/dense_1/vars/0". `path`: of the model within that of the file."""

    def __init__(self, store: H5Store, path: str = ""):
        self._store, self._path = store, path
        group = read_group(store.h5_file, path) if path else store.h5_file
        self.shapes = {place.replace(KERAS_2, "layers"): shape for place, shape in _float_shapes(group)
                       if "vars" in place.split("/")}

    def places(self, model: keras.Model) -> dict[Any, keras.Variable]:
        return {place: variable for place, variable in places_in_file(model).items() if is_float(variable)}

    def load(self, model: keras.Model) -> None:
        load_state(model, self._store, self._path)


class _ByOrder(_Layout):
    """A legacy .h5 of weights: groups of layers, in the order of attributes. `group`: that of the model."""

    def __init__(self, group: Any):
        self._group = group
        named_layers = ((name, _arrays(read_group(group, name))) for name in legacy_names(group, "layer_names"))
        self._layers = [(name, arrays) for name, arrays in named_layers if arrays]
        self.shapes = {(i, k): tuple(data.shape) for i, (_, arrays) in enumerate(self._layers)
                       for k, (_, data) in enumerate(arrays) if _holds_floats(data)}

    def places(self, model: keras.Model) -> dict[Any, keras.Variable]:
        layers = [weights for layer in model.layers if (weights := legacy_weights(layer))]
        return {(i, k): variable for i, weights in enumerate(layers) for k, variable in enumerate(weights)
                if is_float(variable)}

    def load(self, model: keras.Model) -> None:
        for (i, k), variable in self.places(model).items():
            layer, arrays = self._layers[i]
            # Frozen parts of a nested layer stand at another place, where another variable may have the same shape.
            there, here = (name.rpartition("/")[2] for name in (arrays[k][0], variable.path))
            if {there, here} <= _KNOWN and there != here:
                raise UsageError(f"its layer {layer} has {there} where {here} is expected: save it with all of its "
                                 "layers trainable, or as a .keras file")
        load_legacy_state(self._group, model)


# What layers of Keras call their variables.
_KNOWN = {"kernel", "bias", "gamma", "beta", "moving_mean", "moving_variance", "depthwise_kernel", "pointwise_kernel"}


class _ByName(_Layout):
    """A model within a legacy .h5 of weights, as transfer learning makes it: one layer there, with names."""

    def __init__(self, group: Any):
        self._arrays = {name: data for name, data in _arrays(group) if _holds_floats(data)}
        self.shapes = {name: tuple(data.shape) for name, data in self._arrays.items()}

    def places(self, model: keras.Model) -> dict[Any, keras.Variable]:
        return dict(named(model))

    def load(self, model: keras.Model) -> None:
        for name, variable in named(model).items():
            variable.assign(np.asarray(self._arrays[name]))


def read(store: H5Store, plain: PlainModel) -> dict[str, np.ndarray]:
    """Reads a file of weights that Keras wrote for a model.

    Args:
      store: the opened file.
      plain: the model of the run.

    Returns:
      {name: numpy array} of float variables; without those of the top where the file has none.

    Raises:
      UsageError: the file is of another model; tells what does not fit.
      ValueError, KeyError, OSError: it is damaged.
    """
    file = store.h5_file
    if "model_weights" in file and "layer_names" not in file.attrs:
        file = read_group(file, "model_weights")
    if (file.attrs.get("backend") or b"") in (b"theano", "theano"):
        raise UsageError("its kernels are in the order of Theano: convert it with Keras 1 or 2 first")
    problem = ""
    with built_aside():
        whole = plain.make(plain.num_classes, plain.image_shape)
        # All of keras.applications list their layers in order.
        last = [layer for layer in whole.layers if layer.weights][-1] if plain.architecture else head(
            whole, plain.image_shape)
        classifier = [v for v in last.variables if is_float(v)]
        for layout in _layouts(store, file):
            for model in _candidates(layout, plain, whole, classifier):
                found = _difference(layout, model)
                if not found:
                    layout.load(model)
                    return {name: keras.ops.convert_to_numpy(v) for name, v in named(model).items()}
                problem = problem or found
    raise UsageError(f"it is not of model {plain.name}: {problem}; give the --model and --model_options it was made "
                     "with")


def _layouts(store: H5Store, file: Any) -> Iterator[_Layout]:
    """Yields the models that a file may hold: its own, and those that are layers of it."""
    if "layer_names" in file.attrs or "layer_names0" in file.attrs:
        yield _ByOrder(file)
        for name in legacy_names(file, "layer_names"):
            group = read_group(file, name)
            if len({path.rpartition("/")[0] for path in legacy_names(group, "weight_names")}) > 1:
                yield _ByName(group)
        return
    yield _ByPath(store)
    for name in read_group(file, "layers") if "layers" in file else ():
        if "layers" in read_group(file, f"layers/{name}"):
            yield _ByPath(store, f"layers/{name}")


def _candidates(layout: _Layout, plain: PlainModel, whole: keras.Model, classifier: list) -> Iterator[keras.Model]:
    """Yields the models that a layout may be of: with a top for as many classes as there are in it, or without."""
    places = layout.places(whole)
    if plain.architecture and not places.keys() <= layout.shapes.keys():
        yield plain.make(plain.num_classes, plain.image_shape, top=False)
        return
    of_head = {id(v) for v in classifier}
    shapes = [layout.shapes[place] for place, v in places.items() if id(v) in of_head and place in layout.shapes]
    classes = shapes[0][-1] if shapes and shapes[0] else plain.num_classes
    if classes == plain.num_classes:
        yield whole
    for shape in plain.shapes():
        if (classes, shape) != (plain.num_classes, plain.image_shape):
            yield plain.make(classes, shape)


def _difference(layout: _Layout, model: keras.Model) -> str:
    """Returns what of a model does not fit a layout, or nothing."""
    places = layout.places(model)
    kinds = {place.partition("/")[0] for place in places if isinstance(place, str)}
    # Besides the layers, a file may hold an optimizer and metrics.
    there = {place: shape for place, shape in layout.shapes.items()
             if not isinstance(place, str) or place.partition("/")[0] in kinds or isinstance(layout, _ByName)}
    names = dict(zip(map(id, model.variables), variable_names(model), strict=True))
    wrong = [f"{names.get(id(v), v.path)} is expected to be {tuple(v.shape)}, found {there.get(place, 'none')}"
             for place, v in places.items() if there.get(place) != tuple(v.shape)]
    if len(places) != len(there):
        wrong.insert(0, f"{counted(len(places), 'variable is', 'variables are')} expected, found {len(there)}")
    return "; ".join(wrong[:SHOWN])


def _float_shapes(group: Any) -> list[tuple[str, tuple[int, ...]]]:
    """Returns [(path, shape)] of the data sets of float values in a group, at any depth; links are not followed."""
    found: list[tuple[str, tuple[int, ...]]] = []

    def visit(path, item):
        if hasattr(item, "shape") and _holds_floats(item):
            found.append((path, tuple(item.shape)))

    group.visititems(visit)
    return found


def _holds_floats(data: Any) -> bool:
    """Tells whether a data set holds floats; bfloat16 has no type of its own in HDF5."""
    return data.dtype.kind == "f" or data.attrs.get("dtype") == "bfloat16"


def _arrays(group: Any) -> list[tuple[str, Any]]:
    """Returns [(name, data set)] of a layer in a legacy file; ":0" is TensorFlow's, not the variable's."""
    return [(name.removesuffix(":0"), read_dataset(group, name)) for name in legacy_names(group, "weight_names")]
