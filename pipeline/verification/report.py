"""Comparisons of a verification, their verdicts, and the table of them."""
import dataclasses
import math
import textwrap
from collections.abc import Sequence
from typing import Any, TextIO

# Imports inside functions: rich takes time, and only tables need it.

PARTS = ("reduction", "replicas", "resume", "infinite", "ragged")  # In the order of the table.
OK, VIOLATED, NOT_CLAIMED = "ok", "VIOLATED", "not claimed"
COLUMNS = ("part", "compared", "difference", "bound", "verdict")
COLORS = {OK: "green", VIOLATED: "bold red", NOT_CLAIMED: "yellow"}
PLAIN_WIDTH = 80
OTHERS = 42  # Width in plain text of all columns but the second.


@dataclasses.dataclass(frozen=True)
class Comparison:
    """One row of the table.

    Attributes:
      part: of the verification, one of PARTS.
      compared: the compared results, in words.
      difference: the largest one, >= 0; infinite where results have no common shape or are not finite; None where
        nothing was measured.
      bound: the largest allowed difference.
      unclaimed: the reason why the bound is not claimed; "" where it is.
      note: where the largest difference is, or what else went wrong.
    """

    part: str
    compared: str
    difference: float | None
    bound: float
    unclaimed: str = ""
    note: str = ""

    @property
    def verdict(self) -> str:
        """OK, VIOLATED or NOT_CLAIMED."""
        if self.unclaimed:
            return NOT_CLAIMED
        return OK if self.difference is not None and self.difference <= self.bound else VIOLATED

    def cells(self) -> tuple[str, ...]:
        """Returns the texts of the row, in the order of COLUMNS."""
        text = self.compared
        if self.unclaimed or (self.note and self.verdict == VIOLATED):
            text += f"\n({self.unclaimed or self.note})"
        return self.part, text, shown(self.difference), shown(self.bound), self.verdict

    def described(self) -> dict[str, Any]:
        """Returns a dict of JSON types; an infinite difference becomes None."""
        finite = self.difference is not None and math.isfinite(self.difference)
        return {**dataclasses.asdict(self), "difference": self.difference if finite else None,
                "verdict": self.verdict}


def shown(value: float | None) -> str:
    """Returns a difference or a bound as text."""
    if value is None:
        return "-"
    if not math.isfinite(value):
        return "differs"
    return f"{value:.1e}" if value and not 0.1 <= value < 1000 else f"{value:.3g}"


def violations(rows: Sequence[Comparison]) -> str:
    """Returns the violations in one line, the first of each part; "" where every claim holds."""
    parts: dict[str, list[Comparison]] = {}
    for row in rows:
        if row.verdict == VIOLATED:
            parts.setdefault(row.part, []).append(row)
    return "; ".join(_violation(*wrong) for wrong in parts.values())


def _violation(first: Comparison, *others: Comparison) -> str:
    note = f" ({first.note})" if first.note else ""
    more = f", and {len(others)} more of this part" if others else ""
    found = "not measured"
    if first.difference is not None:
        found = f"difference {shown(first.difference)}" if math.isfinite(first.difference) else "different"
        found += f", bound {shown(first.bound)}"
    return f"{first.part}: {first.compared}: {found}{note}{more}"


def plain_text(rows: Sequence[Comparison], width: int = PLAIN_WIDTH) -> str:
    """Returns the table with lines of at most `width` columns, for files and pipes."""
    lines = []
    for cells in (COLUMNS, *(row.cells() for row in rows)):
        part, compared, difference, bound, verdict = cells
        wrapped = [line for text in compared.split("\n") for line in textwrap.wrap(text, width - OTHERS)]
        lines.append(f"{part:<10} {wrapped[0]:<{width - OTHERS}} {difference:>10} {bound:>7} {verdict}")
        lines += [f"{'':<11}{line}" for line in wrapped[1:]]
    return "\n".join(lines)


def show(rows: Sequence[Comparison], file: TextIO) -> None:
    """Writes the table to an open text file: ruled and colored on a terminal, plain otherwise."""
    import rich.text  # The command's --help does without.

    from pipeline.console_table import open_console, print_rows
    console = open_console(file)
    if not console.is_terminal:
        print(plain_text(rows), file=file)
        return
    lines: list[list[str | rich.text.Text]] = []
    for row in rows:
        *cells, verdict = row.cells()
        lines.append([*cells, rich.text.Text(verdict, COLORS[verdict])])
    print_rows(console, COLUMNS, lines, left=(0, 1, 4), fold=(1,))
