"""How something of a user's gets a name here, and how what goes wrong in it is said. Standard library only."""
import contextlib
import os
import re
import sys

from pipeline.errors import RunFailure, UsageError

OURS = ("pipeline", "launch", "flags", "recipes")
HERE = os.path.dirname(os.path.dirname(os.path.realpath(__file__)))
INSTALLED = ("site-packages", "dist-packages")


def is_below(path, folder):
    """Tells whether a file lies in a folder or deeper, and neither in this product nor among installed packages."""
    part = os.path.relpath(os.path.realpath(path), folder)
    return not set(part.split(os.sep)) & {os.pardir, *INSTALLED} and (
        os.path.relpath(os.path.realpath(path), HERE).split(os.sep)[0] not in OURS)


def enter(table, kind, name, value, built_in):
    """Puts something of a user's under a name into the table of its kind.

    Args:
      table: {name: value}, where a value has an attribute `place`, (file, line) of its registration, and `origin`, what
        was registered.
      kind: "model" or "data set", for messages.
      name: letters, digits, `_`, `.` and `-`.
      value: the new entry.
      built_in: names that are taken.

    Raises:
      UsageError: a name that cannot be, is built in, or stands for something else already.
    """
    where = at(value.place)
    if not isinstance(name, str) or not re.fullmatch(r"[A-Za-z_][\w.-]*", name):
        raise UsageError(f"{where}: {name!r} cannot be the name of a {kind}: give letters, digits, _, . and -")
    if name in built_in:
        raise UsageError(f"{where}: {kind} '{name}' is built in: give yours another name")
    before = table.get(name)
    # A notebook's cell may run again; the same line may be imported again.
    if before and before.place != value.place and value.origin.__module__ != "__main__":
        raise UsageError(f"{where}: {kind} '{name}' is registered already, in {at(before.place)}: give one of them "
                         "another name")
    table[name] = value


def place_of_caller(depth=1):
    """Returns (file, line) of who called the function that calls this one, or of so many callers further up."""
    frame = sys._getframe(depth + 1)
    return frame.f_code.co_filename, frame.f_lineno


def at(place):
    """Returns a place in words."""
    return f"{place[0]}, line {place[1]}"


@contextlib.contextmanager
def blame(what, place):
    """Turns what a user's own code raises into one line with its place in their file.

    Memory that is full is no fault of theirs, and what speaks for itself (UsageError) passes as it is.

    Args:
      what: whose fault it is, in words.
      place: (file, line) of it, for what was not raised in that folder.

    Raises:
      UsageError: instead of what was raised.
    """
    try:
        yield
    except (Exception, SystemExit) as error:
        if isinstance(error, (UsageError, RunFailure, MemoryError)) or (
                type(error).__name__ == "ResourceExhaustedError"):
            raise
        said = error.msg if isinstance(error, SyntaxError) else str(error)
        said = " ".join(re.sub(r"\x1b\[[\d;]*m", "", said).split("Arguments received by")[0].split())
        raise UsageError(f"{what}: {at(_raised_at(error, place))}: {type(error).__name__}{': ' * bool(said)}{said}"
                         ) from error


def _raised_at(error, place):
    """Returns (file, line) in the user's code at which an error was raised: the innermost, else `place`."""
    if isinstance(error, SyntaxError) and error.filename:
        return error.filename, error.lineno
    trace, found, folder = error.__traceback__, place, os.path.dirname(os.path.realpath(place[0]))
    while trace:
        file = trace.tb_frame.f_code.co_filename
        if file == place[0] or (file.endswith(".py") and is_below(file, folder)):
            found = file, trace.tb_lineno
        trace = trace.tb_next
    return found
