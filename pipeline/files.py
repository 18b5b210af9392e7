"""Writing that survives a power cut and a full disk, and reading of what others may have edited."""
import codecs
import contextlib
import errno
import hashlib
import json
import math
import os

from pipeline.errors import UsageError

NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def no_room(error):
    """Returns the number (ENOSPC, EDQUOT, EFBIG) of an error that says that the disk is full, None of any other.

    TensorFlow's errors have no number, and a class that others share (ResourceExhaustedError is also raised where the
    memory of a device is full): they are known by the system's words, which they carry.
    """
    if isinstance(error, OSError):
        return error.errno if error.errno in NO_ROOM else None
    return next((number for number in NO_ROOM if os.strerror(number) in str(error)), None)


def sync(path):
    """Makes the bytes of a file, or the names in a directory, durable (fsync)."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def write_json(path, value):
    """Writes JSON under a temporary name, syncs, renames: a reader sees the old file or the new one, whole."""
    write_text(path, json.dumps(plain(value), indent=2, allow_nan=False) + "\n")


def write_text(path, text):
    """Writes a text file as `write_json` does: whole or not at all."""
    write_bytes(path, text.encode())


def write_bytes(path, data):
    """Writes a file of bytes as `write_json` does: whole or not at all."""
    temporary = f"{path}.tmp"
    try:
        with open(temporary, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError:
        with contextlib.suppress(OSError):
            os.remove(temporary)  # On a full disk it would take the room that is needed.
        raise
    sync(os.path.dirname(os.path.abspath(path)))


def plain(value):
    """Returns a value with what JSON cannot hold replaced: tuples become lists, NaN and infinities null."""
    if isinstance(value, dict):
        return {key: plain(v) for key, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(v) for v in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def read_text(path):
    """Returns the text of a file in UTF-8, with or without a byte order mark.

    Raises:
      FileNotFoundError: there is no such file.
      UsageError: it cannot be read, or is no text; in one line that names it.
    """
    try:
        with open(path, "rb") as file:
            data = file.read()
    except (FileNotFoundError, NotADirectoryError):
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), path) from None
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror.lower()}") from error
    try:
        return decode(data)
    except ValueError as error:
        raise UsageError(f"{path} cannot be read: {error}") from None


def decode(data):
    """Returns the text of bytes in UTF-8, with or without a byte order mark; raises ValueError that says where not."""
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


def read_json(path, keys=None):
    """Returns the value in a JSON file, or None where there is none.

    Args:
      path: of the file.
      keys: names that the value, an object, needs to have; None: it may be any value.

    Raises:
      UsageError: it cannot be read, or is not that; says in one line where and why.
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


def read_cached_json(path):
    """Returns the value in a JSON file that can be made again, or None where there is none or it cannot be read."""
    with contextlib.suppress(UsageError):
        return read_json(path)
    return None


def parse_json(text):
    """Returns the value of JSON; raises ValueError that says line and column of what is wrong."""
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise ValueError(f"line {error.lineno}, column {error.colno}: {error.msg}") from None
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def sha256(path):
    """Returns the SHA-256 of a file's bytes as hex."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
