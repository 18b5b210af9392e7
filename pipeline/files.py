"""Writing that survives a power cut: what has a final name is whole and on disk."""
import hashlib
import json
import math
import os


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
    temporary = f"{path}.tmp"
    with open(temporary, "w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)
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
