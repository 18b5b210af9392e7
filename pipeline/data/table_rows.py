"""The rows of a table of images: where each image is, its label, and what it belongs to."""
import csv
import dataclasses
import io
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from pipeline.data.splits import VALIDATION_NAMES
from pipeline.errors import UsageError
from pipeline.quantities import counted

# {part of a row: names that its column usually has, compared without case, blanks and underscores}.
COLUMNS = {
    "path": ("path", "file", "filename", "filepath", "image", "imagepath", "imagefile", "imagefilename"),
    "label": ("label", "labels", "class", "classname", "category", "target", "diagnosis", "species"),
    "split": ("split", "subset", "partition", "set"),
    "group": ("group", "groupid", "patient", "patientid", "subject", "subjectid", "session", "sessionid"),
}
REQUIRED = ("path", "label")
SPLITS = {"train": ("train", "training"), "validation": (*VALIDATION_NAMES, "dev"), "test": ("test", "testing")}
SUFFIXES = (".csv", ".tsv", ".json", ".jsonl", ".parquet")
_LARGEST_FIELD = 2**24  # Characters: a mask or a list of points next to a label.


@dataclasses.dataclass(frozen=True)
class Row:
    """One image.

    Attributes:
      number: of its line in a text file, the header's being 1; of the row in others, from 1.
      path, label: as in the table, without blanks around.
      split: a key of SPLITS, or "" where there is no such column.
      group: "" where there is no such column, or its cell is empty.
    """

    number: int
    path: str
    label: str
    split: str = ""
    group: str = ""


@dataclasses.dataclass(frozen=True)
class Table:
    """Attributes: rows; columns: {part of a row: name of its column}; unused: names of the other columns."""

    rows: list[Row]
    columns: dict[str, str]
    unused: list[str]


def read_table(path: str, chosen: Sequence[str] = ()) -> Table:
    """Reads a table.

    Args:
      path: of a file with one of SUFFIXES.
      chosen: "part:column" where a column has none of its usual names.

    Raises:
      UsageError: it cannot be read, a column is missing, or a row has no path, no label or an unknown split.
    """
    suffix = os.path.splitext(path)[1].lower()
    if suffix not in SUFFIXES:
        raise UsageError(f"--dataset=table:{path}: a table ends in {', '.join(SUFFIXES[:-1])} or {SUFFIXES[-1]}")
    try:
        names, values = _READERS[suffix](path)
        if not names:
            raise UsageError(f"{path} is empty: a table has a header and a row for each image")
        columns = choose_columns(path, names, chosen)
        rows = [_row(path, number, {part: _text(path, number, name, cells.get(name)) for part, name in columns.items()})
                for number, cells in values]
    except OSError as error:
        raise UsageError(f"cannot read --dataset=table:{path}: {(error.strerror or str(error)).lower()}") from error
    except UnicodeDecodeError as error:
        raise UsageError(f"{path} is not UTF-8 at byte {error.start}: save it as UTF-8") from error
    except csv.Error as error:
        raise UsageError(f"{path} cannot be read as a table: {error}") from error
    if not rows:
        raise UsageError(f"{path} has no rows below its header")
    return Table(rows, columns, [name for name in names if name not in columns.values()])


def choose_columns(path: str, names: Sequence[str], chosen: Sequence[str]) -> dict[str, str]:
    """Returns {part of a row: name of its column}.

    Raises:
      UsageError: an unknown part or column, a column for REQUIRED is missing, or two columns fit.
    """
    found = {}
    for pair in chosen:
        part, _, name = pair.partition(":")
        if part not in COLUMNS or not name:
            raise UsageError(f"--columns={pair}: give PART:COLUMN, PART being one of {', '.join(COLUMNS)}")
        if name not in names:
            raise UsageError(f"--columns={pair}: {path} has no column '{name}'; it has {', '.join(names)}")
        found[part] = name
    for part, usual in COLUMNS.items():
        fits = [name for name in names if name not in found.values() and _plain(name) in usual]
        if part in found or not fits:
            continue
        if len(fits) > 1:
            raise UsageError(f"{path} has several columns for the {part}, {' and '.join(fits)}: give "
                             f"--columns={part}:{fits[0]} or another")
        found[part] = fits[0]
    for part in REQUIRED:
        if part not in found:
            raise UsageError(f"{path} has no column for the {part}, such as {', '.join(COLUMNS[part][:3])}; it has "
                             f"{', '.join(names)}: give --columns={part}:COLUMN")
    return found


def _plain(name):
    return name.lower().replace(" ", "").replace("_", "").replace("-", "")


