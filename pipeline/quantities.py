"""Numbers with their units, as people read them. Standard library only."""
import math
import numbers

NONE = "–"
MINUTE, HOUR, DAY = 60, 3600, 86_400  # Seconds.


def plural(count, one, many=None):
    """Returns the form of a noun that goes with a count: "1 cell" has `one`, any other count `many`, default with s."""
    return one if count == 1 else many or f"{one}s"


def counted(count, one, many=None):
    """Returns a count with its noun: "1 cell", "1,024 cells", "2.5 epochs"."""
    text = f"{count:,}" if isinstance(count, numbers.Integral) else f"{count:g}"
    return f"{text} {plural(count, one, many)}"


def number(value, digits=3):
    """Returns a number with so many significant digits and separated thousands, never in powers of ten."""
    if value is None:
        return NONE
    if value == 0:
        return "0"
    decimals = max(0, digits - 1 - math.floor(math.log10(abs(value))))
    return f"{value:,.{min(decimals, 6)}f}"


def rate(examples_per_second):
    """Returns a speed from 1e-3 to 1e6 and more: "0.300 examples/s", "12.3 examples/s", "1,234,567 examples/s"."""
    return f"{number(examples_per_second)} examples/s"


def clock(seconds):
    """Returns a duration as 02:03, 1:02:03, from a day on as "3 d 04 h" and from a hundred on as "120 d"."""
    seconds = int(max(0, seconds))
    if seconds >= 100 * DAY:
        return f"{seconds // DAY:,} d"
    if seconds >= DAY:
        return f"{seconds // DAY} d {seconds % DAY // HOUR:02d} h"
    hours, rest = divmod(seconds, HOUR)
    return (f"{hours}:" if hours else "") + f"{rest // MINUTE:02d}:{rest % MINUTE:02d}"
