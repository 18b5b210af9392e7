"""Text for terminals, and streams whose readers may be gone. Standard library only."""
import errno
import os
import termios
from collections.abc import Callable, Mapping
from typing import Any, TextIO

GONE = (errno.EPIPE, errno.EIO)  # A pipe without a reader; a closed terminal.


def printable(text: str) -> str:
    """Replaces characters that would move the cursor or cannot be encoded."""
    return "".join(character if character.isprintable() else "\ufffd" for character in text)


class LastingStream:
    """A text stream that goes quiet when its reader is gone, for work that does not depend on being watched.

    It also has the other attributes of the stream.
    """

    def __init__(self, stream: TextIO):
        """Args: stream: an open text file, such as standard output."""
        self._stream = stream

    def write(self, text: str) -> int:
        """Writes text; returns its length."""
        self._attempt(lambda: self._stream.write(text))
        return len(text)

    def flush(self) -> None:
        """Flushes the stream."""
        self._attempt(self._stream.flush)

    def _attempt(self, action: Callable[[], Any]) -> None:
        try:
            action()
        except ValueError:
            pass  # It was closed.
        except OSError as error:
            if error.errno in GONE:
                # The buffered rest would raise again and again, up to the interpreter's exit.
                _redirect(self._stream.fileno(), os.O_WRONLY)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def let_go() -> None:
    """Replaces a closed terminal by the null device: writing to it would be an error."""
    for descriptor in (1, 2):
        try:
            termios.tcgetattr(descriptor)
        except termios.error as error:
            if error.args[0] == errno.EIO:
                _redirect(descriptor, os.O_RDWR)


def _redirect(descriptor: int, mode: int) -> None:
    nowhere = os.open(os.devnull, mode)
    os.dup2(nowhere, descriptor)
    os.close(nowhere)


def is_live(stream: TextIO | None, environment: Mapping[str, str] = os.environ) -> bool:
    """Tells whether a stream is a terminal on which lines can be redrawn."""
    try:
        terminal = stream is not None and stream.isatty()
    except ValueError:  # It is closed.
        return False
    return terminal and environment.get("TERM", "dumb").lower() not in ("", "dumb", "unknown")
