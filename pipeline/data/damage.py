"""Errors inside a data pipeline, in one line each. Neither TensorFlow nor NumPy is imported.

An error in Python code that a pipeline calls reaches the training step as an error of TensorFlow whose text is a
traceback; one in a kernel names neither file nor record.
"""
import contextlib
import re
import threading
import weakref
from collections.abc import Iterator
from typing import Any

_reported: list[BaseException] = []
_lock = threading.Lock()
_watched: list[weakref.ref] = []  # Readers, the latest last.


class Reported(Exception):
    """Stands for an error in a pipeline's thread; its text has the number of that error, see `report`."""


def report(error: Exception) -> Reported:
    """Keeps a UsageError or RunFailure of a pipeline's thread, and returns the exception to raise there instead."""
    with _lock:
        _reported.append(error)
        return Reported(f"data pipeline error {len(_reported) - 1}")


def watch(reader: Any) -> None:
    """Registers a reader whose find_damage() is called when a pipeline fails without a report.

    It returns the UsageError or RunFailure about what is damaged, or None where everything can be read.
    """
    with _lock:
        _watched[:] = [one for one in _watched if one() not in (None, reader)] + [weakref.ref(reader)]


@contextlib.contextmanager
def in_words() -> Iterator[None]:
    """Raises the UsageError or RunFailure that an error of TensorFlow stands for; also a decorator."""
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
    """Returns the error behind the text of an error of TensorFlow, or None."""
    number = re.search(r"data pipeline error (\d+)", text)
    if number:
        return _reported[int(number[1])]
    if not re.search("Iterator|Dataset", text):
        return None
    return next(filter(None, (reader.find_damage() for reader in reversed(_readers()))), None)


def _readers():
    """Returns the readers still in use, the latest last."""
    return [reader for reader in (one() for one in _watched) if reader is not None]


def pipelines_call_python() -> bool:
    """Returns whether data pipelines of this process have threads that call Python.

    At its exit the interpreter and such a thread may wait for each other forever.
    """
    return any(getattr(reader, "calls_python", False) for reader in _readers())
