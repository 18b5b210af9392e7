"""What a person sees of several workers: their lines with the rank in front, and one line of progress for all."""
import os
import re
import sys

# The chief's line of a window of steps. On a terminal the next one takes its place.
PROGRESS = re.compile(r"epoch +[\d.]+/\S+ +step +\d+/\d+ +loss ")
HELD_BACK = re.compile(r"mirrorline train: ")
COLUMNS = 80  # Where the terminal does not tell.
CLEAR_LINE = "\r\x1b[2K"


class Screen:
    """Lines of workers and of the supervisor.

    A worker's line on why it ends is not shown as it comes: peers say the same, or follow from it, and the supervisor
    says which of them counts. It is in the worker's log.
    """

    def __init__(self, quiet=False, out=None, errors=None):
        """
        Args:
          quiet: whether only what goes wrong is said.
          out, errors: where to; default standard output and standard error.
        """
        self._quiet, self._out, self._errors = quiet, out or sys.stdout, errors or sys.stderr
        self._progress = ""
        self._moves = self._out.isatty() and os.environ.get("TERM", "dumb") not in ("", "dumb", "unknown")

    def worker(self, rank, line):
        """Shows a line of a worker."""
        if HELD_BACK.match(line):
            return
        if self._moves and rank == 0 and PROGRESS.match(line):
            self._progress = line
            self._draw()
        else:
            self._line(self._out, f"[{rank}] {line}")

    def info(self, text):
        """Shows a line of the supervisor."""
        if not self._quiet:
            self._line(self._out, text)

    def error(self, text):
        """Shows a line on what went wrong."""
        self._line(self._errors, text)

    def close(self):
        """Takes the line of progress away."""
        if self._progress:
            self._write(self._out, CLEAR_LINE)
        self._progress = ""

    def _line(self, stream, text):
        if self._progress:
            self._write(self._out, CLEAR_LINE)
        self._write(stream, f"{text}\n")
        if self._progress:
            self._draw()

    def _draw(self):
        try:
            columns = os.get_terminal_size(self._out.fileno()).columns or COLUMNS
        except OSError:
            columns = COLUMNS
        self._write(self._out, f"{CLEAR_LINE}{self._progress[:max(1, columns - 1)]}")

    def _write(self, stream, text):
        try:
            stream.write(text)
            stream.flush()
        except ValueError:
            pass  # It was closed. The run goes on: it does not depend on being looked at.
        except OSError:
            # What is still in the buffer would raise again and again, up to the interpreter's exit.
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
