"""Writing that survives a power cut and a full disk: what has a final name is whole and on disk."""
import contextlib
import errno
import hashlib
import json
import math
import os

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


def read_json(path):
    """Returns the value in a JSON file, or None where there is none or it is torn."""
    try:
        with open(path, encoding="utf-8") as file:
            return json.load(file)
    except (FileNotFoundError, NotADirectoryError, ValueError):
        return None


def sha256(path):
    """Returns the SHA-256 of a file's bytes as hex."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
