"""The tables from which flags choose by name. Standard library only: `--help` lists them."""
import dataclasses
import importlib
from collections.abc import Callable

from pipeline.errors import UsageError
from pipeline.registration import format_location, raise_with_location
from pipeline.registry import Registry, RegistryEntry


@dataclasses.dataclass(frozen=True)
class OptimizerRow:
    """One optimizer.

    Attributes:
      factory: "module:class" of a keras.optimizers.Optimizer.
      options: {argument of the class: option of OptimizerConfig}.
      fused: name in pipeline.internals.keras_internals of its fused update, or None.
      fused_if: option that must not be 0 for the fused update to apply, or None.
    """

    factory: str
    options: dict[str, str] = dataclasses.field(default_factory=dict)
    fused: str | None = None
    fused_if: str | None = None


OPTIMIZERS = Registry("optimizer", {
    "sgd": OptimizerRow("keras.optimizers:SGD", {"momentum": "momentum", "nesterov": "nesterov"},
                        "FusedMomentum", "momentum"),
    "adam": OptimizerRow("keras.optimizers:Adam", fused="FusedAdam"),
    "adamw": OptimizerRow("keras.optimizers:AdamW", fused="FusedAdam"),
    "lamb": OptimizerRow("keras.optimizers:Lamb"),
    "lion": OptimizerRow("keras.optimizers:Lion"),
})

# "module:function" of (logits [B, classes] float, label [B] int32) to a loss for each example [B].
LOSSES = Registry("loss", {"cross_entropy": "pipeline.training.losses:cross_entropy"})
# Functions as those of losses; the result is the mean over all examples of the split, from a float64 sum.
METRICS = Registry("metric", {})
# Of users; the built-in ones are in pipeline.models.registry and pipeline.data.registry.
MODELS, DATASETS = Registry("model", {}), Registry("data set", {})


def example_function(what: str, entry: RegistryEntry) -> Callable:
    """Wraps a user's function of (logits [B, classes], label [B]) to a value for each example [B].

    Its errors, and values of another shape, become one line with the location in the user's file.
    """
    def checked(logits, label):
        with raise_with_location(what, entry.location):
            values = entry.origin(logits, label)
            if getattr(values, "shape", None) is None or values.shape.rank != 1:
                raise UsageError(f"{what} ({format_location(entry.location)}) must return one value an example, shape "
                                 f"[batch]; found shape {getattr(values, 'shape', None)}")
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
