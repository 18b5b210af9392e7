"""Initializing a run with trained weights (--initialize_from)."""
import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, Optional

import keras
import numpy as np

from pipeline.errors import UsageError
from pipeline.models.plain import PlainModel
from pipeline.models.weight_matching import match
from pipeline.models.weight_names import layer_of, named, names_in, top
from pipeline.quantities import counted, listed

# Initialized moving statistics count as fully updated: they need no bias correction.
EARLIER_UPDATES = 2**40
SHOWN = 6  # Names listed in a line; config.json has all.


@dataclasses.dataclass(frozen=True)
class Initialization:
    """The weights that a run was initialized with; part of config.json.

    Attributes:
      path: as given by the user.
      file: the file, folder or checkpoint found there.
      form: see pipeline.export.weight_sources.
      sha256: of that file.
      loaded: number of loaded variables.
      fresh: names of the variables that were not loaded.
      unused: variables of the file that the model does not have.
      reasons: {layer: why its variables are fresh}; nothing in runs begun by earlier versions.
    """

    path: str
    file: str
    form: str
    sha256: str
    loaded: int
    fresh: tuple[str, ...]
    unused: tuple[str, ...]
    reasons: dict[str, str] = dataclasses.field(default_factory=dict)

    @classmethod
    def stored(cls, stored: Mapping[str, Any] | None) -> Optional["Initialization"]:
        """Returns the record in the content of a config.json, or None."""
        found = (stored or {}).get("initialization")
        return found and cls(**{**found, "fresh": tuple(found["fresh"]), "unused": tuple(found["unused"])})

    def lines(self) -> list[str]:
        """Returns it in words."""
        fresh: dict[str, list[str]] = {}
        for name in self.fresh:
            fresh.setdefault(self.reasons.get(layer_of(name), ""), []).append(name)
        return [f"weights {self.loaded} of {counted(self.loaded + len(self.fresh), 'variable')} from {self.file}",
                *(f"        fresh: {listed(names, SHOWN)}{f' ({why})' * bool(why)}" for why, names in fresh.items()),
                *([f"        not in this model: {listed(self.unused, SHOWN)}"] if self.unused else [])]


def initialize(model: keras.Model, path: str | None, plain: PlainModel, find: Callable[[str, PlainModel], Any],
               before: Initialization | None = None) -> Initialization | None:
    """Loads the weights of a file into a model.

    Variables are matched by path and shape. A layer that does not fit, as the last one for other classes, keeps its
    initial values, all of it. Integers (seeds) stay those of the run.

    Args:
      model: built, over images, with its initial values.
      path: of the file; None: do nothing.
      plain: the model as files of Keras are for it.
      find: from a path and `plain` to what can be read there, see pipeline.export.weight_sources.find.
      before: of an earlier start of the same run.

    Raises:
      UsageError: no such file, an unreadable one, one of another model, or one that changed since the run was started.
    """
    if path is None:
        return None
    try:
        return _initialize(model, path, plain, find, before)
    except UsageError as error:
        raise UsageError(f"--initialize_from: {error}") from error


def _initialize(model, path, plain, find, before):
    source = find(path, plain)
    digest = source.sha256()
    if before and before.path == path and before.sha256 != digest:
        raise UsageError(f"{source.path} is no longer what this run was started from (SHA-256 {digest[:12]}, then "
                         f"{before.sha256[:12]}): bring that back, or start another run with another --workdir")
    variables, layers = named(model), top(model, plain.image_shape)
    paths = [layer_of(name) for layer in layers for name in names_in(layer, variables)]
    found = match({name: tuple(v.shape) for name, v in variables.items()}, names_in(layers[-1], variables),
                  source.read(), source.path, paths)
    for name, value in found.loaded.items():
        variables[name].assign(np.asarray(value, variables[name].dtype))
    return Initialization(path, source.path, source.form, digest, len(found.loaded), tuple(found.fresh), found.unused,
                          {layer_of(name): reason for name, reason in found.fresh.items()})
