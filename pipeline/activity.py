"""What takes long before training begins: said while it lasts, and named where it is interrupted.

On a terminal one line is drawn over and over; elsewhere a line is printed every ten seconds, none for what is short.
Standard library only.
"""
import shutil
import sys
import threading
import time

from pipeline.quantities import clock
from pipeline.terminal import LastingStream, is_live, printable

DRAWN, PRINTED = 0.5, 10.0  # Seconds between two looks on a terminal, and between two lines elsewhere.
STARTING = "starting TensorFlow"
ERASE = "\r\x1b[K"
_running: list["activity"] = []  # Activities, the innermost last.


class Lines:
    """Prints lines for the user, one a call; a line that is drawn over and over gives way to them."""

    def __init__(self):
        self._lock, self._drawn = threading.Lock(), False

    def __call__(self, text):
        with self._lock:
            self._erase()
            print(text, flush=True)

    @property
    def live(self):
        """Whether a line can be drawn over."""
        return is_live(sys.stdout)

    def draw(self, text):
        """Shows a line in place of the one that was drawn before."""
        width = shutil.get_terminal_size().columns
        with self._lock:
            self._write(f"{ERASE}{printable(text)[:max(0, width - 1)]}")
            self._drawn = True

    def erase(self):
        """Takes the line away."""
        with self._lock:
            self._erase()

    def _erase(self):
        if self._drawn:
            self._write(ERASE)
            self._drawn = False

    def _write(self, text):
        stream = LastingStream(sys.stdout)
        stream.write(text)
        stream.flush()


class activity:
    """Says what is being done, and how far it is, as long as it lasts: a context manager.

    Attributes:
      text: what it is, as "reading images".
      done: how much of it.
    """

    def __init__(self, text, echo=None, total=None, live=True):
        """
        Args:
          text: a few words that go on "interrupted while".
          echo: takes lines for the user, one a call; None: that of the activity around it, or nobody.
          total: how much there is to do; None: not known.
          live: whether a line is drawn on a terminal, where somebody else does not draw there.
        """
        self.text, self.done, self._total, self._may_draw = text, 0, total, live
        self._echo = echo or (_running[-1]._echo if _running else None)
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
        self._draws = self._may_draw and getattr(self._echo, "live", False)
        if self._echo:
            self._thread = threading.Thread(target=self._report, daemon=True)
            self._thread.start()
        return self

    def __exit__(self, kind, error, traceback):
        self._ended.set()
        if self._echo:
            self._thread.join()
            if self._draws:
                self._echo.erase()
        _running.remove(self)
        if isinstance(error, KeyboardInterrupt) and not hasattr(error, "doing"):
            error.doing = self.text

    def _report(self):
        while not self._ended.wait(DRAWN if self._draws else PRINTED):
            if self is _running[-1]:
                (self._echo.draw if self._draws else self._echo)(self.line())


def running():
    """Returns the text of what is being done, None where nothing is."""
    return _running[-1].text if _running else None
