"""Messages for the user of a command, one line each. Standard library only."""
import shutil
import sys
import threading
from typing import TextIO

from pipeline.terminal import LastingStream, is_live, printable

ERASE = "\r\x1b[K"


class Console:
    """Writes information to standard output, warnings and errors to standard error.

    On a terminal a status line may be drawn; every message erases it.
    """

    def __init__(self, quiet: bool = False, lasting: bool = False):
        """
        Args:
          quiet: drop information; warnings and errors are still written.
          lasting: drop information that nobody reads any more, where otherwise BrokenPipeError is raised.
        """
        self._quiet, self._lasting, self._lock, self._drawn = quiet, lasting, threading.Lock(), False

    def info(self, text: str) -> None:
        """Writes a line on standard output."""
        if not self._quiet:
            self._line(sys.stdout, text, self._lasting)

    def warning(self, text: str) -> None:
        """Writes a line on standard error, while it can be read."""
        self._line(sys.stderr, text, lasting=True)

    error = warning

    @property
    def live(self) -> bool:
        """Whether a status line can be drawn."""
        return not self._quiet and is_live(sys.stdout)

    def draw(self, text: str) -> None:
        """Draws the status line, in place of the one before."""
        width = shutil.get_terminal_size().columns
        with self._lock:
            _write(LastingStream(sys.stdout), f"{ERASE}{printable(text)[:max(0, width - 1)]}")
            self._drawn = True

    def erase(self) -> None:
        """Erases the status line."""
        with self._lock:
            self._erase()

    def _line(self, stream: TextIO | None, text: str, lasting: bool) -> None:
        with self._lock:
            self._erase()
            if stream is not None:  # It was closed before the start.
                # In one piece, as threads and processes share the stream.
                _write(LastingStream(stream) if lasting else stream, f"{text}\n")

    def _erase(self) -> None:
        if self._drawn:
            _write(LastingStream(sys.stdout), ERASE)
            self._drawn = False


def _write(stream, text: str) -> None:
    stream.write(text)
    stream.flush()


STANDARD = Console()
