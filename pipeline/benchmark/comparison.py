"""Two benchmarks beside each other: what changed beyond the noise, and whether that is a regression."""
import dataclasses
import sys

import numpy as np

from pipeline.benchmark.derived import KEY, batch_of, is_measured
from pipeline.benchmark.grid import replicas_words
from pipeline.console_table import open_console, print_rows
from pipeline.errors import UsageError
from pipeline.files import read_json

SCHEMA = 1
ELSEWHERE = ("workdir", "data_dir", "cache_dir")  # Where files lie changes no figure.
FEWEST = 5  # Repeats of a cell below which its noise is not known.
RESAMPLES = 10_000
REGRESSED, FASTER, SLOWER, SAME = "REGRESSED", "faster", "slower", "same"
NEW, GONE, UNKNOWN, REMARK = "only new", "only old", "not comparable", "remark"
COLORS = {REGRESSED: "bold red", FASTER: "green", SLOWER: "yellow", UNKNOWN: "yellow"}
_WHOLE = {"workers", "replicas", "batch_size", "fitted_batch_size"}
COLUMNS = ("cell", "old", "new", "new / old", "95% interval", "verdict")


@dataclasses.dataclass(frozen=True)
class Row:
    """One cell in both files, or a remark on the files as a whole.

    Attributes:
      cell: its name; "" for a remark.
      verdict: one of the words above. SLOWER and FASTER are beyond the noise; REGRESSED is beyond the tolerance too.
      old, new: examples/s, or None.
      ratio, low, high: new over old of the medians with its 95% bootstrap interval, or None.
      note: what else is to be said.
    """

    cell: str
    verdict: str
    old: float | None = None
    new: float | None = None
    ratio: float | None = None
    low: float | None = None
    high: float | None = None
    note: str = ""


def read(path):
    """Returns the benchmark in a file.

    Raises:
      UsageError: no file, not JSON, or not a benchmark of this schema.
    """
    report = read_json(path)
    if report is None:
        raise UsageError(f"cannot read '{path}': there is no such file; give the benchmark.json of an earlier "
                         "benchmark")
    schema = report.get("schema") if isinstance(report, dict) else None
    if schema != SCHEMA:
        found = "none" if schema is None else repr(schema)
        raise UsageError(f"'{path}' is not a benchmark of schema {SCHEMA} (found: {found}); write it again with "
                         "'mirrorline benchmark'")
    cells = report.get("cells")
    for cell in cells if isinstance(cells, list) else ():
        if isinstance(cell, dict):
            cell.setdefault("workers", 1)  # There was a time without several.
    if not isinstance(cells, list) or not all(isinstance(c, dict) and all(k in c for k in KEY) for c in cells):
        raise UsageError(f"'{path}' has no list of cells with {', '.join(KEY)}; write it again with 'mirrorline "
                         "benchmark'")
    odd = next(_odd(report), None)
    if odd:
        raise UsageError(f"'{path}' cannot be read: {odd}; correct it, or write it again with 'mirrorline benchmark'")
    return report


def _odd(report):
    """Yields the problems of a benchmark that prevent a comparison as text."""
    for name in ("machine", "versions", "flags"):
        if report.get(name) is not None and not isinstance(report[name], dict):
            yield f"{name} is no JSON object"
    for place, cell in enumerate(report["cells"], 1):
        for name in (*KEY, "fitted_batch_size"):
            if cell.get(name) is not None and not isinstance(cell[name], int if name in _WHOLE else str):
                yield f"{name} of cell {place} is {cell[name]!r}"
        for name in _WHOLE & set(KEY):
            if cell[name] is None:
                yield f"{name} of cell {place} is null"
        repeats, rate = cell.get("repeats") or [], cell.get("examples_per_second")
        numbers = [*repeats, 0 if rate is None else rate] if isinstance(repeats, list) else [None]
        if not all(isinstance(number, (int, float)) for number in numbers):
            yield f"repeats or examples_per_second of cell {place} are no numbers"


def name_of(cell):
    """Returns a cell's key in words."""
    replicas = replicas_words(cell["workers"], cell["replicas"])
    return (f"{cell['model']} {cell['image_size']} {cell['precision']}, {replicas}, batch {cell['batch_size']}, "
            f"xla {cell['xla']}")


def ratio_of_medians(old, new):
    """Returns (ratio, low, high): the median of `new` over that of `old` with its 95% bootstrap interval.

    Both sets are drawn from on their own: they were not taken in turns.

    Args:
      old, new: examples/s of the repeats, each > 0.
    """
    generator = np.random.default_rng(0)
    medians = [np.median(np.asarray(values, float)[generator.integers(len(values), size=(RESAMPLES, len(values)))], 1)
               for values in (old, new)]
    low, high = np.percentile(medians[1] / medians[0], [2.5, 97.5])
    return float(np.median(new) / np.median(old)), float(low), float(high)


