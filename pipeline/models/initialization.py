"""Initializing a run with trained weights (--initialize_from)."""
import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Optional

import keras
import numpy as np

from pipeline.errors import UsageError
from pipeline.models.weight_matching import match
from pipeline.models.weight_names import head, named, names_in
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
      fresh: names of the variables that were not loaded: those of the last layer, or none.
      unused: variables of the file that the model does not have.
    """

    path: str
    file: str
    form: str
    sha256: str
    loaded: int
    fresh: tuple[str, ...]
    unused: tuple[str, ...]

    @classmethod
    def stored(cls, stored: Mapping[str, Any] | None) -> Optional["Initialization"]:
        """Returns the record in the content of a config.json, or None."""
        found = (stored or {}).get("initialization")
        return found and cls(**{**found, "fresh": tuple(found["fresh"]), "unused": tuple(found["unused"])})

    def lines(self) -> list[str]:
        """Returns it in words."""
        kept = [("fresh", self.fresh), ("not in this model", self.unused)]
        return [f"weights {self.loaded} of {counted(self.loaded + len(self.fresh), 'variable')} from {self.file}",
                *(f"        {what}: {listed(names, SHOWN)}" for what, names in kept if names)]


def initialize(model: keras.Model, path: str | None, image_shape: Sequence[int], find: Callable[[str], Any],
               before: Initialization | None = None) -> Initialization | None:
    """Loads the weights of a file into a model.

    Variables are matched by path and shape. The last layer with weights may have another shape, since it depends on the
    classes: then the whole layer keeps its initial values. Integers (seeds) stay those of the run.

    Args:
      model: built, over images, with its initial values.
      path: of the file; None: do nothing.
      image_shape: (height, width, channels) of its images.
      find: from a path to what can be read there, see pipeline.export.weight_sources.find.
      before: of an earlier start of the same run.

    Raises:
      UsageError: no such file, an unreadable one, one of another model, or one that changed since the run was started.
    """
    if path is None:
        return None
    try:
        return _initialize(model, path, image_shape, find, before)
    except UsageError as error:
        raise UsageError(f"--initialize_from: {error}") from error


def _initialize(model, path, image_shape, find, before):
    source = find(path)
    digest = source.sha256()
    if before and before.path == path and before.sha256 != digest:
        raise UsageError(f"{source.path} is no longer what this run was started from (SHA-256 {digest[:12]}, then "
                         f"{before.sha256[:12]}): bring that back, or start another run with another --workdir")
    variables = named(model)
    found = match({name: tuple(v.shape) for name, v in variables.items()},
                  names_in(head(model, image_shape), variables), source.read(), source.path)
    for name, value in found.loaded.items():
        variables[name].assign(np.asarray(value, variables[name].dtype))
    return Initialization(path, source.path, source.form, digest, len(found.loaded), found.fresh, found.unused)
