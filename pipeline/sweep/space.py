"""The search space of a sweep, parsed from --space. Standard library only."""
import dataclasses
import itertools
import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from pipeline.config import ExperimentConfig, options, value_type
from pipeline.errors import UsageError, nearest
from pipeline.options import FREE, check_option

FORMS = ("a set (32|64|128), a range (0..0.2), a range on a logarithmic scale (log:1e-4..1e-1), whole numbers "
         "(int:2..6), or N points of a range (0..0.2:5)")
RANGE = re.compile(r"(?P<int>int:)?(?P<log>log:)?(?P<low>[^:|]+?)\.\.(?P<high>[^:|]+?)(?::(?P<points>[^:|]*))?")
TRUTH = {"true": True, "on": True, "1": True, "false": False, "off": False, "0": False}
# Options that would make trials incomparable, or that do not change what is learned (see also FREE).
UNCOMPARABLE = {
    **dict.fromkeys(("dataset", "subset", "validation_split", "fold", "skip_unreadable"),
                    "trials are compared on the same held-out examples"),
    "best_metric": "trials are compared by it", "evaluate_every": "trials are compared at their evaluations",
    "memory_budget": "it is about this machine, not about what is learned"}
MOST_COMBINATIONS = 500  # Checked before anything starts.
RESOLUTION = 1000  # Distinct values of a linear range, so that they are short in a flag file.


@dataclasses.dataclass(frozen=True)
class Choices:
    """A set of values without an order."""

    values: tuple[Any, ...]
    text: str

    @property
    def size(self) -> int:
        """Number of values."""
        return len(self.values)

    @property
    def samples(self) -> tuple[Any, ...]:
        """Values that represent the domain in a check."""
        return self.values


@dataclasses.dataclass(frozen=True)
class Points(Choices):
    """Numbers in ascending or descending order."""


@dataclasses.dataclass(frozen=True)
class Range:
    """Every number in [low, high]; whole numbers only where these are integers."""

    low: float
    high: float
    logarithmic: bool
    text: str

    @property
    def whole(self) -> bool:
        """Whether it is of whole numbers."""
        return isinstance(self.low, int)

    @property
    def size(self) -> int | None:
        """Number of values, None where it is infinite."""
        return int(self.high - self.low) + 1 if self.whole else None

    @property
    def samples(self) -> tuple[Any, ...]:
        """Values that represent the domain in a check."""
        return self.low, self.high

    @property
    def values(self) -> tuple[int, ...]:
        """Every whole number."""
        return tuple(range(int(self.low), int(self.high) + 1))

    def rounded(self, value: float) -> float:
        """Returns a value with three significant digits, on a linear scale with the decimals that RESOLUTION needs."""
        if self.whole:
            return int(value)
        digits = 2 - math.floor(math.log10(abs(value))) if self.logarithmic else math.ceil(
            math.log10(RESOLUTION / (self.high - self.low)))
        return min(max(round(value, digits), self.low), self.high)


@dataclasses.dataclass(frozen=True)
class Space:
    """The domain of each option that is varied, in the order of the configuration."""

    domains: dict[str, Choices | Range]

    @property
    def text(self) -> dict[str, str]:
        """{option name: its values as given}."""
        return {name: domain.text for name, domain in self.domains.items()}

    @property
    def size(self) -> int | None:
        """Number of combinations, None where it is infinite."""
        sizes = [domain.size for domain in self.domains.values() if domain.size is not None]
        return math.prod(sizes) if len(sizes) == len(self.domains) else None

    def grid(self) -> Iterator[dict[str, Any]]:
        """Yields every combination as {option name: value}; the last option changes fastest."""
        for values in itertools.product(*(domain.values for domain in self.domains.values())):
            yield dict(zip(self.domains, values, strict=True))

    def check_grid(self) -> None:
        """Raises UsageError where there are infinitely many combinations."""
        for name, domain in self.domains.items():
            if domain.size is None:
                raise UsageError(f"--search=grid needs sets of values, and {name}={domain.text} is a range: give the "
                                 f"number of points, {name}={domain.text}:4, or a set, {name}="
                                 f"{value_text(domain.low)}|{value_text(domain.high)}")

    def check(self, resolve: Callable[[dict[str, Any]], ExperimentConfig]) -> None:
        """Raises UsageError for a combination of values that `resolve` refuses, with the combination."""
        samples = {name: domain.samples for name, domain in self.domains.items()}
        combinations: Iterable[tuple[Any, ...]] = itertools.product(*samples.values())
        if math.prod(map(len, samples.values())) > MOST_COMBINATIONS:
            first = [values[0] for values in samples.values()]
            combinations = [(*first[:i], value, *first[i + 1:]) for i, values in enumerate(samples.values())
                            for value in values]
        for values in combinations:
            try:
                resolve(dict(zip(samples, values, strict=True)))
            except UsageError as error:
                found = " ".join(f"{name}={value_text(value)}" for name, value in zip(samples, values, strict=True))
                raise UsageError(f"--space, with {found}: {error}") from None


