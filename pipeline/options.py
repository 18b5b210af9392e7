"""The options of the configuration: their descriptions and checks, and values that have a syntax of their own.

Standard library only.
"""
import dataclasses
import math
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

from pipeline.errors import UsageError, unknown_name
from pipeline.paths import local_path

# May a run be continued with another value? REFUSE: it changes the results, --allow accepts it. NEVER: what is stored
# would not fit.
NEVER, REFUSE, FREE = "never", "refuse", "free"
MOST_PROFILED = 1000  # Steps: a trace is kept in memory until it is written.
FOLDER = "folder:"  # Before the path of a user's images, in --dataset.


def option(default: Any, help: str, *, unit: str = "", low: float | None = None, high: float | None = None,
           above: float | None = None, below: float | None = None, choices: Any = None, added: Any = None,
           resume: str = REFUSE, many: bool = False, path: bool = False) -> Any:
    """Returns a dataclass field that describes an option of the command line.

    Args:
      default: its value if none is given; None means "decided later", as the help explains.
      help: one sentence for --help.
      unit: the unit of a number ("examples", "steps").
      low, high: the closed range of a number.
      above, below: the open range of a number.
      choices: the allowed values: a tuple, or a pipeline.registry.Registry, to which extensions may add.
      added: a Registry of names that extensions have added to those in the help.
      resume: NEVER, REFUSE or FREE, see above.
      many: whether the value is a comma-separated list, kept as a tuple.
      path: whether it is the path of a file or folder, or may be one after `folder:`.
    """
    return dataclasses.field(default=default, metadata=dict(
        help=help, unit=unit, low=low, high=high, above=above, below=below, choices=choices, added=added, resume=resume,
        many=many, path=path))


class Options:
    """Base of the groups of options: converts paths, see pipeline.paths.local_path."""

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):  # type: ignore[arg-type]
            value, flag = getattr(self, field.name), f"--{field.name}"
            if not field.metadata["path"] or value is None:
                continue
            if flag != "--dataset":
                object.__setattr__(self, field.name, local_path(value, flag))
            elif value.startswith(FOLDER):
                object.__setattr__(self, field.name, FOLDER + local_path(value[len(FOLDER):], flag))


def describe_range(metadata: Mapping[str, Any]) -> str:
    """Returns the range of an option as text, "" without bounds."""
    names = metadata["choices"] or metadata["added"]
    if names:
        return " | ".join(names)
    parts = [f"{sign} {metadata[key]:.10g}" for key, sign in (("low", ">="), ("above", ">"), ("high", "<="),
                                                          ("below", "<")) if metadata[key] is not None]
    return " and ".join(parts)


def check_option(field: dataclasses.Field, value: Any) -> None:
    """Raises UsageError for a value outside the range of its option."""
    meta = field.metadata
    if value is None:
        return
    if isinstance(meta["choices"], tuple) and value not in meta["choices"]:
        raise unknown_name(f"--{field.name}", value, meta["choices"])
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        inside = ((meta["low"] is None or value >= meta["low"]) and (meta["high"] is None or value <= meta["high"])
                  and (meta["above"] is None or value > meta["above"])
                  and (meta["below"] is None or value < meta["below"]))
        if not inside or not math.isfinite(value):
            unit = f" {meta['unit']}" if meta["unit"] else ""
            raise UsageError(f"--{field.name} must be {describe_range(meta)}{unit}; found {value:.15g}")


@dataclasses.dataclass(frozen=True)
class Interval:
    """A length or a distance in a run; `unit` is "steps", "epochs" or "seconds"."""

    amount: float
    unit: str

    @classmethod
    def parse(cls, name: str, text: str, units: Sequence[str] = ("steps", "epochs")) -> "Interval":
        """Reads `100`, `1epoch`, `2.5epochs`, `30s`.

        Raises:
          UsageError: another form, or a unit that the option `name` does not accept.
        """
        match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*(steps?|epochs?|s|seconds?|)", str(text).strip())
        unit = {"": "steps", "s": "seconds"}.get(match[2], match[2].rstrip("s") + "s") if match else ""
        if not match or unit not in units or (unit == "steps" and "." in match[1]):
            forms = {"steps": "100 (steps)", "epochs": "1epoch", "seconds": "30s"}
            raise UsageError(f"--{name}: cannot read '{text}'; give {' or '.join(forms[u] for u in units)}")
        return cls(float(match[1]), unit)


