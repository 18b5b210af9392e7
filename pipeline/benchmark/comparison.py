"""Comparison of two benchmarks: what changed beyond the noise, and what of it is a regression."""
import collections
import dataclasses
import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TextIO

import numpy as np
import scipy.stats

from pipeline.benchmark.derived import KEY, batch_of, is_measured
from pipeline.benchmark.grid import name_of
from pipeline.console_table import open_console, print_rows
from pipeline.errors import UsageError
from pipeline.files import read_json

# Imports inside functions: rich takes time, and only tables need it.

SCHEMA = 1
ELSEWHERE = ("workdir", "data_dir", "cache_dir")  # Paths change no figure.
FEWEST = 5  # Repeats from which the noise of a cell is known.
RESAMPLES = 10_000
REGRESSED, FASTER, SLOWER, SAME = "REGRESSED", "faster", "slower", "same"
NEW, GONE, UNKNOWN, REMARK = "only new", "only old", "not comparable", "remark"
COLORS = {REGRESSED: "bold red", FASTER: "green", SLOWER: "yellow", UNKNOWN: "yellow"}
_WHOLE = {"workers", "replicas", "batch_size", "fitted_batch_size"}
COLUMNS = ("cell", "old", "new", "new / old", "95% interval", "verdict")


@dataclasses.dataclass(frozen=True)
class ComparedCell:
    """One cell of either file, or a remark on the files.

    Attributes:
      cell: its name; "" for a remark.
      verdict: one of the constants above. SLOWER and FASTER are beyond the noise, REGRESSED beyond the tolerance too.
      old, new: examples/s, or None.
      ratio, low, high: median of new over median of old with its 95% bootstrap interval, or None.
      note: a reason or remark.
    """

    cell: str
    verdict: str
    old: float | None = None
    new: float | None = None
    ratio: float | None = None
    low: float | None = None
    high: float | None = None
    note: str = ""


def read(path: str) -> dict[str, Any]:
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
            cell.setdefault("workers", 1)  # Earlier versions had no workers.
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


def ratio_of_medians(old: Sequence[float], new: Sequence[float]) -> tuple[float, float, float]:
    """Returns (ratio, low, high): the median of `new` over that of `old` with its 95% bootstrap interval.

    Both are examples/s > 0 of at least two repeats, resampled independently, since they were not interleaved.
    """
    def ratio(old, new, axis=-1):
        return np.median(new, axis) / np.median(old, axis)

    rates = np.asarray(old, float), np.asarray(new, float)
    low, high = scipy.stats.bootstrap(rates, ratio, n_resamples=RESAMPLES, method="percentile",
                                      rng=np.random.default_rng(0)).confidence_interval
    return float(ratio(*rates)), float(low), float(high)


def compare(old: Mapping[str, Any], new: Mapping[str, Any], tolerance: float) -> tuple[list[ComparedCell], bool]:
    """Compares two benchmarks cell by cell.

    A cell regresses if the whole interval of its ratio is below 1 - tolerance, if it fails and did not before, or if a
    batch that fitted does not fit any more.

    Args:
      old, new: contents of benchmark.json.
      tolerance: accepted loss, as a share of examples/s, in [0, 1).

    Returns:
      (rows, whether a cell regressed): remarks on the files first, then the cells in the order of `new`, then those of
      `old` alone.
    """
    before = {_key(cell): cell for cell in old["cells"]}
    after = {_key(cell): cell for cell in new["cells"]}
    rows = _remarks(old, new)
    rows += [_compare_cells(before[key], cell, tolerance) if key in before
             else ComparedCell(name_of(cell), NEW, new=cell.get("examples_per_second")) for key, cell in after.items()]
    rows += [ComparedCell(name_of(cell), GONE, old=cell.get("examples_per_second"))
             for key, cell in before.items() if key not in after]
    return rows, any(row.verdict == REGRESSED for row in rows)


def _key(cell):
    return tuple(cell[name] for name in KEY)


