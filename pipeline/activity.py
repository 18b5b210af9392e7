"""What takes long before training begins: said while it lasts, and named where it is interrupted.

On a terminal one line is drawn over and over; elsewhere a line is printed every ten seconds, none for what is short.
Standard library only.
"""
import threading
import time

from pipeline.console import Console
from pipeline.quantities import clock

DRAWN, PRINTED = 0.5, 10.0  # Seconds between two looks on a terminal, and between two lines elsewhere.
STARTING = "starting TensorFlow"
_running: list["activity"] = []  # Activities, the innermost last.


class activity:
    """Says what is being done, and how far it is, as long as it lasts: a context manager.

    Attributes:
      text: what it is, as "reading images".
      done: how much of it.
    """

    def __init__(self, text: str, console: Console | None = None, total: int | None = None, live: bool = True):
        """
        Args:
          text: a few words that go on "interrupted while".
          console: where it is reported; None: that of the activity around it, if any.
          total: how much there is to do; None: not known.
          live: whether a line is drawn on a terminal, where somebody else does not draw there.
        """
        self.text, self.done, self._total, self._may_draw = text, 0, total, live
        self._console: Console | None = console or (_running[-1]._console if _running else None)
        self._ended, self._began = threading.Event(), time.monotonic()

    def advance(self, count=1):
        """Counts what is done."""
        self.done += count

    def line(self):
        """Returns the line that says how far it is."""
        far = f": {self.done:,} of {self._total:,}" if self._total else ""
        return f"{self.text}{far}, {clock(time.monotonic() - self._began)}"

    def __enter__(self):
        _running.append(self)
        self._draws = self._may_draw and self._console is not None and self._console.live
        if self._console:
            self._thread = threading.Thread(target=self._report, daemon=True)
            self._thread.start()
        return self

    def __exit__(self, kind, error, traceback):
        self._ended.set()
        if self._console:
            self._thread.join()
            if self._draws:
                self._console.erase()
        _running.remove(self)
        if isinstance(error, KeyboardInterrupt) and not hasattr(error, "doing"):
            error.doing = self.text

    def _report(self):
        while not self._ended.wait(DRAWN if self._draws else PRINTED):
            if self is _running[-1]:
                (self._console.draw if self._draws else self._console.info)(self.line())


def running():
    """Returns the text of what is being done, None where nothing is."""
    return _running[-1].text if _running else None
