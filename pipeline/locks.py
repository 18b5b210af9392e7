"""Locks between processes: flock, or on a file system without it a file that names its owner.

The kernel releases the lock of a dead process. Some file systems have no flock and report it (Lustre without -o flock,
NFS without its lock daemon, some of FUSE); they have no lockf either. There a second file, created exclusively, names
the process that holds the lock. One left by a dead process is removed if that can be known: by processes of the same
boot of the same machine. Standard library only.
"""
import contextlib
import errno
import fcntl
import json
import os
import pathlib
import socket
import tempfile
import time
from typing import Any, Self, TextIO

from pipeline.console import STANDARD
from pipeline.errors import UsageError
from pipeline.files import read_json

UNSUPPORTED = (errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP)
OWNER = ".owner"
LOCK = ".lock"
FILES = frozenset((LOCK, LOCK + OWNER))  # Files of a locked folder that are not part of its content.
POLL_SECONDS = 0.05
_warned: set[int] = set()  # Devices without flock of which a warning was written.


class Held(Exception):
    """Another process holds the lock; the text names it."""


class Lock:
    """A lock on the file `path` that this process holds until `close`, or until it ends."""

    def __init__(self, path: str, file: TextIO, owner: str | None = None):
        """Use `acquire`. Args: file: open file; owner: path of the file that names this process, None with flock."""
        self.path, self._file, self._owner = path, file, owner

    def is_held(self) -> bool:
        """Tells whether this process still holds it, and the file is at its path; true after `close`."""
        return self._file.closed or _is_current(self._file, self.path)

    def close(self) -> None:
        """Releases the lock."""
        if self._owner:
            with contextlib.suppress(OSError):
                os.remove(self._owner)
        self._owner = None
        self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()


def acquire(path: str, wait: bool = False) -> Lock:
    """Acquires the lock of a file, which is created; with `wait`, after any process that holds it.

    Raises:
      Held: another process holds it; not with `wait`.
      OSError: the file cannot be created or written.
    """
    while True:
        file = open(path, "a+", encoding="utf-8")  # noqa: SIM115
        try:
            owner = _lock(file, path, wait)
            # The process that held it may have removed the file, which is then no lock any more.
            if _is_current(file, path):
                with contextlib.suppress(OSError):  # The disk may be full.
                    os.truncate(file.fileno(), 0)
                    os.pwrite(file.fileno(), f"process {os.getpid()} on {socket.gethostname()}\n".encode(), 0)
                return Lock(path, file, owner)
            if owner:
                os.remove(owner)
        except Held:
            file.close()
            if not wait:
                raise
            time.sleep(POLL_SECONDS)
            continue
        except BaseException:
            file.close()
            raise
        file.close()


def missing(folder: str) -> str | None:
    """Returns the system's reason why files in a folder cannot be locked by flock, or None.

    Raises:
      OSError: no file can be created there.
    """
    with tempfile.TemporaryFile(dir=folder) as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            return error.strerror
    return None


def _lock(file: TextIO, path: str, wait: bool) -> str | None:
    """Locks an open file; returns the path of the file that names this process, None with flock."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        return None
    except BlockingIOError:
        file.seek(0)
        raise Held(file.read().strip() or "another process") from None
    except OSError as error:
        if error.errno not in UNSUPPORTED:
            raise
        device = os.fstat(file.fileno()).st_dev
        if device not in _warned:
            _warned.add(device)
            STANDARD.warning(f"the file system of {os.path.dirname(os.path.abspath(path))} has no flock "
                             f"({os.strerror(error.errno).lower()}): {os.path.basename(path)}{OWNER} keeps other "
                             "processes out instead")
        return _create_owner(path + OWNER)


def _create_owner(path: str) -> str:
    """Creates the file that names this process as the owner of a lock; raises Held if there is another."""
    found = _read_owner(path)
    # Of a process of this boot that has ended.
    if found and _is_local(found) and _start_of(found["process"]) != found["started"] and os.path.lexists(path):
        _remove_owner(path, found)
    try:
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
    except FileExistsError:
        known = _read_owner(path)
        name = f"process {known['process']} on {known['host']}" if known else "another process"
        raise Held(name if known and _is_local(known) else f"{name} (where it has ended, remove {path})") from None
    try:
        with open(handle, "w", encoding="utf-8") as file:
            json.dump({"process": os.getpid(), "started": _start_of(os.getpid()), "host": socket.gethostname(),
                       "machine": _machine()}, file)
    except OSError:
        os.remove(path)
        raise
    return path


def _read_owner(path: str) -> dict[str, Any] | None:
    """Returns the content of an owner file, None where it cannot be read."""
    with contextlib.suppress(UsageError, OSError):
        return read_json(path, ("process", "started", "host", "machine"))
    return None


def _remove_owner(path: str, found: dict[str, Any]) -> None:
    """Removes the owner file of a process that has ended, unless another has replaced it since it was read."""
    aside = f"{path}.{os.getpid()}"
    with contextlib.suppress(FileNotFoundError):
        os.rename(path, aside)
        if _read_owner(aside) != found:
            with contextlib.suppress(FileExistsError):
                os.link(aside, path)
        os.remove(aside)


def _is_local(owner: dict[str, Any]) -> bool:
    """Tells whether the process of an owner file would be visible here: it is of this boot of this machine."""
    return owner["machine"] == _machine() and owner["machine"] is not None


def _machine() -> str | None:
    """Returns an id of this boot of this machine and of the visible processes; None where it is unknown."""
    with contextlib.suppress(OSError):
        boot = pathlib.Path("/proc/sys/kernel/random/boot_id").read_text("ascii").strip()
        return f"{boot} {os.stat('/proc/self/ns/pid').st_ino}"
    return None


def _start_of(process: int) -> int | None:
    """Returns the start of a process in kernel ticks since the boot; None for an unknown process.

    psutil adds the time of the boot, which moves with the clock: the start of a running process would change.
    """
    with contextlib.suppress(OSError, IndexError, ValueError):
        text = pathlib.Path(f"/proc/{process}/stat").read_text("utf-8", "replace")
        return int(text.rpartition(")")[2].split()[19])
    return None


def _is_current(file: TextIO, path: str) -> bool:
    """Tells whether an open file is still the one at its path."""
    with contextlib.suppress(FileNotFoundError, NotADirectoryError):
        return os.path.samestat(os.fstat(file.fileno()), os.stat(path))
    return False
