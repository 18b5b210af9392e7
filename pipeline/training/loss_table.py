"""The table of losses. Standard library only: the command line lists it."""
import importlib
from collections.abc import Callable

from pipeline.errors import UsageError
from pipeline.registration import at, blame
from pipeline.registry import Registry, RegistryEntry

# Each "module:function" of (logits [B, classes] float, label [B] int32) to a loss for each example [B].
LOSSES = Registry("loss", {"cross_entropy": "pipeline.training.losses:cross_entropy"})


def example_function(what: str, entry: RegistryEntry) -> Callable:
    """Returns a user's function of (logits [B, classes], label [B]) to a value an example [B], with its shape checked.

    What it raises, or a value of another shape, is one line with its place in the user's file.
    """
    def checked(logits, label):
        with blame(what, entry.place):
            values = entry.origin(logits, label)
            if getattr(values, "shape", None) is None or values.shape.rank != 1:
                raise UsageError(f"{what} ({at(entry.place)}) must return one value an example, shape [batch]; found "
                                 f"shape {getattr(values, 'shape', None)}")
            return values

    return checked


def loss_function(name: str) -> Callable:
    """Returns the function of a loss: (logits [B, classes] float, label [B] int32) to [B], of the dtype of the logits.

    Raises:
      UsageError: an unknown name.
    """
    row = LOSSES.find(name)
    if isinstance(row, RegistryEntry):
        return example_function(f"loss {name}", row)
    module, function = row.split(":")
    return getattr(importlib.import_module(module), function)