def _row(path, number, cells):
    """Returns the Row of {part: text}; raises UsageError where something is missing."""
    for part in REQUIRED:
        if not cells[part]:
            raise UsageError(f"{path}, line {number}: no {part}")
    if "\0" in cells["path"]:
        raise UsageError(f"{path}, line {number}: the path has a zero byte in it: save the table as UTF-8")
    if "://" in cells["path"]:
        raise UsageError(f"{path}, line {number}: {cells['path'][:80]} is an address: download the images, and give "
                         "the paths of the files")
    split = cells.get("split", "")
    if "split" in cells:
        names = [name for name, known in SPLITS.items() if split.lower() in known]
        if not names:
            raise UsageError(f"{path}, line {number}: the split is '{split}'; known: {', '.join(SPLITS)}")
        split = names[0]
    return Row(number, cells["path"], cells["label"], split, cells.get("group", ""))


def _text(path, number, name, value: Any) -> str:
    """Returns a cell as text: 3.0 of a column of numbers with empty cells is 3."""
    if isinstance(value, list | dict | bytes):
        raise UsageError(f"{path}, line {number}: {name} is {repr(value)[:60]}; wanted text or a number")
    if value is None or value != value:
        return ""
    return str(int(value) if isinstance(value, float) and value.is_integer() else value).strip()


def _delimited(path):
    """Returns (names of the columns, iterator of (line, {name: cell})) of a file with a header."""
    with open(path, encoding="utf-8-sig", newline="") as file:
        text = file.read()
    above, header, rest = _parted(text)
    delimiter = "\t" if path.lower().endswith(".tsv") else max(",;\t", key=header.count)
    before, lines = csv.field_size_limit(_LARGEST_FIELD), csv.reader(io.StringIO(header + rest), delimiter=delimiter)
    try:
        names = [name.strip() for name in next(lines, [])]
        while names and not names[-1]:  # Of empty columns that a spreadsheet saved.
            names.pop()
        rows = []
        for cells in lines:
            if any(cells[len(names):]):
                raise UsageError(f"{path}, line {above + lines.line_num}: {len(cells)} cells, and the header has "
                                 f"{len(names)}: put a cell with a '{delimiter}' in it in quotes")
            if any(cells):
                rows.append((above + lines.line_num, dict(zip(names, cells, strict=False))))
    finally:
        csv.field_size_limit(before)
    _check_names(path, names)
    return names, rows


def _parted(text):
    """Returns (lines before the header, header, the rest); a spreadsheet may save `sep=;` first."""
    lines = text.splitlines(keepends=True)
    above = 1 if lines and lines[0].startswith("sep=") else 0
    return above, "".join(lines[above:above + 1]), "".join(lines[above + 1:])


def _json(path):
    """Returns the same of a JSON list of objects, as predict writes it, or of a file with an object a line."""
    with open(path, encoding="utf-8-sig") as file:
        text = file.read()
    if path.lower().endswith(".json"):
        found = _parsed(path, 1, text)
        rows = list(enumerate(found if isinstance(found, list) else [found], 1))
    else:
        lines = enumerate(text.split("\n"), 1)
        rows = [(number, _parsed(path, number, line)) for number, line in lines if line.strip()]
    names: dict[str, None] = {}
    for number, cells in rows:
        if not isinstance(cells, dict):
            raise UsageError(f"{path}, line {number}: found {json.dumps(cells)[:40]}; wanted an object, such as "
                             '{"path": "1.jpg", "label": "cat"}')
        names.update(dict.fromkeys(cells))
    return list(names), rows


def _parsed(path, first, text):
    """Returns the content of a JSON text that begins in a line of a file."""
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise UsageError(f"{path}, line {first + error.lineno - 1}: no JSON: {error.msg} at column {error.colno}"
                         ) from error


def _parquet(path: str) -> tuple[list[str], Iterator[tuple[int, Mapping[str, Any]]]]:
    """Returns the same of a Parquet file."""
    import pyarrow.parquet  # For this kind of table alone; TensorFlow Datasets brings it.
    try:
        content = pyarrow.parquet.read_table(path)
    except pyarrow.ArrowException as error:
        raise UsageError(f"{path} cannot be read as Parquet: {str(error).splitlines()[0]}") from error
    return content.column_names, enumerate(content.to_pylist(), 1)


def _check_names(path, names):
    """Raises UsageError where two columns have the same name, or the header is missing."""
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise UsageError(f"{path} has {counted(names.count(twice[0]), 'column')} called '{twice[0]}': rename one")


_READERS = {".csv": _delimited, ".tsv": _delimited, ".json": _json, ".jsonl": _json, ".parquet": _parquet}
