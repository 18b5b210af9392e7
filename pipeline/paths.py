"""Checks and converts paths from users, and protects them from TensorFlow's patterns. Standard library only."""
import contextlib
import os
import re
import stat
import tempfile
from collections.abc import Iterator

from pipeline.errors import UsageError

LONGEST_SUFFIX = ".partial"  # Of incomplete files.
SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://")
# How a PNG file begins, and what matplotlib writes into its first bytes.
PNG, DRAWN, DRAWN_WITHIN = b"\x89PNG\r\n\x1a\n", b"Matplotlib", 1024
PATTERN = frozenset("*?[]\\")  # Special to TensorFlow's matching of file names (fnmatch).


@contextlib.contextmanager
def literal(path: str) -> Iterator[str]:
    """Gives another path of the same file or folder, in which TensorFlow finds no pattern.

    TensorFlow uses the path of a checkpoint as a pattern: it does not find the run `lr=[1e-3]` that it has written, and
    removing old checkpoints of `lr=[12]` it removes those of `lr=1`. An open folder has a path without such characters,
    /proc/self/fd/NUMBER, until it is closed.

    Args:
      path: of a folder, a file or a checkpoint (without suffix) in an existing folder.

    Yields:
      The path for TensorFlow, valid in this block and process; `path` itself if it has no pattern, or the system no
      /proc.
    """
    if not PATTERN.intersection(path):
        yield path
        return
    folder, name = (path, "") if os.path.isdir(path) else os.path.split(path)
    try:
        handle = os.open(folder or os.curdir, os.O_RDONLY | os.O_DIRECTORY)
    except OSError:
        yield path  # TensorFlow reports best what is missing.
        return
    try:
        opened = f"/proc/self/fd/{handle}"
        yield os.path.join(opened, name) if os.path.isdir(opened) else path
    finally:
        os.close(handle)


def local_path(text: str | os.PathLike[str], flag: str = "", any_bytes: bool = False) -> str:
    """Returns a user's path with `~` expanded and without a trailing slash.

    Variables (`$HOME`) are expanded by the shell only.

    Args:
      text: as given.
      flag: for the message, such as "--workdir".
      any_bytes: accept a name that is not UTF-8, which TensorFlow does not.

    Raises:
      UsageError: an empty path, an address (gs://...) or an unknown home directory.
    """
    path, given = os.fspath(text), f"{flag}={text}" if flag else f"'{text}'"
    if not path.strip():
        raise UsageError(f"{flag or 'a path'} is empty: give a path")
    if "\0" in path:
        raise UsageError(f"{flag or 'a path'} holds a zero byte: give a path")
    address = SCHEME.match(path)
    if address:
        bare = path[address.end():]
        remedy = f"give {bare}" if address[1].lower() == "file" and bare.startswith("/") else (
            "copy it to a local folder, or mount it and give that folder")
        raise UsageError(f"{given} is an address, and only local paths work here: {remedy}")
    if path.startswith("~"):
        path = os.path.expanduser(path)
        if path.startswith("~"):
            raise UsageError(f"{given}: there is no home directory {path.partition('/')[0]}; for a name that begins so "
                             f"give ./{path}")
    if not any_bytes:
        try:
            path.encode()
        except UnicodeEncodeError:
            raise UsageError(f"{flag or 'a path'} is not in UTF-8 ({os.fsencode(path)!r}), which TensorFlow needs: "
                             "rename it") from None
    return path.rstrip("/") or "/"


def folder_obstacle(folder: str) -> str | None:
    """Returns why no file can be written into a folder, which need not exist, or None; leaves nothing behind."""
    try:
        if not stat.S_ISDIR(os.stat(folder).st_mode):
            return "it is a file, not a folder"
    except FileNotFoundError:
        if os.path.islink(folder):
            return "it is a broken link"
    except OSError as error:
        return (error.strerror or str(error)).lower()
    missing, parent = [], os.path.abspath(folder)
    while not os.path.lexists(parent):
        missing.append(parent)
        parent = os.path.dirname(parent)
    try:
        os.makedirs(folder, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            return None
    except OSError as error:
        return (error.strerror or str(error)).lower()
    finally:
        for path in missing:
            with contextlib.suppress(OSError):
                os.rmdir(path)


def check_folder(flag: str, path: str) -> None:
    """Raises UsageError if files cannot be written into a folder, which need not exist; leaves nothing behind."""
    problem = folder_obstacle(path)
    if problem:
        raise UsageError(f"{flag}={path} cannot be written: {problem}; give a folder of your own that exists or can "
                         "be created")


# Files of runs, sweeps and benchmarks that no other output may replace.
RECORDS = ("config.json", "metrics.jsonl", "launches.jsonl", "attempts.jsonl", "result.json", "sweep.json",
           "benchmark.json")


def check_file(flag: str, path: str) -> None:
    """Raises UsageError if a file cannot be written, before anything is computed; leaves nothing behind."""
    if is_special(path):
        return
    folder = os.path.dirname(path) or os.curdir
    problem = None
    try:
        os.lstat(path + LONGEST_SUFFIX)
    except FileNotFoundError:
        if not os.path.isdir(folder):
            problem = f"there is no folder '{folder}'"
    except OSError as error:
        problem = (error.strerror or str(error)).lower()
    problem = problem or ("it is a folder" if os.path.isdir(path) else folder_obstacle(folder))
    if not problem and os.path.basename(path) in RECORDS and os.path.exists(path):
        raise UsageError(f"{flag}={path} would replace the record of a run, a sweep or a benchmark; give another file")
    if problem:
        raise UsageError(f"{flag}={path} cannot be written: {problem}; give a file in a directory that exists")


def check_drawing(flag: str, path: str) -> None:
    """Raises UsageError if a drawing cannot be written into a file, or would replace another PNG image."""
    check_file(flag, path)
    if not os.path.isfile(path):
        return
    with open(path, "rb") as file:
        first = file.read(DRAWN_WITHIN)
    if first.startswith(PNG) and DRAWN not in first:
        raise UsageError(f"{flag}={path} is an image that was not drawn here, and would be lost: give another file, or "
                         "remove it first")


def is_special(path: str) -> bool:
    """Tells whether a path is a pipe or a device, which is not replaced when it is written."""
    return os.path.exists(path) and not os.path.isfile(path) and not os.path.isdir(path)