def _remarks(old, new):
    """Returns a remark for each fact of the machine, the versions and the flags that differs."""
    rows = []
    for part, word in (("machine", "machine"), ("versions", "version"), ("flags", "flag")):
        first, second = old.get(part) or {}, new.get(part) or {}
        rows += [ComparedCell("", REMARK, note=f"other {word}: {name} was {_shown(first.get(name))}, is "
                                      f"{_shown(second.get(name))}") for name in dict.fromkeys([*first, *second])
                 if first.get(name) != second.get(name) and name not in ELSEWHERE]
    for report, word in ((old, "old"), (new, "new")):
        if report.get("complete") is False:
            rows.append(ComparedCell("", REMARK, note=f"the {word} benchmark was interrupted: cells are missing"))
    return rows


def _shown(value):
    if isinstance(value, (list, tuple)):
        return ", ".join(map(str, value)) or "none"
    return "not given" if value is None else str(value)


def _compare_cells(old, new, tolerance):
    name, rates = name_of(new), (old.get("examples_per_second"), new.get("examples_per_second"))
    if not is_measured(new) or not is_measured(old):
        return _with_failure(name, old, new, rates)
    if batch_of(old) != batch_of(new):
        return ComparedCell(name, REGRESSED if batch_of(new) < batch_of(old) else UNKNOWN, *rates,
                   note=f"batch {batch_of(old)} fitted then, {batch_of(new)} now")
    repeats = [old.get("repeats") or [], new.get("repeats") or []]
    if min(map(len, repeats)) < FEWEST or min(map(min, repeats)) <= 0:
        return ComparedCell(name, UNKNOWN, *rates, note=f"fewer than {FEWEST} repeats: the noise is unknown")
    ratio, low, high = ratio_of_medians(*repeats)
    verdict = REGRESSED if high < 1 - tolerance else SLOWER if high < 1 else FASTER if low > 1 else SAME
    return ComparedCell(name, verdict, *rates, ratio, low, high)


def _with_failure(name, old, new, rates):
    if is_measured(old):
        return ComparedCell(name, REGRESSED, *rates, note=f"failed: {new.get('error') or new.get('status')}")
    if is_measured(new):
        return ComparedCell(name, FASTER, *rates, note=f"had failed: {old.get('error') or old.get('status')}")
    return ComparedCell(name, SAME, note="failed in both")


def texts(row: ComparedCell) -> tuple[str, ...]:
    """Returns the cells of a row, in the order of COLUMNS."""
    numbers = ["-" if value is None else f"{value:,.4g}" if value < 1000 else f"{value:,.0f}"
               for value in (row.old, row.new)]
    ratio = "-" if row.ratio is None else f"{row.ratio:.3f}"
    interval = "-" if row.ratio is None else f"{row.low:.3f} to {row.high:.3f}"
    return (f"{row.cell}\n({row.note})" if row.note else row.cell, *numbers, ratio, interval, row.verdict)


def summary(rows: Iterable[ComparedCell]) -> str:
    """Returns the number of cells with each verdict in one line."""
    counts = collections.Counter(row.verdict for row in rows if row.verdict != REMARK)
    return ", ".join(f"{count} {verdict}" for verdict, count in counts.items()) or "no cells"


def print_table(rows: Iterable[ComparedCell], file: TextIO | None = None) -> None:
    """Prints remarks, a table of examples/s, and the summary; ruled and coloured on a terminal."""
    import rich.text

    file = file or sys.stdout
    lines: list[list[str | rich.text.Text]] = []
    for row in rows:
        if row.verdict == REMARK:
            print(row.note, file=file)
        else:
            *shown, verdict = texts(row)
            lines.append([*shown, rich.text.Text(verdict, COLORS.get(row.verdict, ""))])
    print_rows(open_console(file, 120), COLUMNS, lines, left=(0, len(COLUMNS) - 1), fold=(0,))
    print(summary(rows), file=file)
