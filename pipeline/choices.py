"""The tables from which flags choose by name. Standard library only: `--help` lists them."""
import dataclasses
import importlib
from collections.abc import Callable

from pipeline.errors import UsageError
from pipeline.registration import format_location, raise_with_location
from pipeline.registry import Registry, RegistryEntry, declared


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

@dataclasses.dataclass(frozen=True)
class ExportFormatRow:
    """One export format. Attributes: summary: one line for the help."""

    summary: str


EXPORT_FORMATS = Registry("export format", declared("export/formats", "EXPORT_FORMATS", ExportFormatRow))

# "module:function" of (logits [B, classes] float, label [B] int32) to a loss for each example [B].
LOSSES = Registry("loss", {"cross_entropy": "pipeline.training.losses:cross_entropy"})
# Functions as those of losses; the result is the mean over all examples of the split, from a float64 sum.
METRICS = Registry("metric", {})


@dataclasses.dataclass(frozen=True)
class ModelRow:
    """One model: a keras.Model subclass, or a function that returns a keras.Model.

    Attributes:
      example_shape: (height, width, channels) for which its parameters are documented and `inspect` shows it.
      wanted_channels: 3 to repeat images of one channel; None to take images as they are.
    """

    example_shape: tuple[int, int, int] = (28, 28, 1)
    wanted_channels: int | None = None


@dataclasses.dataclass(frozen=True)
class DatasetRow:
    """One kind of data set: a function that loads it, see pipeline.data.load.

    Attributes:
      argument: what follows the name and a colon in --dataset: "PATH" for a file or folder, else its form such as
        "HxWxC"; None for a kind without one.
    """

    argument: str | None = None


@dataclasses.dataclass(frozen=True)
class AugmentationRow:
    """One augmentation: a function of (images, seeds, strength), see pipeline.data.augment.

    Attributes:
      unit: what the strength counts.
      low, high: closed range of the strength.
      default: strength where none is given; None: `default_part`.
      default_part: default strength as a part of the height of the images, rounded down to a whole number from 1.
      most_part: largest strength as a part of the smaller side of the images, for a number of pixels.
      whole: whether the strength is a whole number.
      mixes: whether it mixes the images 2i and 2i + 1, and also returns the share of the own image.
    """

    unit: str
    low: float
    high: float
    default: float | None = None
    default_part: float | None = None
    most_part: float | None = None
    whole: bool = False
    mixes: bool = False

    def default_for(self, height: int) -> float:
        """Returns the default strength for images of a height in pixels."""
        return max(1, int(height * (self.default_part or 0))) if self.default is None else self.default

    @property
    def default_text(self) -> str:
        """The default in words."""
        return f"{self.default:g}" if self.default is not None else f"1/{1 / (self.default_part or 1):g} of the height"

    @property
    def range(self) -> str:
        """The range in words."""
        if self.most_part is None:
            return f"{self.low:g} to {self.high:g}"
        return f"{self.low:g} to {'half ' * (self.most_part == 0.5)}the smaller side"

    def accepts(self, value: float) -> bool:
        """Returns whether a strength is within the range, as far as that is known without an image."""
        return self.low <= value <= self.high and (not self.whole or value == int(value))


MODELS = Registry("model", declared("models", "MODELS", ModelRow))
DATASETS = Registry("data set", declared("data/sources", "DATASETS", DatasetRow),
                    lambda name, entry: f"{name}:{entry.row.argument}" if entry.row.argument else name)
AUGMENTATIONS = Registry(
    "augmentation", declared("data/augment", "AUGMENTATIONS", AugmentationRow),
    lambda name, entry: f"{name} ({entry.row.unit}, {entry.row.range}, default {entry.row.default_text})")


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
