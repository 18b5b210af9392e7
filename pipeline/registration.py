"""Registers what users add under a name, and reports errors of their code with its location. Standard library only."""
import contextlib
import os
import re
import sys
from collections.abc import Collection, Iterator
from typing import Any

from pipeline.errors import RunFailure, UsageError

OURS = ("pipeline", "launch", "flags", "recipes")
HERE = os.path.dirname(os.path.dirname(os.path.realpath(__file__)))
INSTALLED = ("site-packages", "dist-packages")
Location = tuple[str, int]  # (file, line)


def is_below(path: str, folder: str) -> bool:
    """Tells whether a file is in a folder or deeper, and neither in this package nor in an installed one."""
    part = os.path.relpath(os.path.realpath(path), folder)
    return not set(part.split(os.sep)) & {os.pardir, *INSTALLED} and (
        os.path.relpath(os.path.realpath(path), HERE).split(os.sep)[0] not in OURS)


def enter(table: dict[str, Any], kind: str, name: str, value: Any, built_in: Collection[str]) -> None:
    """Enters a user's object into the table of its kind.

    Args:
      table: {name: value}; values have the attributes `location`, (file, line) of the registration, and `origin`, the
        registered object.
      kind: "model" or "data set", for messages.
      name: letters, digits, `_`, `.` and `-`.
      value: the new entry.
      built_in: reserved names.

    Raises:
      UsageError: an invalid, built-in or used name.
    """
    where = format_location(value.location)
    if not isinstance(name, str) or not re.fullmatch(r"[A-Za-z_][\w.-]*", name):
        raise UsageError(f"{where}: {name!r} cannot be the name of a {kind}: give letters, digits, _, . and -")
    if name in built_in:
        raise UsageError(f"{where}: {kind} '{name}' is built in: give yours another name")
    before = table.get(name)
    # A notebook's cell may run again; the same line may be imported again.
    if before and before.location != value.location and value.origin.__module__ != "__main__":
        raise UsageError(f"{where}: {kind} '{name}' is registered already, in {format_location(before.location)}: give "
                         "one of them another name")
    table[name] = value


def caller_location(depth: int = 1) -> Location:
    """Returns (file, line) of the caller of the function that calls this one, or of `depth` callers further up."""
    frame = sys._getframe(depth + 1)
    return frame.f_code.co_filename, frame.f_lineno


def format_location(location: Location) -> str:
    """Returns a location as text."""
    return f"{location[0]}, line {location[1]}"


@contextlib.contextmanager
def raise_with_location(what: str, location: Location) -> Iterator[None]:
    """Turns what a user's code raises into a UsageError of one line with its location.

    Full memory is not the fault of their code, and UsageError and RunFailure pass unchanged.

    Args:
      what: names the user's object.
      location: (file, line), used for errors that were not raised in the folder of that file.
    """
    try:
        yield
    except (Exception, SystemExit) as error:
        if isinstance(error, (UsageError, RunFailure, MemoryError)) or (
                type(error).__name__ == "ResourceExhaustedError"):
            raise
        text = error.msg if isinstance(error, SyntaxError) else str(error)
        text = " ".join(re.sub(r"\x1b\[[\d;]*m", "", text).split("Arguments received by")[0].split())
        where = format_location(_innermost_location(error, location))
        raise UsageError(f"{what}: {where}: {type(error).__name__}{': ' * bool(text)}{text}") from error


def _innermost_location(error: BaseException, location: Location) -> Location:
    """Returns the innermost (file, line) of the user's code in an error's traceback, else `location`."""
    if isinstance(error, SyntaxError) and error.filename:
        return error.filename, error.lineno or 0
    trace, found, folder = error.__traceback__, location, os.path.dirname(os.path.realpath(location[0]))
    while trace:
        file = trace.tb_frame.f_code.co_filename
        if file == location[0] or (file.endswith(".py") and is_below(file, folder)):
            found = file, trace.tb_lineno
        trace = trace.tb_next
    return found
