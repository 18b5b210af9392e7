"""The options of the configuration: their descriptions and checks, and values that have a syntax of their own.

Standard library only.
"""
import dataclasses
import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

from pipeline import dataset_name
from pipeline.errors import UsageError, unknown_name
from pipeline.paths import local_path
from pipeline.registry import Registry

# May a run be continued with another value? REFUSE: it changes the results, --allow accepts it. NEVER: what is stored
# would not fit.
NEVER, REFUSE, FREE = "never", "refuse", "free"
MOST_PROFILED = 1000  # Steps: a trace is kept in memory until it is written.


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
      added: a Registry of names that the value may also begin with; not checked here.
      resume: NEVER, REFUSE or FREE, see above.
      many: whether the value is a comma-separated list, kept as a tuple.
      path: whether it is the path of a file or folder; of `dataset`, whether its argument may be one.
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
            elif dataset_name.has_path(value):
                kind, argument = dataset_name.split(value)
                object.__setattr__(self, field.name, f"{kind}:{local_path(argument, flag)}")


def describe_range(metadata: Mapping[str, Any]) -> str:
    """Returns the range of an option as text, "" without bounds."""
    names = metadata["choices"] or metadata["added"]
    if names:
        return " | ".join(names.shown() if isinstance(names, Registry) else names)
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


CLIPPINGS = ("norm", "agc")  # What --clip begins with.


def parse_clip(text: str) -> tuple[str, float]:
    """Reads --clip=norm:1 or agc:0.01 as (one of CLIPPINGS, its number > 0).

    Raises:
      UsageError: another form.
    """
    kind, _, number = text.strip().partition(":")
    try:
        limit = float(number)
    except ValueError:
        limit = 0.0
    if kind not in CLIPPINGS or not 0 < limit < math.inf:
        raise UsageError(f"--clip={text}: give norm:1 (the largest global norm) or agc:0.01 (the largest ratio to the "
                         "norm of the weights), with a number above 0")
    return kind, limit


def parse_fold(text: str) -> tuple[int, int]:
    """Reads --fold=2/5 as (2, 5): the second of five parts.

    Raises:
      UsageError: another form.
    """
    match = re.fullmatch(r"([0-9]{1,6})/([0-9]{1,6})", text.strip())
    number, parts = (int(match[1]), int(match[2])) if match else (0, 0)
    if not (1 <= number <= parts and parts > 1):
        raise UsageError(f"--fold={text}: give NUMBER/PARTS, such as 2/5 for the second of five parts")
    return number, parts


def parse_class_weight(text: str) -> float | None:
    """Reads --class_weight=none as None, balanced as 1 and balanced:0.5 as 0.5: the power of the weights.

    Raises:
      UsageError: another form.
    """
    name, colon, number = text.strip().partition(":")
    if (name, colon) == ("none", ""):
        return None
    try:
        power = float(number) if colon else 1.0
    except ValueError:
        power = 0.0
    if name != "balanced" or not 0 < power <= 1:
        raise UsageError(f"--class_weight={text}: give none, balanced (inverse to the frequency of the class), or "
                         "balanced:0.5, to the power of a number above 0 and up to 1")
    return power


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
