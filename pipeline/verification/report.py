"""Rows of a proof, what they amount to, and the table of them."""
import dataclasses
import math
import textwrap

OK, VIOLATED, NOT_CLAIMED = "ok", "VIOLATED", "not claimed"
COLUMNS = ("part", "compared", "difference", "bound", "verdict")
COLORS = {OK: "green", VIOLATED: "bold red", NOT_CLAIMED: "yellow"}
PLAIN_WIDTH = 80
OTHERS = 42  # Columns of plain text that the second column cannot have.


@dataclasses.dataclass(frozen=True)
class Row:
    """One comparison.

    Attributes:
      part: of the proof, e.g. "replicas".
      compared: what was compared with what, in words.
      difference: the largest one, >= 0; infinite where the two cannot be brought together or are not finite; None
        where nothing was measured.
      bound: the largest difference that is allowed.
      unclaimed: why the bound is not claimed here; "" where it is.
      note: where the largest difference lies, or what else went wrong.
    """

    part: str
    compared: str
    difference: float | None
    bound: float
    unclaimed: str = ""
    note: str = ""

    @property
    def verdict(self):
        """OK, VIOLATED or NOT_CLAIMED."""
        if self.unclaimed:
            return NOT_CLAIMED
        return OK if self.difference is not None and self.difference <= self.bound else VIOLATED

    def cells(self):
        """Returns what is shown, as text, in the order of COLUMNS."""
        text = self.compared
        if self.unclaimed or (self.note and self.verdict == VIOLATED):
            text += f"\n({self.unclaimed or self.note})"
        return self.part, text, shown(self.difference), shown(self.bound), self.verdict

    def described(self):
        """Returns the row as a dict of JSON types; an infinite difference becomes None."""
        finite = self.difference is not None and math.isfinite(self.difference)
        return {**dataclasses.asdict(self), "difference": self.difference if finite else None,
                "verdict": self.verdict}


def shown(value):
    """Returns a difference or a bound as text."""
    if value is None:
        return "-"
    if not math.isfinite(value):
        return "differs"
    return f"{value:.1e}" if value and not 0.1 <= value < 1000 else f"{value:.3g}"


def violations(rows):
    """Returns what is violated in one line, the first row of each part; "" where every claim holds."""
    parts = {}
    for row in rows:
        if row.verdict == VIOLATED:
            parts.setdefault(row.part, []).append(row)
    return "; ".join(_violation(*wrong) for wrong in parts.values())


def _violation(first, *others):
    note = f" ({first.note})" if first.note else ""
    more = f", and {len(others)} more of this part" if others else ""
    return f"{first.part}: {first.compared}: {_against_bound(first)}{note}{more}"


def _against_bound(row):
    if row.difference is None:
        return "not measured"
    found = "different" if not math.isfinite(row.difference) else f"difference {shown(row.difference)}"
    return f"{found}, bound {shown(row.bound)}"


def plain_text(rows, width=PLAIN_WIDTH):
    """Returns the table as lines of at most `width` columns, for files and pipes."""
    lines = []
    for cells in (COLUMNS, *(row.cells() for row in rows)):
        part, compared, difference, bound, verdict = cells
        wrapped = [line for text in compared.split("\n") for line in textwrap.wrap(text, width - OTHERS)]
        lines.append(f"{part:<10} {wrapped[0]:<{width - OTHERS}} {difference:>10} {bound:>7} {verdict}")
        lines += [f"{'':<11}{line}" for line in wrapped[1:]]
    return "\n".join(lines)


def show(rows, file):
    """Writes the table to an open text file: ruled and in colour on a terminal, plain otherwise."""
    import rich.text

    from pipeline.console_table import open_console, print_rows
    console = open_console(file)
    if not console.is_terminal:
        print(plain_text(rows), file=file)
        return
    lines = []
    for row in rows:
        *cells, verdict = row.cells()
        lines.append([*cells, rich.text.Text(verdict, COLORS[row.verdict])])
    print_rows(console, COLUMNS, lines, left=(0, 1, 4), fold=(1,))
