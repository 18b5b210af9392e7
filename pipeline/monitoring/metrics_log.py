"""metrics.jsonl and launches.jsonl: one JSON object a line, appended, synced when asked."""
import json
import math
import os

from pipeline.errors import UsageError
from pipeline.files import decode, plain
from pipeline.monitoring.record_file import RecordFile

_ENCODER = json.JSONEncoder(allow_nan=False)
_BLOCK = 2**16  # Bytes that are read at once from the end of a file.


class JsonLines:
    """A file of one JSON object a line. A torn last line, left by a killed process, is cut off when it is opened."""

    def __init__(self, path):
        self.path = path
        self._file = RecordFile(path)
        self.cut_after(math.inf)

    @property
    def problem(self):
        """The OSError of a full disk while lines wait in memory for room, else None."""
        return self._file.problem

    def cut_after(self, step, evaluated=math.inf):
        """Drops the records of later steps: after a restore to `step` they are computed anew. They are the last ones.

        Args:
          step: the last one whose records stay.
          evaluated: the last one whose evaluation stays.
        """
        end = os.path.getsize(self.path) if os.path.exists(self.path) else 0
        for begin, line in _lines_backwards(self.path):
            record = parse_line(line.decode("utf-8", "replace"))
            if record is not None and record.get("step", 0) <= (
                    min(step, evaluated) if record.get("kind") == "evaluation" else step):
                break
            end = begin
        self._file.cut(end, step)

    def append(self, records):
        """Appends dicts; floats that JSON cannot hold become null. On a full disk they wait in memory, see flush."""
        for record in records:
            self._file.append(record.get("step", 0), f"{_json(record)}\n".encode())
        self.flush()

    def append_lines(self, steps, lines):
        """Takes lines (bytes) of global steps, which `flush` writes; see `table_lines`."""
        for step, line in zip(steps, lines, strict=True):
            self._file.append(step, line)

    def flush(self, sync=False):
        """Writes what waits, and with `sync` makes it durable; returns False where the disk is full."""
        return self._file.flush(sync)

    def sync(self):
        """Makes everything appended durable; returns False where the disk is full."""
        return self.flush(sync=True)

    def close(self):
        """Closes the file."""
        self._file.close()


def table_lines(fixed, columns):
    """Returns the lines of a table, list of bytes: what `JsonLines.append` writes of a dict a row, faster.

    Args:
      fixed: {name: value} that begins all lines.
      columns: {name: list of n ints or floats}.
    """
    # A column of one value, as a constant learning rate, is formatted once.
    same = {**fixed, **{name: values[0] for name, values in columns.items() if values.count(values[0]) == len(values)}}
    rows = list(zip(*(values for name, values in columns.items() if name not in same), strict=True)) or [()]
    line = f"{{{', '.join(_field(name, same) for name in (*fixed, *columns))}}}\n"
    lines = [line % row for row in rows]
    for i, row in enumerate(rows):
        if not all(map(math.isfinite, row)):
            lines[i] = f"{_json({**fixed, **{name: values[i] for name, values in columns.items()}})}\n"
    return [text.encode() for text in lines]


def _field(name, same):
    """Returns the format of a field: with the value that it has in all lines, or with a place for it."""
    key = _ENCODER.encode(name).replace("%", "%%")
    return f"{key}: " + (_json(same[name]).replace("%", "%%") if name in same else "%r")


def _json(record):
    """Returns a dict as JSON."""
    try:
        return _ENCODER.encode(record)
    except ValueError:  # Of floats that JSON cannot hold: rare ones, and to look for them takes longer than to write.
        return _ENCODER.encode(plain(record))


def parse_line(line):
    """Returns the object in a line, or None where the line is torn or holds none."""
    if not line.endswith("\n"):
        return None
    try:
        record = json.loads(line.removeprefix("\ufeff"))
    except (ValueError, RecursionError):
        return None
    return record if isinstance(record, dict) else None


def _lines_backwards(path):
    """Yields (offset in the file, bytes) of each line, the last one first, which may be torn; reads block by block."""
    if not os.path.exists(path):
        return
    with open(path, "rb") as file:
        end, rest = file.seek(0, os.SEEK_END), b""
        while end:
            begin = max(0, end - _BLOCK)
            file.seek(begin)
            *whole, last = (file.read(end - begin) + rest).split(b"\n")
            lines = [*(line + b"\n" for line in whole), *([last] if last else [])]
            rest = lines.pop(0) if begin else b""  # Its beginning is in the block before.
            offset = begin + len(rest) + sum(map(len, lines))
            for line in reversed(lines):
                offset -= len(line)
                yield offset, line
            end = begin


def read_backwards(path):
    """Yields the records of a file from the last one to the first, a torn line left out; nothing without a file."""
    records = (parse_line(line.decode("utf-8", "replace")) for _, line in _lines_backwards(path))
    return (record for record in records if record is not None)


def read_records(path, mark=b""):
    """Yields the records of a file in order, without a torn last line; nothing where there is no file.

    Args:
      path: of the file.
      mark: bytes that a line has to hold: parsing every line of a long run takes seconds.

    Raises:
      UsageError: the file, or a line before the last, cannot be read; names the line.
    """
    try:
        with open(path, "rb") as file:
            for number, line in enumerate(file, 1):
                if line.endswith(b"\n") and line.strip() and mark in line:
                    yield _record(line, path, number)
    except FileNotFoundError:
        return
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror.lower()}") from error


def _record(line, path, number):
    """Returns the object in a whole line; raises UsageError where it holds none."""
    try:
        record = json.loads(decode(line))
        problem = "no JSON object" if not isinstance(record, dict) else None
    except json.JSONDecodeError as error:
        problem = f"column {error.colno}: {error.msg}"
    except (ValueError, RecursionError):
        problem = "not text in UTF-8"
    if problem:
        raise UsageError(f"{path} cannot be read: line {number}: {problem}; correct that line, or remove it")
    return record