def compare(old, new, tolerance):
    """Compares two benchmarks cell by cell.

    A cell regresses when the whole interval of its ratio lies below 1 - tolerance, when it failed and did not before,
    or when a batch that fitted does not fit any more.

    Args:
      old, new: what `read` returned, or what a sweep has just measured.
      tolerance: the loss that is accepted, as a share of examples/s, in [0, 1).

    Returns:
      ([Row, ...], whether a cell regressed): remarks on the files first, then the cells in the order of `new`, then
      those that only `old` has.
    """
    before = {_key(cell): cell for cell in old["cells"]}
    after = {_key(cell): cell for cell in new["cells"]}
    rows = _remarks(old, new)
    rows += [_compare_cells(before[key], cell, tolerance) if key in before
             else Row(name_of(cell), NEW, new=cell.get("examples_per_second")) for key, cell in after.items()]
    rows += [Row(name_of(cell), GONE, old=cell.get("examples_per_second"))
             for key, cell in before.items() if key not in after]
    return rows, any(row.verdict == REGRESSED for row in rows)


def _key(cell):
    return tuple(cell[name] for name in KEY)


def _remarks(old, new):
    """Returns a remark for each fact of the machine, the versions and the flags that differs."""
    rows = []
    for part, word in (("machine", "machine"), ("versions", "version"), ("flags", "flag")):
        first, second = old.get(part) or {}, new.get(part) or {}
        rows += [Row("", REMARK, note=f"other {word}: {name} was {_said(first.get(name))}, is "
                                      f"{_said(second.get(name))}") for name in dict.fromkeys([*first, *second])
                 if first.get(name) != second.get(name) and name not in ELSEWHERE]
    for report, word in ((old, "old"), (new, "new")):
        if report.get("complete") is False:
            rows.append(Row("", REMARK, note=f"the {word} benchmark was interrupted: cells are missing"))
    return rows


def _said(value):
    if isinstance(value, (list, tuple)):
        return ", ".join(map(str, value)) or "none"
    return "not given" if value is None else str(value)


def _compare_cells(old, new, tolerance):
    name, rates = name_of(new), (old.get("examples_per_second"), new.get("examples_per_second"))
    if not is_measured(new) or not is_measured(old):
        return _with_failure(name, old, new, rates)
    if batch_of(old) != batch_of(new):
        return Row(name, REGRESSED if batch_of(new) < batch_of(old) else UNKNOWN, *rates,
                   note=f"batch {batch_of(old)} fitted then, {batch_of(new)} now")
    repeats = [old.get("repeats") or [], new.get("repeats") or []]
    if min(map(len, repeats)) < FEWEST or min(map(min, repeats)) <= 0:
        return Row(name, UNKNOWN, *rates, note=f"less than {FEWEST} repeats: the noise is not known")
    ratio, low, high = ratio_of_medians(*repeats)
    verdict = REGRESSED if high < 1 - tolerance else SLOWER if high < 1 else FASTER if low > 1 else SAME
    return Row(name, verdict, *rates, ratio, low, high)


def _with_failure(name, old, new, rates):
    if is_measured(old):
        return Row(name, REGRESSED, *rates, note=f"failed: {new.get('error') or new.get('status')}")
    if is_measured(new):
        return Row(name, FASTER, *rates, note=f"had failed: {old.get('error') or old.get('status')}")
    return Row(name, SAME, note="failed in both")


def texts(row):
    """Returns what is shown of a row, in the order of COLUMNS."""
    numbers = ["-" if value is None else f"{value:,.4g}" if value < 1000 else f"{value:,.0f}"
               for value in (row.old, row.new)]
    ratio = "-" if row.ratio is None else f"{row.ratio:.3f}"
    interval = "-" if row.ratio is None else f"{row.low:.3f} to {row.high:.3f}"
    return (f"{row.cell}\n({row.note})" if row.note else row.cell, *numbers, ratio, interval, row.verdict)


def summary(rows):
    """Returns in one line how many cells came out how."""
    counts = {}
    for row in rows:
        if row.verdict != REMARK:
            counts[row.verdict] = counts.get(row.verdict, 0) + 1
    return ", ".join(f"{count} {verdict}" for verdict, count in counts.items()) or "no cells"


def print_table(rows, file=None):
    """Prints remarks, then the table (examples/s), then the summary; ruled and coloured on a terminal."""
    import rich.text

    file = file or sys.stdout
    for row in rows:
        if row.verdict == REMARK:
            print(row.note, file=file)
    cells = [row for row in rows if row.verdict != REMARK]
    lines = []
    for row in cells:
        *shown, verdict = texts(row)
        lines.append([*shown, rich.text.Text(verdict, COLORS.get(row.verdict, ""))])
    print_rows(open_console(file, 120), COLUMNS, lines, left=(0, len(COLUMNS) - 1), fold=(0,))
    print(summary(rows), file=file)
