"""What a sweep varies: `--space` as text, and as sets of values. Standard library only."""
import dataclasses
import itertools
import math
import re

from pipeline.config import options, value_type
from pipeline.errors import UsageError, nearest
from pipeline.options import FREE, check_option

FORMS = ("a set (32|64|128), a range (0..0.2), a range on a logarithmic scale (log:1e-4..1e-1), whole numbers "
         "(int:2..6), or N points of a range (0..0.2:5)")
RANGE = re.compile(r"(?P<int>int:)?(?P<log>log:)?(?P<low>[^:|]+?)\.\.(?P<high>[^:|]+?)(?::(?P<points>[^:|]*))?")
TRUTH = {"true": True, "on": True, "1": True, "false": False, "off": False, "0": False}
# Options that would make the trials incomparable, and those that do not change what is learned (see also FREE).
UNCOMPARABLE = {
    **dict.fromkeys(("dataset", "subset", "validation_split", "skip_unreadable"),
                    "trials are compared on the same held-out examples"),
    "best_metric": "it is what trials are compared by", "evaluate_every": "trials are compared at their evaluations",
    "memory_budget": "it is about this machine, not about what is learned"}
MOST_COMBINATIONS = 500  # That are checked before anything starts.
RESOLUTION = 1000  # Different values of a linear range: a value as short as can be, which reads well in a flag file.


@dataclasses.dataclass(frozen=True)
class Choices:
    """A set of values without an order."""

    values: tuple
    text: str

    @property
    def size(self):
        """Number of values."""
        return len(self.values)

    @property
    def samples(self):
        """Values that stand for all of them in a check."""
        return self.values


@dataclasses.dataclass(frozen=True)
class Points(Choices):
    """Some numbers, ascending or descending."""


@dataclasses.dataclass(frozen=True)
class Range:
    """Every number from `low` to `high`, both included; whole numbers only where they are integers."""

    low: float
    high: float
    logarithmic: bool
    text: str

    @property
    def whole(self):
        """Whether it is one of whole numbers."""
        return isinstance(self.low, int)

    @property
    def size(self):
        """Number of values, None without end."""
        return self.high - self.low + 1 if self.whole else None

    @property
    def samples(self):
        """Values that stand for all of them in a check."""
        return self.low, self.high

    @property
    def values(self):
        """Every whole number."""
        return tuple(range(self.low, self.high + 1))

    def rounded(self, value):
        """Returns a value with three significant digits, of a linear range with as many digits as its length needs."""
        if self.whole:
            return int(value)
        digits = 2 - math.floor(math.log10(abs(value))) if self.logarithmic else math.ceil(
            math.log10(RESOLUTION / (self.high - self.low)))
        return min(max(round(value, digits), self.low), self.high)


@dataclasses.dataclass(frozen=True)
class Space:
    """What is varied: {option name: Choices, Points or Range}, in the order of the configuration."""

    domains: dict

    @property
    def text(self):
        """{option name: its values as given}."""
        return {name: domain.text for name, domain in self.domains.items()}

    @property
    def size(self):
        """Number of combinations, None without end."""
        sizes = [domain.size for domain in self.domains.values()]
        return None if None in sizes else math.prod(sizes)

    def grid(self):
        """Yields every combination as {option name: value}, the last option changing fastest."""
        for values in itertools.product(*(domain.values for domain in self.domains.values())):
            yield dict(zip(self.domains, values, strict=True))

    def check_grid(self):
        """Raises UsageError where a combination of every value with every other has no end."""
        for name, domain in self.domains.items():
            if domain.size is None:
                raise UsageError(f"--search=grid needs sets of values, and {name}={domain.text} is a range: give the "
                                 f"number of points, {name}={domain.text}:4, or a set, {name}="
                                 f"{value_text(domain.low)}|{value_text(domain.high)}")

    def check(self, resolve):
        """Checks that the values of different options go together.

        Args:
          resolve: function from {option name: value} to an ExperimentConfig, raising UsageError.

        Raises:
          UsageError: a combination that cannot be; names it.
        """
        samples = {name: domain.samples for name, domain in self.domains.items()}
        combinations = itertools.product(*samples.values())
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


def value_text(value):
    """Returns a value as a flag has it: `true`, `flip,crop:2`, `0.001`."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, (tuple, list)):
        return ",".join(value)
    return repr(value) if isinstance(value, float) and not value.is_integer() else (
        f"{value:g}" if isinstance(value, float) and abs(value) < 1e6 else str(value))


def parse_space(text, other_names=()):
    """Reads --space, `name=values,name=values`.

    Commas inside of values are those of options that are lists: `augment=flip,crop:2|cutout,batch_size=32|64`.

    Args:
      text: str or None.
      other_names: {name that others give to an option: its name here}, for the message.

    Returns:
      A Space.

    Raises:
      UsageError: an option that does not exist or cannot be swept, or values that are no space or out of range.
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
    """Splits at the commas that begin another option; model options look like options themselves."""
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
    """Reads the values of one option."""
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
    """Returns `count` values from end to end, evenly on the scale of the range; whole numbers that meet count once."""
    low, high = (math.log(end) if domain.logarithmic else end for end in (domain.low, domain.high))
    values = [low + (high - low) * i / (count - 1) for i in range(count)]
    values = [math.exp(value) if domain.logarithmic else value for value in values]
    return dict.fromkeys(domain.rounded(round(value) if domain.whole else value) for value in values)


def _value(name, kind, text):
    """Reads one value by the type of its option, and checks its range."""
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
