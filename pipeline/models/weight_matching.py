"""Matching the variables of a file with those of a model: by path and shape, and never a part of a layer."""
import dataclasses
import itertools
import math
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np

from pipeline.errors import UsageError
from pipeline.models.identity import without_layer_numbers
from pipeline.models.weight_names import is_float, layer_of
from pipeline.quantities import counted, listed

SHOWN = 3  # Mismatches listed in a message.
LEAST = 0.5  # Share of the backbone's parameters that a file has to fit.


@dataclasses.dataclass(frozen=True)
class Match:
    """The weights that a model takes from a file.

    Attributes:
      loaded: {name: array}.
      fresh: {name: reason} of the model's variables that keep their initial values.
      unused: paths in the file without a variable in the model.
    """

    loaded: dict[str, np.ndarray]
    fresh: dict[str, str]
    unused: tuple[str, ...]


def match(wanted: Mapping[str, Sequence[int]], head: set[str], found: Mapping[str, Any], source: str,
          top: Sequence[str] = ()) -> Match:
    """Matches the variables of a file with those of a model.

    Args:
      wanted: {name: shape} of the model's float variables, in order.
      head: names of the variables of its last layer.
      found: {path: array} of the file; the paths may begin with the name of a model.
      source: the file in messages.
      top: paths of the layers over features without a place, in order of execution. Those after a fresh one are fresh
        too: they were trained on the outputs of another layer.

    Raises:
      UsageError: less than half of the parameters below the top fit, the images have another number of channels, or a
        value is not finite.
    """
    above = {name for name in wanted if name in head or layer_of(name) in top}
    found = _called_alike(found, wanted, above)
    fits = {name for name, shape in wanted.items() if name in found and tuple(found[name].shape) == tuple(shape)}
    if not fits - head and not head <= fits:
        raise UsageError(f"{source} is of another model: it holds {listed(found, SHOWN)}, this one "
                         f"{listed(wanted, SHOWN)}; give the --model and --model_options it was made with")
    fresh = _fresh(wanted, head, found, fits, top)
    backbone = [n for n in wanted if n not in above] or [n for n in wanted if n not in head]
    total, missing = (sum(math.prod(wanted[n]) for n in names) for names in (backbone, fresh.keys() & set(backbone)))
    wrong = [name for name in wanted if name not in fits and name not in head]
    channels = _channels(wanted, found)
    if channels or total - missing < LEAST * total:
        remedy = (f"give the --model, --model_options and --image_size it was made with: "
                  f"{1 - missing / (total or 1):.0%} of the backbone's parameters fit, at least half have to")
        raise UsageError(_mismatch(wrong, wanted, found, source, channels or remedy))
    loaded = {name: found[name] for name in wanted if name not in fresh}
    for name, value in loaded.items():
        if not np.isfinite(value).all():
            raise UsageError(f"{source}: {name} is not finite; the training that it comes from had diverged")
    return Match(loaded, fresh, tuple(path for path in found if path not in wanted))


def _fresh(wanted: Mapping[str, Sequence[int]], head: Collection[str], found: Mapping[str, Any], fits: Collection[str],
           top: Sequence[str]) -> dict[str, str]:
    """Returns {name: reason} of the variables that do not come from the file, whole layers of them."""
    reasons = {}
    for name, shape in wanted.items():
        if name in fits or layer_of(name) in reasons:
            continue
        there = tuple(found[name].shape) if name in found else None
        if there is None:
            reason = "not in the file"
        elif name in head and len(there) == len(shape) and there[:-1] == tuple(shape[:-1]):
            reason = f"{counted(there[-1], 'class', 'classes')} in the file, {shape[-1]} here"
        else:
            reason = f"{name.rpartition('/')[2]} is {there} in the file, {tuple(shape)} here"
        reasons[layer_of(name)] = reason
    first = next((layer for layer in top if layer in reasons), None)
    for layer in itertools.dropwhile(lambda layer: layer != first, top):
        reasons.setdefault(layer, f"after {first}")
    return {name: reasons[layer_of(name)] for name in wanted if layer_of(name) in reasons}


def _called_alike(found, wanted, above):
    """Returns the float arrays of {path: array} under the names in the model, where it has them.

    A name of a model in front is removed. Keras numbers unnamed layers, counting through a process: where only those
    numbers differ, up to the names `above` the backbone or to the end of the file, variables are matched by order.
    """
    found = {path: value for path, value in found.items() if is_float(value)}
    shorter = {path.partition("/")[2]: value for path, value in found.items()}
    if len(shorter) < len(found) or "" in shorter:
        shorter = found
    known = max(shorter, found, key=lambda candidate: len(candidate.keys() & wanted.keys()))
    names = list(wanted)
    for candidate in (shorter, found) if not wanted.keys() <= known.keys() else ():
        pairs = list(zip(without_layer_numbers(wanted), without_layer_numbers(candidate), strict=False))
        alike = next((i for i, (here, there) in enumerate(pairs) if here != there), len(pairs))
        if alike and (alike == len(candidate) or set(names[alike:]) <= above):
            paths = list(candidate)
            rest = {path: candidate[path] for path in paths[alike:] if path not in names[:alike]}
            return {**{names[i]: candidate[paths[i]] for i in range(alike)}, **rest}
    return known


def _mismatch(wrong, wanted, found, source, remedy):
    """Returns the message about variables that do not fit: layer, expected and found shape."""
    parts = []
    for name in wrong[:SHOWN]:
        there = tuple(found[name].shape) if name in found else "none"
        parts.append(f"layer {layer_of(name)} expects {name.rpartition('/')[2]} of shape {tuple(wanted[name])}, found "
                     f"{there}")
    more = f" (and {len(wrong) - SHOWN} more)" if len(wrong) > SHOWN else ""
    return f"{source} does not fit: {'; '.join(parts)}{more}; {remedy}"


def _channels(wanted, found):
    """Returns the remedy if the first layer was made for images with other channels, else None."""
    name = next((n for n in wanted if len(wanted[n]) == 4), None)
    if name not in found or len(found[name].shape) != 4:
        return None
    here, there = wanted[name], found[name].shape
    if here[2] == there[2] or (*here[:2], here[3]) != (*there[:2], there[3]):
        return None
    return (f"it was trained on images of {counted(there[2], 'channel')}, those here have {here[2]}: give a "
            "data set like that")
