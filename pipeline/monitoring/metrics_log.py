"""metrics.jsonl and launches.jsonl: one JSON object a line, appended, synced when asked."""
import json
import math
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from pipeline.errors import UsageError
from pipeline.files import decode, plain
from pipeline.monitoring.record_file import RecordFile

_ENCODER = json.JSONEncoder(allow_nan=False)
_BLOCK = 2**16  # Bytes read at once from the end of a file.
# Required keys of a record, by its file, kind and event; and the types of the values that may be there.
_REQUIRED = {"metrics.jsonl": ("kind", "step"), "launches.jsonl": ("event",), "attempts.jsonl": ("attempt",),
             "evaluation": ("loss", "accuracy"), "spent": ("step", "seconds"), "lost": ("step", "seconds", "to_step"),
             "hang": ("seconds",), **dict.fromkeys(("start", "saved", "rollback", "stop"), ("step",))}
_NUMBER = (int, float)
_TYPES = {"kind": str, "event": str, "split": str, "step": int, "to_step": int, "attempt": int, "wall_time": _NUMBER,
          "age": _NUMBER, "loss": (*_NUMBER, type(None)), "accuracy": (*_NUMBER, type(None)),
          "learning_rate": (*_NUMBER, type(None)), "examples_per_second": _NUMBER, "allowed": list, "files": dict}


class JsonLines:
    """A file of one JSON object a line. Opening it cuts off a torn last line, left by a killed process."""

    def __init__(self, path: str):
        self.path = path
        self._file = RecordFile(path)
        self.cut_after(math.inf)

    @property
    def problem(self) -> OSError | None:
        """The error of a full disk while lines wait in memory, else None."""
        return self._file.problem

    def cut_after(self, step: float, evaluated: float = math.inf) -> None:
        """Removes the records of later steps, which are the last ones: a restore to `step` computes them again.

        Args:
          step: the last one whose records stay.
          evaluated: the last one whose evaluation stays.
        """
        end = os.path.getsize(self.path) if os.path.exists(self.path) else 0
        for begin, line in _lines_backwards(self.path):
            record = parse_line(line.decode("utf-8", "replace"))
            if record is not None and _step(record) <= (
                    min(step, evaluated) if record.get("kind") == "evaluation" else step):
                break
            end = begin
        self._file.cut(end, step)

    def append(self, records: Iterable[Mapping[str, Any]]) -> None:
        """Appends records; non-finite floats become null. On a full disk they wait in memory, see flush."""
        for record in records:
            self._file.append(record.get("step", 0), f"{_json(record)}\n".encode())
        self.flush()

    def append_lines(self, steps: Sequence[int], lines: Sequence[bytes]) -> None:
        """Adds lines of global steps, see `table_lines`; `flush` writes them."""
        for step, line in zip(steps, lines, strict=True):
            self._file.append(step, line)

    def flush(self, sync: bool = False) -> bool:
        """Writes what waits, and with `sync` makes it durable; returns False on a full disk."""
        return self._file.flush(sync)

    def sync(self) -> bool:
        """Makes everything appended durable; returns False on a full disk."""
        return self.flush(sync=True)

    def close(self) -> None:
        """Closes the file."""
        self._file.close()


def table_lines(fixed: Mapping[str, Any], columns: Mapping[str, list]) -> list[bytes]:
    """Returns the lines of a table: what `JsonLines.append` writes of one dict a row, faster.

    Args:
      fixed: {name: value} at the beginning of all lines.
      columns: {name: list of n ints or floats}.
    """
    # A constant column, such as a constant learning rate, is formatted once.
    same = {**fixed, **{name: values[0] for name, values in columns.items() if values.count(values[0]) == len(values)}}
    rows = list(zip(*(values for name, values in columns.items() if name not in same), strict=True)) or [()]
    line = f"{{{', '.join(_field(name, same) for name in (*fixed, *columns))}}}\n"
    lines = [line % row for row in rows]
    for i, row in enumerate(rows):
        if not all(map(math.isfinite, row)):
            lines[i] = f"{_json({**fixed, **{name: values[i] for name, values in columns.items()}})}\n"
    return [text.encode() for text in lines]


