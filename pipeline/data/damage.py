"""What goes wrong inside of a data pipeline, in one line. Neither TensorFlow nor NumPy is imported.

An error in a function of Python that a pipeline calls reaches the training step as one of TensorFlow's, with a
traceback for a text; one in a kernel tells neither file nor record.
"""
import contextlib
import re
import threading
import weakref

from pipeline.errors import UsageError

_reported: list[BaseException] = []
_lock = threading.Lock()
_watched: list[weakref.ref] = []  # Weak references to readers, the newest last.


class Reported(Exception):
    """Stands for an error in a pipeline's thread; its text says which, see `report`."""


def report(error):
    """Keeps a UsageError or RunFailure of a pipeline's thread, and returns what is to be raised there instead."""
    with _lock:
        _reported.append(error)
        return Reported(f"data pipeline error {len(_reported) - 1}")


def watch(reader):
    """Asks a reader, where a pipeline fails without a report, what is damaged: by reader.find_damage().

    That is a function of nothing to one line, or None where everything can be read.
    """
    with _lock:
        _watched[:] = [one for one in _watched if one() not in (None, reader)] + [weakref.ref(reader)]


@contextlib.contextmanager
def in_words():
    """Raises the UsageError or RunFailure that an error of TensorFlow's stands for; also a decorator."""
    try:
        yield
    except Exception as error:
        if not type(error).__module__.startswith("tensorflow."):
            raise
        found = _explained(str(error))
        if found is None:
            raise
        raise found from error


def _explained(text):
    """Returns the error behind the text of one of TensorFlow's, or None."""
    number = re.search(r"data pipeline error (\d+)", text)
    if number:
        return _reported[int(number[1])]
    if not re.search("Iterator|Dataset", text):
        return None
    damage = next(filter(None, (reader.find_damage() for reader in reversed(_readers()))), None)
    return damage and UsageError(damage)


def _readers():
    """Returns the readers that are still in use, the newest last."""
    return [reader for reader in (one() for one in _watched) if reader is not None]


def pipelines_call_python():
    """Tells whether data pipelines of this process have threads that call Python.

    The interpreter's end and such a thread may wait for each other for ever.
    """
    return any(getattr(reader, "calls_python", False) for reader in _readers())