def value_text(value: Any) -> str:
    """Returns a value as in a flag: `true`, `flip,crop:2`, `0.001`."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, (tuple, list)):
        return ",".join(map(str, value))
    return repr(value) if isinstance(value, float) and not value.is_integer() else (
        f"{value:g}" if isinstance(value, float) and abs(value) < 1e6 else str(value))


def parse_space(text: str | None, other_names: Mapping[str, str] | Iterable[tuple[str, str]] = ()) -> Space:
    """Parses --space, `name=values,name=values`.

    Values of options that are lists may have commas: `augment=flip,crop:2|cutout,batch_size=32|64`.

    Args:
      text: the flag's value.
      other_names: {name of an option elsewhere: its name here}, for the message.

    Raises:
      UsageError: an option that does not exist or cannot be varied, or values that are no space or out of range.
    """
    if not text or not text.strip():
        raise UsageError(f"--space is what to vary, name=values,name=values; values are {FORMS}; e.g. "
                         "--space='learning_rate=log:1e-4..1e-1,model=cnn|resnet_like'")
    domains = {}
    for part in _parts(text):
        name, equals, values = part.partition("=")
        name = name.strip().removeprefix("--").replace("-", "_")
        _check_name(name, dict(other_names))
        if not equals:
            raise UsageError(f"--space: '{part}' has no values: give {name}= and {FORMS}")
        if name in domains:
            raise UsageError(f"--space holds {name} twice: give all its values in one place")
        domains[name] = _domain(name, values.strip())
    return Space({name: domains[name] for name in options() if name in domains})


def _parts(text):
    """Splits at commas before another option; values of model_options look like options themselves."""
    parts = []
    for part in re.split(r",(?=\s*-{0,2}[A-Za-z_][\w-]*=)", text.strip().strip(",")):
        of_model = parts and parts[-1].lstrip().startswith("model_options=")
        if of_model and part.partition("=")[0].strip() not in options():
            parts[-1] += f",{part}"
        else:
            parts.append(part.strip())
    return parts


def _check_name(name, other_names):
    known = options()
    if name not in known:
        guess = other_names.get(name) if other_names.get(name) in known else nearest(name, known)
        raise UsageError(f"--space: unknown flag '{name}'" + (f": did you mean {guess}?" if guess else "")
                         + "; 'mirrorline train --help' lists every flag")
    reason = UNCOMPARABLE.get(name) or (
        "it is about how a run is run, not about what it learns" if known[name].metadata["resume"] == FREE else None)
    if reason:
        raise UsageError(f"--space: {name} cannot be swept: {reason}; give it as --{name}")


def _domain(name, text):
    """Parses the values of one option."""
    field = options()[name]
    kind = value_type(field)
    match = RANGE.fullmatch(text)
    if match and kind in (int, float):
        return _range(name, text, match, int if match["int"] else kind)
    if match or "|" not in text:
        meaning = f"is not of numbers, and {name} has no ranges: give a set, {name}=a|b" if match else (
            f"is one value and no space: give it as --{name}={text}, or give {name} {FORMS}")
        raise UsageError(f"--space: {name}={text} {meaning}")
    values = tuple(_value(name, kind, part.strip()) for part in text.split("|"))
    if len(set(values)) < len(values):
        raise UsageError(f"--space: {name}={text} holds a value twice: give each once")
    numbers = kind in (int, float)
    return (Points if numbers and list(values) in (sorted(values), sorted(values)[::-1]) else Choices)(values, text)


def _range(name, text, match, kind):
    low, high = (_value(name, kind, match[end].strip()) for end in ("low", "high"))
    if low >= high:
        raise UsageError(f"--space: {name}={text} is empty: give the smaller number first")
    if match["log"] and low <= 0:
        raise UsageError(f"--space: {name}={text}: a logarithmic scale needs numbers above 0; found {low:g}")
    whole = Range(low, high, bool(match["log"]), text)
    if match["points"] is None:
        return whole
    if not re.fullmatch(r"[1-9]\d{0,3}", match["points"]) or int(match["points"]) < 2:
        raise UsageError(f"--space: {name}={text}: the number of points must be a whole number from 2; found "
                         f"'{match['points']}'")
    return Points(tuple(_spread(whole, int(match["points"]))), text)


def _spread(domain, count):
    """Returns `count` values, evenly spaced on the scale of the range; whole numbers that coincide count once."""
    low, high = (math.log(end) if domain.logarithmic else end for end in (domain.low, domain.high))
    values = [low + (high - low) * i / (count - 1) for i in range(count)]
    values = [math.exp(value) if domain.logarithmic else value for value in values]
    return dict.fromkeys(domain.rounded(round(value) if domain.whole else value) for value in values)


def _value(name, kind, text):
    """Parses one value by the type of its option, and checks its range."""
    try:
        if kind is tuple:
            return tuple(part.strip() for part in text.split(",") if part.strip())
        value = TRUTH[text.lower()] if kind is bool else kind(text)
    except (ValueError, KeyError):
        wanted = {int: "a whole number", float: "a number", bool: "true or false"}[kind]
        raise UsageError(f"--space: {name} must be {wanted}; found '{text}'") from None
    try:
        check_option(options()[name], value)
    except UsageError as error:
        raise UsageError(f"--space: {error}") from None
    return value
