"""Locks between processes: the kernel's (flock), or on a file system without it a file that names its owner.

The kernel's lock of a dead process is gone with the process. Some file systems have none and say so (Lustre without
-o flock, NFS without its lock daemon, some of FUSE); they have no lockf either. There a second file, made only where
none is (O_EXCL), names the process that has the lock. One left by a process that ended is removed where that can be
known: by processes of the same start of the same machine. Standard library only.
"""
import contextlib
import errno
import fcntl
import json
import os
import socket
import sys
import tempfile
import time

from pipeline.errors import UsageError
from pipeline.files import read_json

UNSUPPORTED = (errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP)
OWNER = ".owner"
LOCK = ".lock"
FILES = frozenset((LOCK, LOCK + OWNER))  # Of a folder that is locked; they are nobody's work.
POLL_SECONDS = 0.05
_warned: set[int] = set()  # Devices of which a line has said that they have no flock.


class Held(Exception):
    """Another process has the lock; the text names it."""


class Lock:
    """A lock that this process has until `close`, or until it ends.

    Attributes:
      path: of the lock's file.
    """

    def __init__(self, path, file, owner=None):
        """Use `acquire`. Args: file: open file; owner: path of the file that names this process, None under flock."""
        self.path, self._file, self._owner = path, file, owner

    def is_held(self):
        """Tells whether this process still has it, and the file is at its path; true once it was given back."""
        return self._file.closed or _is_there(self._file, self.path)

    def close(self):
        """Lets others have it."""
        if self._owner:
            with contextlib.suppress(OSError):
                os.remove(self._owner)
        self._owner = None
        self._file.close()

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self.close()


def acquire(path, wait=False):
    """Takes the lock of a file, which is made.

    Args:
      path: of the file.
      wait: whether to wait for another process that has it.

    Returns:
      Lock.

    Raises:
      Held: another process has it; not with `wait`.
      OSError: the file cannot be made or written.
    """
    while True:
        file = open(path, "a+", encoding="utf-8")  # noqa: SIM115
        try:
            owner = _lock(file, path, wait)
            # Who had it may have removed the file: that is no lock any more.
            if _is_there(file, path):
                _sign(file)
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


def missing(folder):
    """Returns why files in a folder cannot be locked by flock, in the system's words, or None where they can.

    Raises:
      OSError: no file can be made there.
    """
    with tempfile.TemporaryFile(dir=folder) as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            return error.strerror
    return None


def _lock(file, path, wait):
    """Locks an open file; returns the path of the file that names this process, None under flock."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        return None
    except BlockingIOError:
        file.seek(0)
        raise Held(file.read().strip() or "another process") from None
    except OSError as error:
        if error.errno not in UNSUPPORTED:
            raise
        _warn_missing(file, path, error)
        return _own(path + OWNER)


def _own(path):
    """Makes the file that names this process as the owner of a lock; raises Held where another is there."""
    found, there = _owner(path), os.path.lexists(path)
    if there and found and _has_ended(found):
        _remove_ended(path, found)
    try:
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
    except FileExistsError:
        known = _owner(path)
        name = f"process {known['process']} on {known['host']}" if known else "another process"
        raise Held(name if known and _is_here(known) else f"{name} (where it has ended, remove {path})") from None
    try:
        with open(handle, "w", encoding="utf-8") as file:
            json.dump(_this_process(), file)
    except OSError:
        os.remove(path)
        raise
    return path


def _owner(path):
    """Returns what a file says of the owner of a lock, None where nothing can be read from it."""
    with contextlib.suppress(UsageError, OSError):
        return read_json(path, ("process", "started", "host", "machine"))
    return None


def _remove_ended(path, found):
    """Removes what a process that has ended left, unless another has taken its place since it was read."""
    aside = f"{path}.{os.getpid()}"
    with contextlib.suppress(FileNotFoundError):
        os.rename(path, aside)
        if _owner(aside) != found:
            with contextlib.suppress(FileExistsError):
                os.link(aside, path)
        os.remove(aside)


def _this_process():
    return {"process": os.getpid(), "started": _started(os.getpid()), "host": socket.gethostname(),
            "machine": _machine()}


def _is_here(owner):
    """Tells whether the owner of a lock can be looked for: it is of this start of this machine."""
    return owner["machine"] == _machine() and owner["machine"] is not None


def _has_ended(owner):
    return _is_here(owner) and _started(owner["process"]) != owner["started"]


def _machine():
    """Returns what distinguishes this start of this machine, and the processes seen from here; None where unknown."""
    try:
        with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as file:
            return f"{file.read().strip()} {os.stat('/proc/self/ns/pid').st_ino}"
    except OSError:
        return None


def _started(process):
    """Returns when a process was started, in the kernel's ticks since the machine was; None where there is none."""
    try:
        with open(f"/proc/{process}/stat", encoding="utf-8", errors="replace") as file:
            return int(file.read().rpartition(")")[2].split()[19])
    except (OSError, IndexError, ValueError):
        return None


def _is_there(file, path):
    with contextlib.suppress(FileNotFoundError, NotADirectoryError):
        return os.path.samestat(os.fstat(file.fileno()), os.stat(path))
    return False


def _sign(file):
    """Writes into a locked file who has it, where the disk has room."""
    with contextlib.suppress(OSError):
        os.truncate(file.fileno(), 0)
        os.pwrite(file.fileno(), f"process {os.getpid()} on {socket.gethostname()}\n".encode(), 0)


def _warn_missing(file, path, error):
    """Says once of a file system that it has no flock."""
    device = os.fstat(file.fileno()).st_dev
    if device not in _warned:
        _warned.add(device)
        print(f"the file system of {os.path.dirname(os.path.abspath(path))} has no flock ({error.strerror.lower()}): "
              f"{os.path.basename(path)}{OWNER} keeps other processes out instead", file=sys.stderr)
