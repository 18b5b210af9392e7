"""Starting a run from weights that were trained before (--initialize_from)."""
import dataclasses

import numpy as np

from pipeline.errors import UsageError
from pipeline.models.weight_matching import match
from pipeline.models.weight_names import head, named, names_in
from pipeline.quantities import counted

# Moving statistics that are taken over have had updates enough: they need no correction for where they began.
EARLIER_UPDATES = 2**40
SHOWN = 6  # Names that a line lists; config.json has all.


@dataclasses.dataclass(frozen=True)
class Initialization:
    """What a run took over when it began; config.json keeps it.

    Attributes:
      path: as the user gave it.
      file: the file, folder or checkpoint that it led to.
      form: see sources.Source.
      sha256: of that file.
      loaded: how many variables were taken over.
      fresh: names of those that were not: the last layer's, or none.
      unused: variables of the file that the model does not have.
    """

    path: str
    file: str
    form: str
    sha256: str
    loaded: int
    fresh: tuple
    unused: tuple

    @classmethod
    def stored(cls, stored):
        """Returns that of an existing run by what its config.json holds, or None."""
        found = (stored or {}).get("initialization")
        return found and cls(**{**found, "fresh": tuple(found["fresh"]), "unused": tuple(found["unused"])})

    def lines(self):
        """Returns it in words, list of str."""
        kept = [("fresh", self.fresh), ("not in this model", self.unused)]
        return [f"weights {self.loaded} of {counted(self.loaded + len(self.fresh), 'variable')} from {self.file}",
                *(f"        {what}: {_listed(names)}" for what, names in kept if names)]


def initialize(model, path, image_shape, find, before=None):
    """Gives a model the weights of a file.

    Variables are matched by path and shape. The last layer with weights may be of another shape, since it belongs to
    the classes: it keeps the values it was made with, all of it. Integers (seeds) stay those of the run.

    Args:
      model: built keras.Model over images, freshly made.
      path: of the file; None: nothing is done.
      image_shape: (height, width, channels) of its images.
      find: function from a path to what can be read there, see pipeline.export.weight_sources.find.
      before: Initialization of the same run, where it was started before.

    Returns:
      An Initialization, or None.

    Raises:
      UsageError: there is no such file, it cannot be read, it is of another model, or it is no longer the one that the
        run was started from.
    """
    if path is None:
        return None
    try:
        return _initialize(model, path, image_shape, find, before)
    except UsageError as error:
        raise UsageError(f"--initialize_from: {error}") from error


def _listed(names):
    return ", ".join(names[:SHOWN]) + (f" and {len(names) - SHOWN} more" if len(names) > SHOWN else "")


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
