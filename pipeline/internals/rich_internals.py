"""Private interfaces of rich: where its live display was drawn last."""
import math
from collections.abc import Callable, Sequence

from rich.live import Live


class ResizableLive(Live):
    """A Live that finds its lines again when the window has become narrower, and leaves the cursor alone.

    A terminal breaks lines that do not fit any more, so they are more than were drawn. A cursor that is hidden stays
    hidden when the process is killed.
    """

    def __init__(self, renderable, widths: Callable[[], Sequence[int]], **options):
        """
        Args:
          renderable: what is drawn.
          widths: returns the columns of each line as it was drawn last.
          **options: of rich.live.Live.
        """
        super().__init__(renderable, **options)
        self._widths, self._width = widths, self.console.width

    def start(self, refresh: bool = True) -> None:
        """Starts to draw."""
        super().start(refresh)
        self.console.show_cursor(True)

    def process_renderables(self, renderables):
        """Adds the display below what is printed."""
        with self._lock:
            width, shape = self.console.width, self._live_render._shape  # Rich has no public way to say where it was.
            if shape and width < self._width:
                rows = sum(max(1, math.ceil(columns / width)) for columns in self._widths())
                self._live_render._shape = (shape[0], rows)
            self._width = width
            return super().process_renderables(renderables)
