"""Drawing with matplotlib's own defaults, independent of a user's matplotlibrc."""
import contextlib
from collections.abc import Iterator, Mapping
from typing import Any

from matplotlib import rc_context, rcParamsDefault


@contextlib.contextmanager
def own_style(style: Mapping[str, Any] | None = None) -> Iterator[None]:
    """Sets matplotlib's defaults for this block.

    Args:
      style: {name: value} of rcParams that differ from the defaults.
    """
    # The format of the file selects the backend.
    settings: dict[Any, Any] = {name: value for name, value in rcParamsDefault.items() if name != "backend"}
    settings.update(style or {})
    with rc_context(settings):
        yield
