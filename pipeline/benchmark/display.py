"""What a person sees while a benchmark runs, and at its end."""
import sys
import time
from collections.abc import Callable, Mapping
from typing import Any, TextIO

from pipeline.benchmark.derived import is_halved, is_measured
from pipeline.benchmark.grid import name_of
from pipeline.benchmark.tables import ALONE, COLUMNS, LEFT, number, percent, spread, step_milliseconds, varying
from pipeline.console import STANDARD, Console
from pipeline.console_table import open_console, print_rows
from pipeline.quantities import clock, counted
from pipeline.terminal import is_live

# Imports inside functions: rich takes time, and only a terminal needs it.

KEY_COLUMNS = {"image_size": "image", "batch_size": "batch", "xla": "XLA"}  # The others have the names of the key.
FIGURES = ("examples/s (spread)", ALONE, "over float32", "scaling weak / strong", "of ceiling",
           "input wait", "peak MiB", "remark")


def line(figures: Mapping[str, Any]) -> str:
    """Returns the figures of a cell in one line."""
    if figures["status"] == "failed":
        return f"FAILED: {figures['error']}"
    if not is_measured(figures):
        return "does not fit into memory, not even the smallest batch"
    batch = f"batch {figures['fitted_batch_size']} fits, " if is_halved(figures) else ""
    return (f"{batch}{spread(figures)} examples/s, {number(step_milliseconds(figures))} ms a step, input wait "
            f"{percent(figures['input_wait_share'])}{', emulated' if figures['emulated'] else ''}")


class PlainDisplay:
    """One line for each cell: for files and pipes."""

    def __init__(self, info: Callable[[str], None]):
        """
        Args:
          info: called with each line.
        """
        self.info = info

    def begin(self, cell: int, cells: int, key: Mapping[str, Any], left: float | None) -> None:
        """Reports that a cell starts: its number, of how many, its key, and the seconds left."""

    def phase(self, text: str) -> None:
        """Reports the current phase; may be called often."""

    def end(self, cell: int, cells: int, figures: Mapping[str, Any], left: float | None, kept: bool) -> None:
        """Reports that a cell is done; kept: it was measured before."""
        more = "; measured before" if kept else f"; {clock(left)} left" if left else ""
        width = len(str(cells))
        self.info(f"{cell:{width}d}/{cells}  {name_of(figures)}: {line(figures)}{more}")

    def close(self) -> None:
        """Ends the display."""


class LiveDisplay(PlainDisplay):
    """A progress bar, with the lines of the cells above it: for a terminal."""

    def __init__(self):
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
        self.console = Console()
        super().__init__(lambda text: self.console.print(text, highlight=False, markup=False))
        self._bar = Progress(TextColumn("{task.description}", markup=False), BarColumn(), TextColumn(
            "{task.fields[doing]}", markup=False), TimeElapsedColumn(), console=self.console, transient=True)
        self._task, self._where, self._until = self._bar.add_task("starting", total=None, doing=""), "starting", None
        self._bar.start()

    def begin(self, cell: int, cells: int, key: Mapping[str, Any], left: float | None) -> None:
        """Advances the bar."""
        self._show(f"cell {cell}/{cells}", left)
        self._bar.update(self._task, total=cells, completed=cell - 1, doing="")

    def phase(self, text: str) -> None:
        """Shows the phase and the time left."""
        if self._until is not None:
            self._show(self._where, self._until - time.monotonic())
        self._bar.update(self._task, doing=text)

    def end(self, cell: int, cells: int, figures: Mapping[str, Any], left: float | None, kept: bool) -> None:
        """Advances the bar, and completes it after the last cell."""
        super().end(cell, cells, figures, left, kept)
        if cell == cells:
            self._show(f"{counted(cells, 'cell')} measured", None)
        self._bar.update(self._task, completed=cell)

    def _show(self, where, left):
        """Shows the current cell, and the seconds left, if any."""
        self._where, self._until = where, left and time.monotonic() + left
        self._bar.update(self._task, description=where + (f", {clock(left)} left" if left and left >= 1 else ""))

    def close(self) -> None:
        """Removes the bar."""
        self._bar.stop()


def create_display(verbosity: str) -> PlainDisplay:
    """Returns the display: none if quiet, a live one on a terminal, lines elsewhere."""
    if verbosity == "quiet":
        return PlainDisplay(Console(quiet=True).info)
    return LiveDisplay() if is_live(sys.stdout) else PlainDisplay(STANDARD.info)


def print_table(report: Mapping[str, Any], file: TextIO | None = None) -> None:
    """Prints the cells of a report as a table, with the parts of the key that vary.

    Args:
      report: dict as in benchmark.json.
      file: an open text file; default standard output.
    """
    console = open_console(file or sys.stdout, 200)
    cells = report["cells"]
    key = [KEY_COLUMNS.get(name, name) for name in varying(cells) or ("model",)]
    shown = key + [name for name in FIGURES if any(COLUMNS[name](cell).strip("– /") for cell in cells)]
    places = [i for i, name in enumerate(shown) if name in LEFT]
    print_rows(console, shown, [[COLUMNS[name](cell) for name in shown] for cell in cells], left=places)
