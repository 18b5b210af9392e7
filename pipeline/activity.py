"""Reports long activities before training, and names the current one on an interrupt.

On a terminal one line is redrawn; elsewhere a line is printed every ten seconds, none for a short activity. Standard
library only.
"""
import threading
import time
from types import TracebackType
from typing import Self

from pipeline.console import Console
from pipeline.quantities import clock

DRAWN, PRINTED = 0.5, 10.0  # Seconds between two updates on a terminal, and between two lines elsewhere.
STARTING = "starting TensorFlow"
_running: list["activity"] = []  # The innermost last.


class activity:
    """Reports what is being done (`text`) and its progress (`done`): a context manager."""

    def __init__(self, text: str, console: Console | None = None, total: int | None = None, live: bool = True):
        """
        Args:
          text: a few words that follow "interrupted while".
          console: where it is reported; None: that of the enclosing activity, if any.
          total: value of `done` at the end; None: unknown.
          live: whether a line may be drawn on a terminal.
        """
        self.text, self.done, self._total, self._may_draw = text, 0, total, live
        self._console: Console | None = console or (_running[-1]._console if _running else None)
        self._ended, self._began = threading.Event(), time.monotonic()

    def advance(self, count: int = 1) -> None:
        """Adds to the progress."""
        self.done += count

    def line(self) -> str:
        """Returns the line that is reported."""
        progress = f": {self.done:,} of {self._total:,}" if self._total else ""
        return f"{self.text}{progress}, {clock(time.monotonic() - self._began)}"

    def __enter__(self) -> Self:
        _running.append(self)
        if self._console:
            self._draws = self._may_draw and self._console.live
            self._thread = threading.Thread(target=self._report, args=(self._console,), daemon=True)
            self._thread.start()
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        self._ended.set()
        if self._console:
            self._thread.join()
            if self._draws:
                self._console.erase()
        _running.remove(self)
        if isinstance(error, KeyboardInterrupt) and not hasattr(error, "doing"):
            error.doing = self.text  # type: ignore[attr-defined]

    def _report(self, console: Console) -> None:
        while not self._ended.wait(DRAWN if self._draws else PRINTED):
            if self is _running[-1]:
                (console.draw if self._draws else console.info)(self.line())


def running() -> str | None:
    """Returns the text of the innermost activity, None without any."""
    return _running[-1].text if _running else None
