"""Writes that survive a power cut and a full disk, and reads of files that others may have edited."""
import codecs
import contextlib
import errno
import hashlib
import json
import math
import os
from collections.abc import Iterable
from typing import Any

import platformdirs

from pipeline.errors import UsageError

NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
NO_SYNC = (errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP)  # Of file systems without fsync, mostly of folders.


def default_cache_dir() -> str:
    """Returns the folder of what can be made again, indexes and measurements: ~/.cache/mirrorline.

    For a user without a home directory it is one that cannot be written, and nothing is cached.
    """
    try:
        return platformdirs.user_cache_dir("mirrorline")
    except RuntimeError:  # It has no home directory.
        return os.path.join(os.devnull, "mirrorline")


def no_room(error: object) -> int | None:
    """Returns the errno (ENOSPC, EDQUOT, EFBIG) of an error because of a full disk, None for any other.

    TensorFlow's errors have no errno, and share a class with others (ResourceExhaustedError also means full device
    memory): they are recognized by the system's message, which they contain.
    """
    if isinstance(error, OSError):
        return error.errno if error.errno in NO_ROOM else None
    return next((number for number in NO_ROOM if os.strerror(number) in str(error)), None)


def sync(path: str) -> None:
    """Makes the bytes of a file, or the names in a directory, durable (fsync)."""
    handle = os.open(path, os.O_RDONLY)
    try:
        sync_open(handle)
    finally:
        os.close(handle)


def sync_open(handle: int) -> None:
    """Makes the bytes of an open file or folder durable, on a file system that has fsync."""
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno not in NO_SYNC:
            raise


def write_json(path: str, value: Any) -> None:
    """Writes JSON under a temporary name, syncs, renames: readers see the old or the new file, complete."""
    write_text(path, json.dumps(plain(value), indent=2, allow_nan=False) + "\n")


def write_text(path: str, text: str) -> None:
    """Writes a text file as `write_json` does."""
    write_bytes(path, text.encode())


def write_bytes(path: str, data: bytes) -> None:
    """Writes a binary file as `write_json` does."""
    temporary = f"{path}.tmp"
    try:
        with open(temporary, "wb") as file:
            file.write(data)
            file.flush()
            sync_open(file.fileno())
        os.replace(temporary, path)
    except OSError:
        with contextlib.suppress(OSError):
            os.remove(temporary)  # On a full disk it takes space that is needed.
        raise
    sync(os.path.dirname(os.path.abspath(path)))


def plain(value: Any) -> Any:
    """Replaces what JSON cannot hold: tuples become lists, NaN and infinities null."""
    if isinstance(value, dict):
        return {key: plain(v) for key, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(v) for v in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def read_text(path: str) -> str:
    """Returns the text of a UTF-8 file, with or without a byte order mark.

    Raises:
      FileNotFoundError: there is no such file.
      UsageError: it cannot be read, or is not text; one line with its path.
    """
    try:
        with open(path, "rb") as file:
            data = file.read()
    except (FileNotFoundError, NotADirectoryError):
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), path) from None
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {(error.strerror or str(error)).lower()}") from error
    try:
        return decode(data)
    except ValueError as error:
        raise UsageError(f"{path} cannot be read: {error}") from None


def decode(data: bytes) -> str:
    """Decodes UTF-8, with or without a byte order mark; raises ValueError that names the line."""
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
            raise ValueError("it is text in UTF-16; save it as UTF-8") from None
        line = data.count(b"\n", 0, error.start) + 1
        raise ValueError(f"line {line} is not text in UTF-8; save it as UTF-8") from None
    if "\0" in text:
        raise ValueError(f"line {text.count(chr(10), 0, text.index(chr(0))) + 1} is not text")
    return text


def read_json(path: str, keys: Iterable[str] | None = None) -> Any:
    """Returns the value of a JSON file, or None without one.

    Args:
      path: of the file.
      keys: names that the value, an object, must have; None: any value.

    Raises:
      UsageError: it cannot be read, or has another content; one line with the place.
    """
    try:
        value = parse_json(read_text(path))
    except FileNotFoundError:
        return None
    except ValueError as error:
        raise UsageError(f"{path} cannot be read: {error}; correct it, or restore it from a copy") from None
    if keys is None:
        return value
    if not isinstance(value, dict):
        raise UsageError(f"{path} cannot be read: it is no JSON object")
    missing = [key for key in keys if key not in value]
    if missing:
        raise UsageError(f"{path} cannot be read: it has no '{missing[0]}'")
    return value


def read_cached_json(path: str) -> Any:
    """Returns the value of a JSON file that can be made again, or None if it is missing or cannot be read."""
    with contextlib.suppress(UsageError):
        return read_json(path)
    return None


def parse_json(text: str) -> Any:
    """Parses JSON; raises ValueError with line and column."""
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise ValueError(f"line {error.lineno}, column {error.colno}: {error.msg}") from None
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def sha256(path: str) -> str:
    """Returns the SHA-256 of a file as hex."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
