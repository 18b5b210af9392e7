"""Formats numbers with their units. Standard library only."""
import math
import numbers
from collections.abc import Iterable

NONE = "–"
MINUTE, HOUR, DAY = 60, 3600, 86_400  # Seconds.


def plural(count: float, one: str, many: str | None = None) -> str:
    """Returns the form of a noun for a count: `one` for 1, else `many`, by default with s."""
    return one if count == 1 else many or f"{one}s"


def counted(count: float, one: str, many: str | None = None) -> str:
    """Returns a count with its noun: "1 cell", "1,024 cells", "2.5 epochs"."""
    text = f"{count:,}" if isinstance(count, numbers.Integral) else f"{count:g}"
    return f"{text} {plural(count, one, many)}"


def listed(names: Iterable[str], most: int) -> str:
    """Returns at most so many names, separated by commas, and the number of the others: "a, b and 3 more"."""
    names = list(names)
    return ", ".join(names[:most]) + (f" and {len(names) - most:,} more" if len(names) > most else "")


def number(value: float | None, digits: int = 3) -> str:
    """Returns a number with so many significant digits and thousands separators, without an exponent."""
    if value is None:
        return NONE
    if value == 0:
        return "0"
    decimals = max(0, digits - 1 - math.floor(math.log10(abs(value))))
    return f"{value:,.{min(decimals, 6)}f}"


def rate(examples_per_second: float | None) -> str:
    """Returns a speed: "0.300 examples/s", "12.3 examples/s", "1,234,567 examples/s"."""
    return f"{number(examples_per_second)} examples/s"


def clock(seconds: float) -> str:
    """Returns a duration as 02:03, 1:02:03, from a day on "3 d 04 h" and from a hundred days on "120 d"."""
    seconds = int(max(0, seconds))
    if seconds >= 100 * DAY:
        return f"{seconds // DAY:,} d"
    if seconds >= DAY:
        return f"{seconds // DAY} d {seconds % DAY // HOUR:02d} h"
    hours, rest = divmod(seconds, HOUR)
    return (f"{hours}:" if hours else "") + f"{rest // MINUTE:02d}:{rest % MINUTE:02d}"
