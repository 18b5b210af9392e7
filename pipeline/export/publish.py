"""Where exports lie, and how one gets there: whole, proved and under a number that nobody else has.

    OUTPUT/<form>/<version>/            published: never changed again
    OUTPUT/<form>/<version>.unproved/   being written and proved, or found wanting
    OUTPUT/reports/<version>/           what the proof of all forms of that version found

TensorFlow Serving looks at folders whose names are numbers, and at no others. Standard library only.
"""
import contextlib
import os
import re
import shutil

from pipeline.errors import RunFailure
from pipeline.export.formats import FORMS
from pipeline.files import sync
from pipeline.locks import FILES, LOCK, Held, acquire

UNPROVED = ".unproved"
REPORTS = "reports"


class Staging:
    """The folders of one export, from its claim to its publication; made by `claimed`.

    Attributes:
      output: folder that all exports of a model share.
      version: int, the number of this export in every form.
      replaced: paths of what exports that have ended had left without a proof, and which is gone now.
    """

    def __init__(self, output, names):
        """
        Args:
          output: folder, made where it is not there.
          names: of the forms (keys of FORMS) that are going to be written.

        Raises:
          OSError: a folder cannot be made.
        """
        self.output, self._names, self._lock = output, tuple(names), None
        self._made = _make(output)
        with _locked(output):
            self.replaced = _remove_leftovers(output)
            self.version = max(_versions(output), default=0) + 1
            try:
                for path in self._folders():
                    os.makedirs(path)
                self._lock = acquire(os.path.join(self.report, LOCK))
            except OSError:
                self._remove_files()
                self._remove_parents()
                raise

    def folder(self, name):
        """Returns the path of a form's folder until it is published."""
        return os.path.join(self.output, name, f"{self.version}{UNPROVED}")

    @property
    def report(self):
        """Path of the report's folder until it is published."""
        return os.path.join(self.output, REPORTS, f"{self.version}{UNPROVED}")

    def published(self, name):
        """Returns the path that a form, or REPORTS, has once it is published."""
        return os.path.join(self.output, name, str(self.version))

    def publish(self, names):
        """Gives forms and, if there are any, the report their final names, each whole and on disk before that.

        Raises:
          RunFailure: there is something of that name, which no export has put there.
        """
        with _locked(self.output):
            for name in (*names, *([REPORTS] if names else [])):
                source = self.report if name == REPORTS else self.folder(name)
                for file in FILES:
                    with contextlib.suppress(FileNotFoundError):
                        os.remove(os.path.join(source, file))
                _rename(source, self.published(name))
            self._release()

    def remove(self):
        """Takes away what is not published, and the folders of forms that are empty now."""
        self._remove_files()  # First: on a full disk there may be no room for a lock either.
        with _locked(self.output):
            self._remove_parents()

    def _remove_files(self):
        for path in self._folders():
            shutil.rmtree(path, ignore_errors=True)
        self._release()

    def _remove_parents(self):
        for path in self._folders():
            with contextlib.suppress(OSError):
                os.rmdir(os.path.dirname(path))

    def _folders(self):
        return [*(self.folder(name) for name in self._names), self.report]  # The lock is in the last one.

    def _release(self):
        if self._lock:
            self._lock.close()
        self._lock = None

    def close(self):
        """Lets go of the claim: what is not published now is a leftover that the next export may take away."""
        self._release()
        for path in reversed(self._made):
            with contextlib.suppress(OSError):
                os.rmdir(path)


@contextlib.contextmanager
def claimed(output, names):
    """Claims a version for an export of some forms; the arguments are those of Staging, which it gives.

    Ended by an exception, Ctrl-C and a full disk among them, it leaves nothing but what was published.
    """
    staging = Staging(output, names)
    try:
        yield staging
    except BaseException:
        staging.remove()
        raise
    finally:
        staging.close()


def _make(path):
    """Makes a folder; returns the paths of what was made for it, outermost first."""
    missing, parent = [], os.path.abspath(path)
    while not os.path.lexists(parent):
        missing.append(parent)
        parent = os.path.dirname(parent)
    os.makedirs(path, exist_ok=True)
    return missing[::-1]


@contextlib.contextmanager
def _locked(output):
    """Keeps other exports into the same folder waiting, and leaves no file behind."""
    path = os.path.join(output, LOCK)
    with acquire(path, wait=True):
        try:
            yield
        finally:
            os.remove(path)


def _entries(output):
    """Yields (path, version, whether it is published) of every version of every form, and of the reports."""
    for name in (*FORMS, REPORTS):
        folder = os.path.join(output, name)
        for entry in os.listdir(folder) if os.path.isdir(folder) else ():
            match = re.fullmatch(rf"(\d+)({re.escape(UNPROVED)})?", entry)
            if match:
                yield os.path.join(folder, entry), int(match[1]), match[2] is None


def _versions(output):
    return {version for _, version, _ in _entries(output)}


def _remove_leftovers(output):
    """Removes what processes that are gone have left unproved; returns the paths. Needs the folder's lock."""
    removed = []
    unproved = [(path, version) for path, version, published in _entries(output) if not published]
    ended = {version for version in {version for _, version in unproved} if not _is_alive(output, version)}
    for path, version in unproved:
        if version in ended:
            shutil.rmtree(path)
            removed.append(path)
    return sorted(removed)


def _is_alive(output, version):
    """Tells whether a process is at work on a version. Needs the folder's lock."""
    path = os.path.join(output, REPORTS, f"{version}{UNPROVED}", LOCK)
    if not os.path.exists(path):
        return False
    try:
        acquire(path).close()
    except Held:
        return True
    return False


def _rename(source, target):
    """Makes everything in a folder durable and gives the folder its final name."""
    for parent, _, names in os.walk(source):
        for path in (*(os.path.join(parent, name) for name in names), parent):
            sync(path)
    if os.path.lexists(target):  # A rename would replace an empty folder.
        raise RunFailure(f"{target} is there already, though no export has put it there; the files are in {source}")
    os.rename(source, target)
    sync(os.path.dirname(target))
