"""The folders of exports. A version is published whole and verified, under a number of its own.

    OUTPUT/<format>/<version>/            published: never changed again
    OUTPUT/<format>/<version>.unproved/   being written and verified, or outside its tolerance
    OUTPUT/reports/<version>/             the verification of all formats of that version

TensorFlow Serving reads folders whose names are numbers, and no others. Standard library only.
"""
import contextlib
import os
import re
import shutil
from collections.abc import Iterator, Sequence
from typing import Any

from pipeline.choices import EXPORT_FORMATS
from pipeline.errors import RunFailure
from pipeline.files import sync
from pipeline.locks import FILES, LOCK, Held, acquire

UNPROVED = ".unproved"
REPORTS = "reports"


class Staging:
    """The folders of one export, from its claim to its publication; made by `claimed`.

    Attributes:
      output: folder that all exports of a model share.
      version: int, the number of this export in every format.
      replaced: paths of unverified leftovers of ended exports, which were removed.
    """

    def __init__(self, output: str, names: Sequence[str]):
        """Makes the folders under a lock; raises OSError where one cannot be made."""
        self.output, self._names = output, tuple(names)
        self._lock: Any = None
        self._made = _make(output)
        with _locked(output):
            self.replaced = _remove_leftovers(output)
            self.version = max((version for _, version, _ in _entries(output)), default=0) + 1
            try:
                for path in self._folders():
                    os.makedirs(path)
                self._lock = acquire(os.path.join(self.report, LOCK))
            except OSError:
                self._remove_files()
                self._remove_parents()
                raise

    def folder(self, name: str) -> str:
        """Returns the path of a format's folder until it is published."""
        return os.path.join(self.output, name, f"{self.version}{UNPROVED}")

    @property
    def report(self) -> str:
        """Path of the report's folder until it is published."""
        return os.path.join(self.output, REPORTS, f"{self.version}{UNPROVED}")

    def published(self, name: str) -> str:
        """Returns the path of a format, or of REPORTS, once it is published."""
        return os.path.join(self.output, name, str(self.version))

    def publish(self, names: Sequence[str]) -> None:
        """Gives formats, and the report if there are any, their final names, each synced to disk before.

        Raises:
          RunFailure: something that is no export has that name.
        """
        with _locked(self.output):
            for name in (*names, *([REPORTS] if names else [])):
                source = self.report if name == REPORTS else self.folder(name)
                for file in FILES:
                    with contextlib.suppress(FileNotFoundError):
                        os.remove(os.path.join(source, file))
                _rename(source, self.published(name))
            self._release()

    def remove(self) -> None:
        """Removes what is not published, and the folders of formats that are empty then."""
        self._remove_files()  # First: a full disk may have no room for a lock.
        with _locked(self.output):
            self._remove_parents()

    def _remove_files(self) -> None:
        for path in self._folders():
            shutil.rmtree(path, ignore_errors=True)
        self._release()

    def _remove_parents(self) -> None:
        for path in self._folders():
            with contextlib.suppress(OSError):
                os.rmdir(os.path.dirname(path))

    def _folders(self) -> list[str]:
        return [*(self.folder(name) for name in self._names), self.report]  # The lock is in the last one.

    def _release(self) -> None:
        if self._lock:
            self._lock.close()
        self._lock = None

    def close(self) -> None:
        """Releases the claim: what is not published then is a leftover, which the next export may remove."""
        self._release()
        for path in reversed(self._made):
            with contextlib.suppress(OSError):
                os.rmdir(path)


@contextlib.contextmanager
def claimed(output: str, names: Sequence[str]) -> Iterator[Staging]:
    """Claims a version for an export; yields its Staging, whose arguments these are.

    An exception, such as Ctrl-C or a full disk, leaves nothing but what was published.
    """
    staging = Staging(output, names)
    try:
        yield staging
    except BaseException:
        staging.remove()
        raise
    finally:
        staging.close()


def _make(path: str) -> list[str]:
    """Makes a folder; returns the paths of all folders that were made, outermost first."""
    missing, parent = [], os.path.abspath(path)
    while not os.path.lexists(parent):
        missing.append(parent)
        parent = os.path.dirname(parent)
    os.makedirs(path, exist_ok=True)
    return missing[::-1]


@contextlib.contextmanager
def _locked(output: str) -> Iterator[None]:
    """Lets other exports into the same folder wait; leaves no file behind."""
    path = os.path.join(output, LOCK)
    with acquire(path, wait=True):
        try:
            yield
        finally:
            os.remove(path)


def _entries(output: str) -> Iterator[tuple[str, int, bool]]:
    """Yields (path, version, whether it is published) of every version of every format, and of the reports."""
    for name in (*EXPORT_FORMATS, REPORTS):
        folder = os.path.join(output, name)
        for entry in os.listdir(folder) if os.path.isdir(folder) else ():
            match = re.fullmatch(rf"(\d+)({re.escape(UNPROVED)})?", entry)
            if match:
                yield os.path.join(folder, entry), int(match[1]), match[2] is None


def _remove_leftovers(output: str) -> list[str]:
    """Removes unverified leftovers of ended processes; returns the paths. Needs the folder's lock."""
    removed = []
    unproved = [(path, version) for path, version, published in _entries(output) if not published]
    ended = {version for version in {version for _, version in unproved} if not _is_alive(output, version)}
    for path, version in unproved:
        if version in ended:
            shutil.rmtree(path)
            removed.append(path)
    return sorted(removed)


def _is_alive(output: str, version: int) -> bool:
    """Returns whether a process works on a version. Needs the folder's lock."""
    path = os.path.join(output, REPORTS, f"{version}{UNPROVED}", LOCK)
    if not os.path.exists(path):
        return False
    try:
        acquire(path).close()
    except Held:
        return True
    return False


def _rename(source: str, target: str) -> None:
    """Syncs everything in a folder to disk and gives the folder its final name."""
    for parent, _, names in os.walk(source):
        for path in (*(os.path.join(parent, name) for name in names), parent):
            sync(path)
    if os.path.lexists(target):  # A rename would replace an empty folder.
        raise RunFailure(f"{target} exists already, and is no export; the files are in {source}")
    os.rename(source, target)
    sync(os.path.dirname(target))
