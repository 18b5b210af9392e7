"""Files of weights that Keras alone wrote: .weights.h5 and the legacy .h5, read by Keras's own loader.

Both find variables by the structure of a model and not by their names. So Keras loads the file into the model as Keras
itself makes it, which has to fit in every variable; from there the values are known by name.
"""
import contextlib
import io
import warnings
from collections.abc import Collection, Iterator, Mapping
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
from pipeline.models.plain import PlainModel
from pipeline.models.weight_names import is_float, named, top
from pipeline.quantities import counted

SHOWN = 2  # Variables that do not fit in a message.
BESIDE = ("optimizer", "metrics", "_metrics", "_compile_metrics", "_compile_loss")
# What layers of Keras call their variables.
OF_KERAS = {"kernel", "bias", "gamma", "beta", "moving_mean", "moving_variance", "depthwise_kernel", "pointwise_kernel"}
KERAS_2 = "_layer_checkpoint_dependencies"  # In place of "layers" in .weights.h5 of TensorFlow 2.13 to 2.15.


class _Layout:
    """Where a file holds the variables of a model.

    Attributes:
      data: {place: data set} of the float variables in the file.
    """

    data: dict[Any, Any]

    def places(self, model: keras.Model) -> dict[Any, keras.Variable]:
        """Returns {place in the file: variable} of the float variables of a model."""
        raise NotImplementedError

    def load(self, model: keras.Model, skipped: Collection[str]) -> None:
        """Reads all of them into a model but those of layers with the `skipped` paths of variables.

        Raises:
          ValueError: something does not fit.
        """
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
        self._store, self._path, self.data = store, path, {}
        # A visit follows no links.
        (read_group(store.h5_file, path) if path else store.h5_file).visititems(self._add)

    def _add(self, path: str, item: Any) -> None:
        # Besides the layers, a file may hold an optimizer and metrics.
        if "vars" in path.split("/") and path.partition("/")[0] not in BESIDE and _holds_floats(item):
            self.data[path.replace(KERAS_2, "layers")] = item

    def places(self, model: keras.Model) -> dict[Any, keras.Variable]:
        return {place: variable for place, variable in places_in_file(model).items() if is_float(variable)}

    def load(self, model: keras.Model, skipped: Collection[str]) -> None:
        load_state(model, self._store, self._path, skipped)


class _ByOrder(_Layout):
    """A legacy .h5 of weights: groups of layers, in the order of attributes. `group`: that of the model."""

    def __init__(self, group: Any):
        self._group = group
        named_layers = ((name, _arrays(read_group(group, name))) for name in legacy_names(group, "layer_names"))
        self._layers = [(name, arrays) for name, arrays in named_layers if arrays]
        self.data = {(i, k): data for i, (_, arrays) in enumerate(self._layers)
                     for k, (_, data) in enumerate(arrays) if _holds_floats(data)}

    def places(self, model: keras.Model) -> dict[Any, keras.Variable]:
        layers = [weights for layer in model.layers if (weights := legacy_weights(layer))]
        return {(i, k): variable for i, weights in enumerate(layers) for k, variable in enumerate(weights)
                if is_float(variable)}

    def load(self, model: keras.Model, skipped: Collection[str]) -> None:
        for (i, k), variable in self.places(model).items():
            layer, arrays = self._layers[i]
            # Frozen parts of a nested layer stand at another place, where another variable may have the same shape.
            there, here = (name.rpartition("/")[2] for name in (arrays[k][0], variable.path))
            if {there, here} <= OF_KERAS and there != here:
                raise UsageError(f"its layer {layer} has {there} where {here} is expected: save it with all of its "
                                 "layers trainable, or as a .keras file")
        with warnings.catch_warnings():  # About what is skipped.
            warnings.simplefilter("ignore")
            load_legacy_state(self._group, model, skip_mismatch=bool(skipped))


class _ByName(_Layout):
    """A model within a legacy .h5 of weights, as transfer learning makes it: one layer there, with names."""

    def __init__(self, group: Any):
        self.data = {name: data for name, data in _arrays(group) if _holds_floats(data)}

    def places(self, model: keras.Model) -> dict[Any, keras.Variable]:
        return dict(named(model))

    def load(self, model: keras.Model, skipped: Collection[str]) -> None:
        for name, variable in named(model).items():
            if variable.path not in skipped:
                variable.assign(np.asarray(self.data[name]))


def read(store: H5Store, plain: PlainModel) -> dict[str, np.ndarray]:
    """Reads a file of weights that Keras wrote for a model.

    Args:
      store: the opened file.
      plain: the model of the run.

    Returns:
      {name: numpy array} of float variables; without those of the top where the file has none, in the shape of the file
      where that of the top is another.

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
        whole = plain.make()
        for layout in _layouts(store, file):
            without = plain.architecture and not layout.places(whole).keys() <= layout.data.keys()
            model = plain.make(top=False) if without else whole
            places = layout.places(model)
            differ = {place: v for place, v in places.items() if _shape(layout, place) != tuple(v.shape)}
            other = {v.path: layout.data.get(place) for place, v in differ.items()}
            above = _top(whole, plain) if differ and not without else set()
            if places.keys() == layout.data.keys() and other.keys() <= above:
                layout.load(model, other)
                return {name: np.asarray(other[v.path]) if v.path in other else keras.ops.convert_to_numpy(v)
                        for name, v in named(model).items()}
            problem = problem or _described(layout, places, differ)
    raise UsageError(f"it is not of model {plain.name}: {problem}; give the --model and --model_options it was made "
                     "with")


def _top(model: keras.Model, plain: PlainModel) -> set[str]:
    """Returns the paths of the variables above the backbone, whose shapes depend on classes and sizes of images."""
    return {v.path for layer in top(model, plain.image_shape) for v in layer.variables}


def _shape(layout: _Layout, place: Any) -> tuple[int, ...] | None:
    """Returns the shape of a variable in the file, None where it is missing."""
    return tuple(layout.data[place].shape) if place in layout.data else None


def _described(layout: _Layout, places: Mapping[Any, keras.Variable], differ: Mapping[Any, keras.Variable]) -> str:
    """Returns what of a model does not fit a layout."""
    found = [f"{v.path} is expected to be {tuple(v.shape)}, found {_shape(layout, place) or 'none'}"
             for place, v in differ.items()]
    if len(places) != len(layout.data):
        found.insert(0, f"{counted(len(places), 'variable is', 'variables are')} expected, found {len(layout.data)}")
    return "; ".join(found[:SHOWN])


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


def _holds_floats(data: Any) -> bool:
    """Tells whether something is a data set of floats; bfloat16 has no type of its own in HDF5."""
    return hasattr(data, "dtype") and (data.dtype.kind == "f" or data.attrs.get("dtype") == "bfloat16")


def _arrays(group: Any) -> list[tuple[str, Any]]:
    """Returns [(name, data set)] of a layer in a legacy file; ":0" is TensorFlow's, not the variable's."""
    return [(name.removesuffix(":0"), read_dataset(group, name)) for name in legacy_names(group, "weight_names")]
