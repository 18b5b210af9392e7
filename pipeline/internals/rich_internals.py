"""Private interfaces of rich: the position of its live display."""
import math
from collections.abc import Callable, Sequence
from typing import Any

from rich.live import Live


class ResizableLive(Live):
    """A Live that finds its lines again after the window has become narrower, and leaves the cursor visible.

    A terminal wraps lines that no longer fit, so there are more than were drawn. A hidden cursor would stay hidden
    after the process is killed.
    """

    def __init__(self, renderable: Any, widths: Callable[[], Sequence[int]], **options: Any):
        """
        Args:
          renderable: what is drawn.
          widths: returns the columns of each line as drawn last.
          **options: of rich.live.Live.
        """
        super().__init__(renderable, **options)
        self._widths, self._width = widths, self.console.width

    def start(self, refresh: bool = True) -> None:
        """Starts to draw."""
        super().start(refresh)
        self.console.show_cursor(True)

    def process_renderables(self, renderables: Any) -> Any:
        """Appends the display to what is printed."""
        with self._lock:
            width, shape = self.console.width, self._live_render._shape  # Rich has no public way to get the position.
            if shape and width < self._width:
                rows = sum(max(1, math.ceil(columns / width)) for columns in self._widths())
                self._live_render._shape = (shape[0], rows)
            self._width = width
            return super().process_renderables(renderables)
