"""Predictions as CSV and JSON, written batch by batch, and renamed to their final name when they are complete."""
import contextlib
import csv
import errno
import json
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TextIO

from pipeline.errors import UsageError
from pipeline.evaluation.prediction import Prediction
from pipeline.files import sync_open
from pipeline.paths import is_special

PARTIAL = ".partial"
SUFFIXES = {".csv": "csv", ".json": "json"}
# File names that are not UTF-8 are written as the bytes that they are.
ENCODING: Any = {"encoding": "utf-8", "errors": "surrogateescape", "newline": ""}


class CsvWriter:
    """A line for each file: file,class,probability,class_2,probability_2, ... under a header."""

    def __init__(self, file: TextIO, top: int):
        """
        Args:
          file: open text file.
          top: number of classes of each prediction.
        """
        self._file, self._rows = file, csv.writer(file, lineterminator="\n")
        ranks = [f"_{rank}" if rank > 1 else "" for rank in range(1, top + 1)]
        self._rows.writerow(["file", *(name + rank for rank in ranks for name in ("class", "probability"))])

    def write(self, predictions: Sequence[Prediction]) -> None:
        """Adds the lines of a list of Prediction."""
        for prediction in predictions:
            values = [(name, f"{probability:.9g}") for name, probability in prediction.classes]
            self._rows.writerow([prediction.file, *(value for pair in values for value in pair)])
        self._file.flush()

    def close(self) -> None:
        """Ends the file's content."""


class JsonWriter:
    """One list, an object on each line: {"file", "class", "probability", "top": [{"class", "probability"}, ...]}."""

    def __init__(self, file: TextIO):
        """
        Args:
          file: open text file.
        """
        self._file, self._between = file, "[\n"

    def write(self, predictions: Sequence[Prediction]) -> None:
        """Adds the objects of a list of Prediction."""
        for prediction in predictions:
            top = [{"class": name, "probability": float(f"{probability:.9g}")} for name, probability in
                   prediction.classes]
            self._file.write(self._between + json.dumps({"file": prediction.file, **top[0], "top": top}))
            self._between = ",\n"
        self._file.flush()

    def close(self) -> None:
        """Ends the list."""
        self._file.write("[]\n" if self._between == "[\n" else "\n]\n")


def choose_format(wanted: str | None, output: str | None) -> str:
    """Returns "csv", "json" or "table": as asked for, else by the suffix of the output.

    Raises:
      UsageError: the suffix is of no format.
    """
    if wanted or not output or output == "-":
        return wanted or "table"
    found = SUFFIXES.get(os.path.splitext(output)[1].lower())
    if not found:
        raise UsageError(f"--output={output} ends in neither {' nor '.join(SUFFIXES)}: give --format=csv or json")
    return found


@contextlib.contextmanager
def output_file(path: str | None, warning: Callable[[str], object]) -> Iterator[TextIO]:
    """Opens the file of predictions, standard output for None or "-"; until it is complete it has another name."""
    if path in (None, "-"):
        sys.stdout.flush()
        with open(1, "w", closefd=False, **ENCODING) as file:
            yield file
        return
    if is_special(path):
        with open(path, "w", **ENCODING) as file:
            yield file
        return
    try:
        with open(path + PARTIAL, "w", **ENCODING) as file:
            yield file
            file.flush()
            sync_open(file.fileno())
        os.replace(path + PARTIAL, path)
    except BaseException as error:
        if isinstance(error, OSError) and error.errno == errno.ENOSPC:
            error.filename = error.filename or path + PARTIAL
        if os.path.exists(path + PARTIAL):
            warning(f"not complete: what there is so far is in {path}{PARTIAL}")
        raise
