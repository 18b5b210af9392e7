"""What may be written to a terminal, and what is done when it is gone. Standard library only."""
import errno
import os
import termios

GONE = (errno.EPIPE, errno.EIO)  # A pipe that nobody reads any more; a terminal that was closed.


def printable(text):
    """Returns text in which what would move the cursor, or cannot be encoded, is replaced."""
    return "".join(character if character.isprintable() else "\ufffd" for character in text)


class LastingStream:
    """A text stream that goes quiet where nobody can read any more, for work that does not depend on being looked at.

    It has the rest of the stream's attributes too.
    """

    def __init__(self, stream):
        """Args: stream: an open text file, such as standard output."""
        self._stream = stream

    def write(self, text):
        """Writes text; returns its length."""
        self._attempt(lambda: self._stream.write(text))
        return len(text)

    def flush(self):
        """Hands on what was written."""
        self._attempt(self._stream.flush)

    def _attempt(self, action):
        try:
            action()
        except ValueError:
            pass  # It was closed.
        except OSError as error:
            if error.errno in GONE:
                # What is still in the buffer would raise again and again, up to the interpreter's exit.
                nowhere = os.open(os.devnull, os.O_WRONLY)
                os.dup2(nowhere, self._stream.fileno())
                os.close(nowhere)

    def __getattr__(self, name):
        return getattr(self._stream, name)


def let_go():
    """Puts the null device in the place of a terminal that was closed: whatever is written there would be an error."""
    for number in (1, 2):
        try:
            termios.tcgetattr(number)
        except termios.error as error:
            if error.args[0] == errno.EIO:
                nowhere = os.open(os.devnull, os.O_RDWR)
                os.dup2(nowhere, number)
                os.close(nowhere)


def is_live(stream, environment=os.environ):
    """Tells whether a stream is a terminal on which lines can be drawn anew."""
    try:
        terminal = stream is not None and stream.isatty()
    except ValueError:  # It is closed.
        return False
    return terminal and environment.get("TERM", "dumb").lower() not in ("", "dumb", "unknown")
