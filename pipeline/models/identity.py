"""Names of a model's variables, matching those of two models, and the SHA-256 of the weights."""
import hashlib
import re
from collections.abc import Iterable, Sequence
from typing import Any

import keras
import numpy as np

from pipeline.quantities import counted, listed


def variable_names(model: keras.Model) -> list[str]:
    """Returns unique names of a model's variables, in their order: their paths.

    Keras gives two variables the same path where two layers of one parent have the same name; the second is then called
    PATH~2.
    """
    names: list[str] = []
    seen: dict[str, int] = {}
    for variable in model.variables:
        seen[variable.path] = seen.get(variable.path, 0) + 1
        names.append(variable.path if seen[variable.path] == 1 else f"{variable.path}~{seen[variable.path]}")
    return names


def described_variables(model: keras.Model) -> list[list[Any]]:
    """Returns [[name, shape, dtype], ...] of a model's variables, in their order: str, list of int, str."""
    return [[name, list(v.shape), keras.backend.standardize_dtype(v.dtype)]
            for name, v in zip(variable_names(model), model.variables, strict=True)]


def weights_sha256(model: keras.Model) -> str:
    """Returns the SHA-256 of the bytes of all variables, in order: the identity of a trained model."""
    digest = hashlib.sha256()
    for variable in model.variables:
        digest.update(np.ascontiguousarray(keras.ops.convert_to_numpy(variable)).tobytes())
    return digest.hexdigest()


def match_variables(stored: Sequence[Sequence[Any]], wanted: Sequence[Sequence[Any]]) -> list[int]:
    """Finds the stored variable of each variable of a model.

    By name; by order where names differ only in the name of the model, in the numbers that Keras gives to unnamed
    layers, counting through a process, and in the names of the models around a layer, which Keras leaves out of the
    paths where it makes a model inside of a model from its configuration.

    Args:
      stored: [[name, shape, dtype], ...] of a file.
      wanted: the same of a model.

    Returns:
      [index into stored], one for each variable of the model.

    Raises:
      ValueError: one is missing, left over, or has another shape; one line about the first.
    """
    theirs, ours = _within_model(stored), _within_model(wanted)
    if set(theirs) == set(ours):
        found = [theirs.index(name) for name in ours]
    elif _alike_at_the_end(without_layer_numbers(theirs), without_layer_numbers(ours)):
        found = list(range(len(ours)))
    else:
        raise ValueError(_missing_or_left_over(stored, wanted))
    for (name, shape, _), place in zip(wanted, found, strict=True):
        if list(shape) != list(stored[place][1]):
            layer, _, variable = name.rpartition("/")
            raise ValueError(f"layer {layer or name}: {variable} is expected to be {tuple(shape)}, found "
                             f"{tuple(stored[place][1])}")
    return found


def _within_model(variables):
    """Returns the names without a prefix that all of them have: the name of the model."""
    names = [name for name, *_ in variables]
    if len({name.partition("/")[0] for name in names}) == 1:
        names = [name.partition("/")[2] for name in names]
    return names


def without_layer_numbers(names: Iterable[str]) -> list[str]:
    """Returns the names of variables without numbers at the end of names of layers."""
    return [re.sub(r"_\d+(?=/|$)", "", name) for name in names]


def _alike_at_the_end(theirs, ours):
    """Tells whether each pair of names is equal but for layers before the first of one of them."""
    return len(theirs) == len(ours) and all(
        f"/{a}".endswith(f"/{b}") or f"/{b}".endswith(f"/{a}") for a, b in zip(theirs, ours, strict=True))


def _missing_or_left_over(stored, wanted):
    here, there = [{name: tuple(shape) for name, shape, _ in variables} for variables in (wanted, stored)]
    missing, extra = [[name for name in a if name not in b] for a, b in ((here, there), (there, here))]
    parts = [f"{counted(len(here), 'variable is', 'variables are')} expected, found {len(there)}"]
    for what, names, shapes in (("not found", missing, here), ("found, but not expected", extra, there)):
        if names:
            parts.append(f"{what}: {listed((f'{name} {shapes[name]}' for name in names), 1)}")
    return "; ".join(parts)
