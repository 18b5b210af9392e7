"""Matching the variables of a file with those of a model: by path and shape, and never a part of a layer."""
import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from pipeline.errors import UsageError
from pipeline.models.identity import without_layer_numbers
from pipeline.models.weight_names import is_float, layer_of
from pipeline.quantities import counted, listed

SHOWN = 3  # Mismatches listed in a message.


@dataclasses.dataclass(frozen=True)
class Match:
    """The weights that a model takes from a file.

    Attributes:
      loaded: {name: array}.
      fresh: names of the model's variables that keep their initial values: those of the head, or none.
      unused: paths in the file without a variable in the model.
    """

    loaded: dict[str, np.ndarray]
    fresh: tuple[str, ...]
    unused: tuple[str, ...]


def match(wanted: Mapping[str, Sequence[int]], head: set[str], found: Mapping[str, Any], source: str) -> Match:
    """Matches the variables of a file with those of a model.

    Args:
      wanted: {name: shape} of the model's float variables, in order.
      head: names of the variables of its last layer; if one does not fit, all of them keep their initial values.
      found: {path: array} of the file; the paths may begin with the name of a model.
      source: the file in messages.

    Raises:
      UsageError: variables other than the head's are missing or of another shape, none fits, or a value is not finite.
    """
    found = _called_alike(found, wanted)
    fits = {name for name, shape in wanted.items() if name in found and tuple(found[name].shape) == tuple(shape)}
    if not fits - head and not head <= fits:
        raise UsageError(f"{source} is of another model: it holds {listed(found, SHOWN)}, this one "
                         f"{listed(wanted, SHOWN)}; give the --model and --model_options it was made with")
    wrong = [name for name in wanted if name not in fits and name not in head]
    if wrong:
        raise UsageError(_mismatch(wrong, wanted, found, source))
    fresh = () if head <= fits else tuple(name for name in wanted if name in head)
    loaded = {name: found[name] for name in wanted if name not in fresh}
    for name, value in loaded.items():
        if not np.isfinite(value).all():
            raise UsageError(f"{source}: {name} is not finite; the training that it comes from had diverged")
    return Match(loaded, fresh, tuple(path for path in found if path not in wanted))


def _called_alike(found, wanted):
    """Returns the float arrays of {path: array} under the names in the model, where it has them.

    A name of a model in front is removed. Keras numbers unnamed layers, counting through a process: where only those
    numbers differ, variables are matched by order.
    """
    found = {path: value for path, value in found.items() if is_float(value)}
    shorter = {path.partition("/")[2]: value for path, value in found.items()}
    if len(shorter) < len(found) or "" in shorter:
        shorter = found
    known = max(shorter, found, key=lambda candidate: len(candidate.keys() & wanted.keys()))
    for candidate in (shorter, found) if known.keys() != wanted.keys() else ():
        if without_layer_numbers(candidate) == without_layer_numbers(wanted):
            return dict(zip(wanted, candidate.values(), strict=True))
    return known


def _mismatch(wrong, wanted, found, source):
    """Returns the message about variables that do not fit: layer, expected and found shape."""
    parts = []
    for name in wrong[:SHOWN]:
        there = tuple(found[name].shape) if name in found else "none"
        parts.append(f"layer {layer_of(name)} expects {name.rpartition('/')[2]} of shape {tuple(wanted[name])}, found "
                     f"{there}")
    more = f" (and {len(wrong) - SHOWN} more)" if len(wrong) > SHOWN else ""
    remedy = _channels(wrong[0], wanted, found) or ("give the --model, --model_options and --image_size it was made "
                                                    "with; only the last layer may differ")
    return f"{source} does not fit: {'; '.join(parts)}{more}; {remedy}"


def _channels(name, wanted, found):
    """Returns the remedy if the first layer was made for images with other channels, else None."""
    first = next((n for n in wanted if len(wanted[n]) == 4), None)
    if name != first or name not in found or len(found[name].shape) != 4:
        return None
    here, there = wanted[name], found[name].shape
    if here[2] == there[2] or (*here[:2], here[3]) != (*there[:2], there[3]):
        return None
    return (f"it was trained on images of {counted(there[2], 'channel')}, those here have {here[2]}: give a "
            "data set like that")
