"""Writing that survives a power cut: what has a final name is whole and on disk."""
import hashlib
import json
import os


def sync_directory(path):
    """Makes the names in a directory durable (fsync of the directory)."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def sync_file(path):
    """Makes the bytes of a file durable (fsync)."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def write_json(path, value):
    """Writes JSON under a temporary name, syncs, renames: a reader sees the old file or the new one, whole."""
    temporary = f"{path}.tmp"
    with open(temporary, "w", encoding="utf-8") as file:
        json.dump(value, file, indent=2, default=list)
        file.write("\n")
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)
    sync_directory(os.path.dirname(os.path.abspath(path)))


def read_json(path):
    """Returns the value in a JSON file, or None where there is none or it is torn."""
    try:
        with open(path, encoding="utf-8") as file:
            return json.load(file)
    except (OSError, ValueError):
        return None


def sha256(path):
    """Returns the SHA-256 of a file's bytes as hex."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
