"""The tables from which flags choose by name. Standard library only: `--help` lists them."""
import dataclasses
from collections.abc import Callable

from pipeline.architectures import ARCHITECTURES, ModelRow
from pipeline.errors import UsageError
from pipeline.registration import format_location, raise_with_location
from pipeline.registry import Registry, RegistryEntry, declared


@dataclasses.dataclass(frozen=True)
class OptimizerRow:
    """One optimizer.

    Attributes:
      factory: "module:class" of a keras.optimizers.Optimizer.
      options: {option of OptimizerConfig: (argument of the class, its default)}.
      fused: name in pipeline.internals.keras_internals of its fused update, or None.
      fused_if: option that must not be 0 for the fused update to apply, or None.
      leaves_out_head: whether it updates the weights of the last layer otherwise, see update_rules.Muon.
      averages: whether it keeps an average of the weights, which is evaluated, see update_rules.ScheduleFreeAdamW.
      linear: whether its learning rate goes with the batch size; else with the square root of it.
    """

    factory: str
    options: dict[str, tuple[str, float]] = dataclasses.field(default_factory=dict)
    fused: str | None = None
    fused_if: str | None = None
    leaves_out_head: bool = False
    averages: bool = False
    linear: bool = False


def _adam(first, second, epsilon=None):
    """Returns the options of an optimizer with the two decays of Adam."""
    return {"beta1": ("beta_1", first), "beta2": ("beta_2", second),
            **({} if epsilon is None else {"epsilon": ("epsilon", epsilon)})}


OPTIMIZERS = Registry("optimizer", {
    "sgd": OptimizerRow("keras.optimizers:SGD", {"momentum": ("momentum", 0.9), "nesterov": ("nesterov", False)},
                        "FusedMomentum", "momentum", linear=True),
    "adam": OptimizerRow("keras.optimizers:Adam", _adam(0.9, 0.999, 1e-7), "FusedAdam"),
    "adamw": OptimizerRow("keras.optimizers:AdamW", _adam(0.9, 0.999, 1e-7), "FusedAdam"),
    "lamb": OptimizerRow("pipeline.training.update_rules:Lamb", _adam(0.9, 0.999, 1e-7)),
    "lion": OptimizerRow("keras.optimizers:Lion", _adam(0.9, 0.99)),
    "rmsprop": OptimizerRow("pipeline.training.update_rules:RMSprop", {
        "beta2": ("rho", 0.9), "epsilon": ("epsilon", 1e-3), "momentum": ("momentum", 0.9)}),
    "lars": OptimizerRow("pipeline.training.update_rules:Lars", {"momentum": ("momentum", 0.9)}, linear=True),
    "adafactor": OptimizerRow("pipeline.training.update_rules:Adafactor", {"epsilon": ("epsilon", 1e-30)}),
    "muon": OptimizerRow("pipeline.training.update_rules:Muon", {
        **_adam(0.9, 0.999, 1e-7), "momentum": ("momentum", 0.95)}, leaves_out_head=True),
    "schedule_free": OptimizerRow("pipeline.training.update_rules:ScheduleFreeAdamW", _adam(0.9, 0.999, 1e-8),
                                  averages=True),
})


def defaults_of(option: str) -> str:
    """Returns the optimizers that take an option, with their defaults, as text: "0.9 (adam, adamw), 0.99 (lion)"."""
    found: dict[float, list[str]] = {}
    for name, row in OPTIMIZERS.items():
        if isinstance(row, OptimizerRow) and option in row.options:
            found.setdefault(row.options[option][1], []).append(name)
    return ", ".join(f"{value:g} ({', '.join(names)})" for value, names in found.items())


@dataclasses.dataclass(frozen=True)
class ExportFormatRow:
    """One export format. Attributes: summary: one line for the help."""

    summary: str


EXPORT_FORMATS = Registry("export format", declared("export/formats", "EXPORT_FORMATS", ExportFormatRow))

@dataclasses.dataclass(frozen=True)
class LossRow:
    """One loss.

    Attributes:
      function: "module:function" of (logits [B, classes] float, target) to a loss for each example [B].
      soft: whether target is [B, classes], each row a distribution over classes (soft labels); else label, int32 [B].
      argument: what NUMBER is in --loss=NAME:NUMBER, an argument of the function; "" for none.
      default: the number where none is given.
      high: the largest number; the smallest is 0.
    """

    function: str
    soft: bool = False
    argument: str = ""
    default: float = 0.0
    high: float = 0.0


def _shown_loss(name, row):
    """Returns how --help lists a loss."""
    return f"{name}[:{row.argument}]" if isinstance(row, LossRow) and row.argument else name


LOSSES = Registry("loss", {
    "cross_entropy": LossRow("pipeline.training.losses:cross_entropy"),
    "binary_cross_entropy": LossRow("pipeline.training.losses:binary_cross_entropy", True, "threshold", 0.0, 0.99),
    "focal": LossRow("pipeline.training.losses:focal", True, "gamma", 2.0, 10.0),
}, _shown_loss)
# Functions as those of losses; the result is the mean over all examples of the split, from a float64 sum.
METRICS = Registry("metric", {})


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


MODELS = Registry("model", {
    **declared("models", "MODELS", ModelRow),
    **{name: RegistryEntry(f"pipeline.models.applications:{name}", None, row) for name, row in ARCHITECTURES.items()}})
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


def parse_loss(text: str) -> tuple[LossRow | RegistryEntry, dict[str, float]]:
    """Reads --loss=NAME or NAME:NUMBER.

    Returns:
      (row of the loss, {argument: number}, empty for a loss without one).

    Raises:
      UsageError: an unknown name, a number out of range, or a number for a loss without one.
    """
    name, colon, number = text.partition(":")
    row = LOSSES.find(name, "--loss")
    if not isinstance(row, LossRow) or not row.argument:
        if colon:
            raise UsageError(f"--loss={text}: the loss {name} takes no number; found '{number}'")
        return row, {}
    try:
        value = float(number) if colon else row.default
    except ValueError:
        value = -1.0
    if not 0 <= value <= row.high:
        raise UsageError(f"--loss={text}: the {row.argument} of {name} is a number from 0 to {row.high:g} (default "
                         f"{row.default:g}); found '{number}'")
    return row, {row.argument: value}