def _field(name: str, same: Mapping[str, Any]) -> str:
    """Returns the format of a field: with its value if it is the same in all lines, else with a placeholder."""
    key = _ENCODER.encode(name).replace("%", "%%")
    return f"{key}: " + (_json(same[name]).replace("%", "%%") if name in same else "%r")


def _json(value: Any) -> str:
    try:
        return _ENCODER.encode(value)
    except ValueError:  # Non-finite floats are rare, and looking for them takes longer than writing.
        return _ENCODER.encode(plain(value))


def parse_line(line: str) -> dict[str, Any] | None:
    """Returns the object in a line, or None where the line is torn or holds no object."""
    if not line.endswith("\n"):
        return None
    try:
        record = json.loads(line.removeprefix("\ufeff"))
    except (ValueError, RecursionError):
        return None
    return record if isinstance(record, dict) else None


def _lines_backwards(path: str) -> Iterator[tuple[int, bytes]]:
    """Yields (offset in the file, line) from the last line, which may be torn, to the first; reads block by block."""
    if not os.path.exists(path):
        return
    if os.path.isdir(path):
        raise UsageError(f"{path} cannot be read: is a directory")
    with open(path, "rb") as file:
        end, rest = file.seek(0, os.SEEK_END), b""
        while end:
            begin = max(0, end - _BLOCK)
            file.seek(begin)
            *whole, last = (file.read(end - begin) + rest).split(b"\n")
            lines = [*(line + b"\n" for line in whole), *([last] if last else [])]
            rest = lines.pop(0) if begin else b""  # It begins in the block before.
            offset = begin + len(rest) + sum(map(len, lines))
            for line in reversed(lines):
                offset -= len(line)
                yield offset, line
            end = begin


def read_backwards(path: str) -> Iterator[dict[str, Any]]:
    """Yields the records of a file from the last one to the first, without those that `read_records` refuses."""
    records = (parse_line(line.decode("utf-8", "replace")) for _, line in _lines_backwards(path))
    return (record for record in records if record is not None and _problem(record, path) is None)


def read_records(path: str, mark: bytes = b"") -> Iterator[dict[str, Any]]:
    """Yields the records of a file in order, without a torn last line; none without a file.

    Args:
      path: of the file.
      mark: bytes that a line must contain: parsing every line of a long run takes seconds.

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
        raise UsageError(f"{path} cannot be read: {str(error.strerror).lower()}") from error


def _step(record):
    """Returns the step of a record, 0 without one."""
    return record["step"] if isinstance(record.get("step"), int) else 0


def _problem(record, path):
    """Returns what is missing or wrong in a record as text, or None."""
    for part in (os.path.basename(path), record.get("kind"), record.get("event")):
        for name in _REQUIRED.get(part, ()) if isinstance(part, str) else ():
            if name not in record:
                return f"it has no '{name}'"
    for name in record.keys() & _TYPES.keys():
        if not isinstance(record[name], _TYPES[name]):
            return f"{name} is {json.dumps(record[name])}"
    if "seconds" in record:
        spent = record["seconds"] if record.get("event") == "spent" else {"": record["seconds"]}
        if not isinstance(spent, dict) or not all(isinstance(value, _NUMBER) for value in spent.values()):
            return f"seconds is {json.dumps(record['seconds'])}"
    if not all(isinstance(one, list) and one and isinstance(one[0], str) for one in record.get("allowed", ())):
        return f"allowed is {json.dumps(record['allowed'])}"
    if not all(isinstance(value, int) for value in record.get("files", {}).values()):
        return f"files is {json.dumps(record['files'])}"
    return None


def _record(line: bytes, path: str, number: int) -> dict[str, Any]:
    try:
        record = json.loads(decode(line))
        problem = _problem(record, path) if isinstance(record, dict) else "no JSON object"
    except json.JSONDecodeError as error:
        problem = f"column {error.colno}: {error.msg}"
    except (ValueError, RecursionError):
        problem = "not text in UTF-8"
    if problem:
        raise UsageError(f"{path} cannot be read: line {number}: {problem}; correct that line, or remove it")
    return record
