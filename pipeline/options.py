"""What an option of the configuration is made of: its description, its checks, and the texts with a form of their own.

Standard library only.
"""
import dataclasses
import math
import re
import typing

from pipeline.errors import UsageError, unknown_name
from pipeline.paths import local_path

# May a run go on with another value? REFUSE: it changes the mathematics, --allow accepts it. NEVER: what is stored
# would not fit.
NEVER, REFUSE, FREE = "never", "refuse", "free"
MOST_PROFILED = 1000  # Steps: a trace is kept in memory until it is written.
FOLDER = "folder:"  # Before the path of one's own images, in --dataset.


def option(default, help, *, unit="", low=None, high=None, above=None, below=None, choices=None, added=None,
           resume=REFUSE, many=False, path=False):
    """A dataclass field that knows how it is offered on the command line.

    Args:
      default: its value where nobody gives one; None means "decided later", as the help says.
      help: one sentence for --help.
      unit: the unit of a number ("examples", "steps").
      low, high: the closed range of a number.
      above, below: the open range of a number.
      choices: the values allowed: a tuple, or a pipeline.registry.Registry, to which extensions may add.
      added: a Registry of names that extensions have added to those that the help says.
      resume: NEVER, REFUSE or FREE, see above.
      many: whether the value is a comma-separated list, held as a tuple.
      path: whether it is the path of a file or folder, or may be one after `folder:`.
    """
    return dataclasses.field(default=default, metadata=dict(
        help=help, unit=unit, low=low, high=high, above=above, below=below, choices=choices, added=added, resume=resume,
        many=many, path=path))


class Options:
    """What the groups of options share: paths are local ones, see pipeline.paths.local_path."""

    def __post_init__(self):
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if field.metadata["path"] and value is not None:
                object.__setattr__(self, field.name, _path(f"--{field.name}", value))


def _path(flag, value):
    if flag != "--dataset":
        return local_path(value, flag)
    return FOLDER + local_path(value[len(FOLDER):], "--dataset") if value.startswith(FOLDER) else value


def describe_range(metadata):
    """Returns the range of an option in words, "" where every value goes."""
    names = metadata["choices"] or metadata["added"]
    if names:
        return " | ".join(names)
    parts = [f"{sign} {metadata[key]:.10g}" for key, sign in (("low", ">="), ("above", ">"), ("high", "<="),
                                                          ("below", "<")) if metadata[key] is not None]
    return " and ".join(parts)


def check_option(field, value):
    """Raises UsageError where a value is outside the range of its option."""
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
    """A length or a distance in a run: a number of steps, epochs or seconds."""

    amount: float
    unit: str  # "steps", "epochs" or "seconds"

    @classmethod
    def parse(cls, name, text, units=("steps", "epochs")):
        """Reads `100`, `1epoch`, `2.5epochs`, `30s`.

        Raises:
          UsageError: not of that form, or of a unit that this option does not take.
        """
        match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*(steps?|epochs?|s|seconds?|)", str(text).strip())
        unit = {"": "steps", "s": "seconds"}.get(match[2], match[2].rstrip("s") + "s") if match else None
        whole = match and (unit != "steps" or "." not in match[1])
        if not whole or unit not in units:
            forms = {"steps": "100 (steps)", "epochs": "1epoch", "seconds": "30s"}
            raise UsageError(f"--{name}: cannot read '{text}'; give {' or '.join(forms[u] for u in units)}")
        return cls(float(match[1]), unit)


@dataclasses.dataclass(frozen=True)
class Strength:
    """What the number behind an augmentation's name means.

    Attributes:
      unit: what it counts, in words.
      low, high: the closed range of the number.
      default: function of the height of the images to the number taken where none is given.
      default_text: the same in words.
      whole: whether it is a whole number.
      most: largest part of the smaller side of the images, for a number of pixels; None where it is none.
    """

    unit: str
    low: float
    high: float
    default: typing.Callable
    default_text: str
    whole: bool = False
    most: float | None = None

    @property
    def range(self):
        """Its range in words."""
        if self.most is None:
            return f"{self.low:g} to {self.high:g}"
        return f"{self.low:g} to {'half ' * (self.most == 0.5)}the smaller side"

    def accepts(self, value):
        """Tells whether a number is within the range, as far as that is known without an image."""
        return self.low <= value <= self.high and (not self.whole or value == int(value))


PIXELS: dict[str, typing.Any] = dict(low=1, high=2**15, whole=True)
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


def describe_augmentations():
    """Returns every augmentation with unit, range and default of its strength, for --help."""
    return "; ".join(f"{name} ({of.unit}, {of.range}, default {of.default_text})"
                     for name, of in AUGMENTATIONS.items())


@dataclasses.dataclass(frozen=True)
class Augmentation:
    """One augmentation by name with its strength (None: its own default)."""

    name: str
    strength: float | None

    @classmethod
    def parse(cls, text):
        """Reads `flip` or `crop:3`; raises UsageError naming the nearest known one, or the range of the strength."""
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


def check_strengths(texts, shape=None, begun_with=()):
    """Checks the strengths of augmentations.

    Apart from reading them, since a run that was begun with a strength that is refused now has to be read and to go on.

    Args:
      texts: as --augment has them.
      shape: (height, width, ...) of the images, None before it is known.
      begun_with: those of the run that goes on: these are accepted.

    Raises:
      UsageError: a strength outside its range, or more than such images have pixels for.
    """
    for text in texts:
        augmentation, found = Augmentation.parse(text), ""
        of = AUGMENTATIONS[augmentation.name]
        if augmentation.strength is None or text in begun_with:
            continue
        if of.most and shape:
            found = max(1, int(of.most * min(shape[:2])))
        if not of.accepts(augmentation.strength) or (found and augmentation.strength > found):
            raise _wrong_strength(text, f", {found} for images of {shape[0]}x{shape[1]} pixels" if found else "")


def _wrong_strength(text, more=""):
    name, _, strength = text.partition(":")
    of = AUGMENTATIONS[name]
    kind = "a whole number" if of.whole else "a number"
    return UsageError(f"--augment={text}: the strength must be {kind} from {of.range}{more} ({of.unit}; default "
                      f"{of.default_text}); found '{strength}'")


def profiled_steps(text):
    """Reads --profile=100:120 as (100, 120): the 20 steps after step 100; None where there is none.

    Raises:
      UsageError: not of that form, no step, or too many.
    """
    if text is None:
        return None
    match = re.fullmatch(r"([0-9]{1,15}):([0-9]{1,15})", text.strip())
    first, last = (int(part) for part in match.groups()) if match else (0, 0)
    if not 0 < last - first <= MOST_PROFILED:
        raise UsageError(f"--profile={text}: give from:to, two whole numbers with from < to, at most {MOST_PROFILED} "
                         "apart, e.g. --profile=100:120 for the 20 steps after step 100")
    return first, last


def augmentations(config):
    """Returns the augmentations of a DataConfig as a tuple of Augmentation."""
    return tuple(Augmentation.parse(text) for text in config.augment)
