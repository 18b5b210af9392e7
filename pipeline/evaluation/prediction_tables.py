"""Predictions on a terminal: a table that grows batch by batch, and a progress bar under it."""
import sys
from collections.abc import Sequence
from typing import Any, TextIO

import rich.cells
import rich.console
import rich.progress

from pipeline.console_table import make_table, open_console
from pipeline.evaluation.prediction import Prediction
from pipeline.terminal import printable

NARROW = 80
GAP = 2
MOST_CLASS, LEAST_NEXT = 24, 12  # Columns of the terminal.
UNLIMITED = 100_000


def keep_end(text: str, width: int) -> str:
    """Returns a path cut to a width in columns from the left, as its end tells most."""
    if rich.cells.cell_len(text) <= width:
        return text
    while text and rich.cells.cell_len(text) > width - 1:
        text = text[1:]
    return "…" + text


def percent(probability: float) -> str:
    """Returns a probability as 97.31%."""
    return f"{probability:.2%}"


class TableWriter:
    """A row for each file: file, class, probability, and the next classes.

    Column widths are known from the start, so that rows can be printed batch by batch.
    """

    def __init__(self, console: Any, files: Sequence[str], class_names: Sequence[str], top: int):
        """
        Args:
          console: rich Console; nothing is cut where it is no terminal.
          files: paths of all rows.
          class_names: names of all classes.
          top: number of classes of each prediction.
        """
        self._console, self._header = console, True
        width = console.width if console.is_terminal else UNLIMITED
        self._titles = ("file", "class", "probability" if width >= NARROW else "prob.", "next")
        self._widths = self._column_widths(files, class_names, top, width)

    def _column_widths(self, files: Sequence[str], class_names: Sequence[str], top: int, width: int
                       ) -> tuple[int, int, int, int]:
        """Returns the widths of (file, class, probability, next); next is 0 where there is no room or none."""
        classes = max(rich.cells.cell_len(printable(name)) for name in class_names)
        names = max(len("file"), classes if width >= UNLIMITED else min(classes, MOST_CLASS, width // 4), len("class"))
        number = max(len(self._titles[2]), len(percent(1)))
        paths = max(rich.cells.cell_len(printable(file)) for file in files) if files else 0
        entry = classes + 1 + len(percent(0.1))
        following = max(len("next"), (top - 1) * (entry + GAP) - GAP) if top > 1 else 0
        room = width - names - number - 3 * GAP
        if paths + following > room:
            following = min(following, max(room - paths, room // 2))
            following = following if following >= LEAST_NEXT else 0
        return max(4, min(paths, room - following)), names, number, following

    def write(self, predictions: Sequence[Prediction]) -> None:
        """Prints the rows of a list of Prediction."""
        rows = [self._row(prediction) for prediction in predictions]
        if self._console.is_terminal:
            self._console.print(self._ruled(rows))
        else:
            lines = [self._titles, *rows] if self._header else rows
            self._console.file.writelines(self._line(row) for row in lines)
            self._console.file.flush()
        self._header = False

    def _row(self, prediction: Prediction) -> tuple[str, str, str, str]:
        (name, probability), *others = prediction.classes
        following = ""
        for other, p in others:  # As many as fit, each of them whole.
            longer = following + " " * GAP * bool(following) + f"{printable(other)} {percent(p)}"
            if following and rich.cells.cell_len(longer) > self._widths[-1]:
                break
            following = longer
        return keep_end(printable(prediction.file), self._widths[0]), printable(name), percent(probability), following

    def _ruled(self, rows: Sequence[tuple[str, ...]]) -> Any:
        styles, sides = (None, "bold", None, "dim"), ("left", "left", "right", "left")
        shown = [column for column, width in enumerate(self._widths) if width]
        columns = [(self._titles[column], {
            "width": self._widths[column], "no_wrap": True, "overflow": "ellipsis", "style": styles[column],
            "justify": sides[column]}) for column in shown]
        return make_table(columns, [[row[column] for column in shown] for row in rows], show_edge=False,
                          pad_edge=False, padding=(0, GAP - 1, 0, 0), show_header=self._header)

    def _line(self, row: tuple[str, ...]) -> str:
        file, name, probability, following = row
        paths, names, number, last = self._widths
        parts = [rich.cells.set_cell_size(file, paths), rich.cells.set_cell_size(name, names),
                 probability.rjust(number), following if last else ""]
        return (" " * GAP).join(parts).rstrip() + "\n"

    def close(self) -> None:
        """Ends the table."""


class PredictionDisplay:
    """Standard output and error, with a progress bar where one of them is a terminal. A context manager.

    Attributes:
      console: rich Console of standard output or of the file of the rows.
    """

    def __init__(self, total: int, rows: str | None, file: TextIO | None = None, quiet: bool = False):
        """
        Args:
          total: number of files.
          rows: what goes to standard output: "table", "other" or None.
          file: of a table, instead of standard output.
          quiet: print problems alone.
        """
        self.console = open_console(file or sys.stdout)
        self._quiet, self._aside = quiet, rows == "other"
        self._bar: Any = None
        terminal = self._bar_console(rows)
        if terminal and not quiet:
            self._bar = rich.progress.Progress(
                rich.progress.TextColumn("predicting"), rich.progress.BarColumn(bar_width=None),
                rich.progress.MofNCompleteColumn(), rich.progress.TimeRemainingColumn(), console=terminal,
                transient=True, redirect_stdout=False, redirect_stderr=False, expand=True)
            self._task = self._bar.add_task("", total=total)

    def _bar_console(self, rows: str | None) -> Any:
        """Returns the console of the bar, None where rows would be written across it."""
        if rows == "table" and self.console.is_terminal:
            return self.console
        if rows == "other" and sys.stdout.isatty() or not sys.stderr.isatty():
            return None
        return rich.console.Console(stderr=True)

    def __enter__(self) -> "PredictionDisplay":
        if self._bar:
            self._bar.start()
        return self

    def __exit__(self, *exception: object) -> None:
        if self._bar:
            self._bar.stop()

    def advance(self, count: int) -> None:
        """Moves the bar by a number of files."""
        if self._bar:
            self._bar.advance(self._task, count)

    def info(self, text: str) -> None:
        """Writes a line on standard output, or on standard error where CSV or JSON goes there."""
        if self._quiet:
            return
        if self._aside:
            self.warning(text)
        elif self._bar and sys.stdout.isatty():
            self._bar.console.print(text, markup=False, highlight=False, soft_wrap=True)
        else:
            print(text, flush=True)

    def warning(self, text: str) -> None:
        """Writes a line on standard error."""
        if self._bar and sys.stderr.isatty():
            self._bar.console.print(text, markup=False, highlight=False, soft_wrap=True)
        else:
            print(text, file=sys.stderr, flush=True)