@dataclasses.dataclass(frozen=True)
class Strength:
    """The meaning of the number after an augmentation's name.

    Attributes:
      unit: of the number.
      low, high: its closed range.
      default: function from the height of the images to the default.
      default_text: the default as text.
      whole: whether it is a whole number.
      most: for a number of pixels, largest part of the smaller side of the images; None for others.
    """

    unit: str
    low: float
    high: float
    default: Callable[[int], float]
    default_text: str
    whole: bool = False
    most: float | None = None

    @property
    def range(self) -> str:
        """Its range as text."""
        if self.most is None:
            return f"{self.low:g} to {self.high:g}"
        return f"{self.low:g} to {'half ' * (self.most == 0.5)}the smaller side"

    def accepts(self, value: float) -> bool:
        """Tells whether a number is within the range, as far as that is known without an image."""
        return self.low <= value <= self.high and (not self.whole or value == int(value))


PIXELS: dict[str, Any] = dict(low=1, high=2**15, whole=True)
AUGMENTATIONS = {
    "flip": Strength("probability", 0.001, 1.0, lambda height: 0.5, "0.5"),
    "crop": Strength("pixels of shift each way", default=lambda height: max(1, height // 8),
                     default_text="1/8 of the height", most=0.5, **PIXELS),
    "rotate": Strength("degrees each way", 0.01, 180.0, lambda height: 15.0, "15"),
    "color": Strength("share of change of brightness, contrast and saturation", 0.001, 1.0, lambda height: 0.4, "0.4"),
    "cutout": Strength("pixels of a square's side", default=lambda height: max(1, height // 2),
                       default_text="1/2 of the height", most=1.0, **PIXELS),
    "mixup": Strength("both parameters of a Beta distribution", 0.01, 100.0, lambda height: 0.2, "0.2"),
    "cutmix": Strength("both parameters of a Beta distribution", 0.01, 100.0, lambda height: 1.0, "1"),
    "randaugment": Strength("magnitude", 0.1, 10.0, lambda height: 9.0, "9"),
}


def describe_augmentations() -> str:
    """Returns every augmentation with unit, range and default of its strength, for --help."""
    return "; ".join(f"{name} ({of.unit}, {of.range}, default {of.default_text})"
                     for name, of in AUGMENTATIONS.items())


@dataclasses.dataclass(frozen=True)
class Augmentation:
    """An augmentation by name with its strength (None: its default)."""

    name: str
    strength: float | None

    @classmethod
    def parse(cls, text: str) -> "Augmentation":
        """Reads `flip` or `crop:3`; raises UsageError with the nearest known name or the range of the strength."""
        name, _, strength = text.partition(":")
        if name not in AUGMENTATIONS:
            raise unknown_name("augmentation", name, AUGMENTATIONS)
        try:
            value = float(strength) if strength else None
        except ValueError:
            value = math.nan
        if value is not None and not 0 < value < 1e6:
            raise _wrong_strength(text)
        return cls(name, value)


def check_strengths(texts: Sequence[str], shape: Sequence[int] | None = None, begun_with: Collection[str] = ()) -> None:
    """Checks the strengths of augmentations.

    Separate from reading them, since a run that began with a strength that is refused now can still be continued.

    Args:
      texts: values of --augment.
      shape: (height, width, ...) of the images, None before it is known.
      begun_with: values of the continued run, which are accepted.

    Raises:
      UsageError: a strength outside its range, or too large for such images.
    """
    for text in texts:
        augmentation = Augmentation.parse(text)
        of, strength = AUGMENTATIONS[augmentation.name], augmentation.strength
        if strength is None or text in begun_with:
            continue
        most = max(1, int(of.most * min(shape[:2]))) if of.most and shape else math.inf
        if not of.accepts(strength) or strength > most:
            raise _wrong_strength(text, f", {most} for images of {shape[0]}x{shape[1]} pixels"
                                  if shape and of.most else "")


def _wrong_strength(text: str, more: str = "") -> UsageError:
    name, _, strength = text.partition(":")
    of = AUGMENTATIONS[name]
    kind = "a whole number" if of.whole else "a number"
    return UsageError(f"--augment={text}: the strength must be {kind} from {of.range}{more} ({of.unit}; default "
                      f"{of.default_text}); found '{strength}'")


def profiled_steps(text: str | None) -> tuple[int, int] | None:
    """Reads --profile=100:120 as (100, 120): the 20 steps after step 100; None for None.

    Raises:
      UsageError: another form, no step, or too many.
    """
    if text is None:
        return None
    match = re.fullmatch(r"([0-9]{1,15}):([0-9]{1,15})", text.strip())
    first, last = (int(match[1]), int(match[2])) if match else (0, 0)
    if not 0 < last - first <= MOST_PROFILED:
        raise UsageError(f"--profile={text}: give from:to, two whole numbers with from < to, at most {MOST_PROFILED} "
                         "apart, e.g. --profile=100:120 for the 20 steps after step 100")
    return first, last


def augmentations(config: Any) -> tuple[Augmentation, ...]:
    """Returns the augmentations of a DataConfig."""
    return tuple(Augmentation.parse(text) for text in config.augment)
