"""The terminal of `mirrorline launch`: the workers' lines with their ranks, and one line of progress for all."""
import os
import re
import sys
from typing import TextIO

from pipeline.terminal import LastingStream, is_live

# The chief's line of a window of steps. On a terminal the next one replaces it.
PROGRESS = re.compile(r"epoch +[\d.]+/\S+ +step +\d+/\d+ +loss ")
HELD_BACK = re.compile(r"mirrorline train: ")
COLUMNS = 80  # Where the terminal's width is unknown.
CLEAR_LINE = "\r\x1b[2K"


class LaunchDisplay:
    """Writes the lines of the workers and of the supervisor.

    A worker's line on why it ends is held back: its peers fail with the same or a consequent error, and the supervisor
    reports the one that matters. It stays in the worker's log.
    """

    def __init__(self, quiet: bool = False, out: TextIO | None = None, errors: TextIO | None = None):
        """
        Args:
          quiet: drop the supervisor's information.
          out, errors: default standard output and standard error.
        """
        self._quiet = quiet
        self._live = is_live(out or sys.stdout)
        self._out, self._errors = LastingStream(out or sys.stdout), LastingStream(errors or sys.stderr)
        self._progress = ""

    def worker(self, rank: int | str, line: str) -> None:
        """Writes a line of a worker."""
        if HELD_BACK.match(line):
            return
        if self._live and rank == 0 and PROGRESS.match(line):
            self._progress = line
            self._draw()
        else:
            self._line(self._out, f"[{rank}] {line}")

    def info(self, text: str) -> None:
        """Writes a line of the supervisor."""
        if not self._quiet:
            self._line(self._out, text)

    def error(self, text: str) -> None:
        """Writes a line on standard error."""
        self._line(self._errors, text)

    def close(self) -> None:
        """Erases the line of progress."""
        if self._progress:
            self._write(self._out, CLEAR_LINE)
        self._progress = ""

    def _line(self, stream: LastingStream, text: str) -> None:
        if self._progress:
            self._write(self._out, CLEAR_LINE)
        self._write(stream, f"{text}\n")
        if self._progress:
            self._draw()

    def _draw(self) -> None:
        try:
            columns = os.get_terminal_size(self._out.fileno()).columns or COLUMNS
        except OSError:
            columns = COLUMNS
        self._write(self._out, f"{CLEAR_LINE}{self._progress[:max(1, columns - 1)]}")

    def _write(self, stream: LastingStream, text: str) -> None:
        stream.write(text)
        stream.flush()
