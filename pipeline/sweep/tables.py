"""The leaderboard as text: figures, and a table of one line a trial that fits a window."""
import shutil
import sys
import textwrap
from collections.abc import Mapping, Sequence
from typing import Any, TextIO, cast

from pipeline.console import Console
from pipeline.console_table import make_table, open_console
from pipeline.sweep.records import FAILED, FINISHED, PRUNED, RUNNING, Trial, best, ranked
from pipeline.sweep.space import value_text
from pipeline.terminal import LastingStream, printable

FILE_WIDTH = 200  # Columns where lines are not broken.
STYLES = {PRUNED: "dim", FAILED: "red", RUNNING: "cyan"}
FIGURES = 5  # Columns before those of the options.
SHARED = "values"  # The column that all options share where there is no room for one each.
GAP = 2  # Blanks after each column.
NUMBERS = ("", "trial", "accuracy", "loss", "epochs")


def figure(metric: str, value: float | None) -> str:
    """Returns a metric as text: 97.22%, 0.1234, or a dash."""
    if value is None:
        return "–"
    return f"{value:.2%}" if metric == "accuracy" else f"{value:.4f}"


def values_text(values: Mapping[str, Any]) -> str:
    """Returns `name=value name=value`."""
    return " ".join(f"{name}={value_text(value) or 'none'}" for name, value in values.items())


def in_epochs(count: str) -> str:
    """Returns "1 epoch" or "2.5 epochs" of a formatted number."""
    return f"{count} {'epoch' if count == '1' else 'epochs'}"


def epochs_text(trial: Trial, now: float | None = None) -> str:
    """Returns the epochs of a trial: 2, or 1.3/4 where it did not complete; `now` are those of a running one."""
    done = now if now is not None else trial.last.get("epoch", 0.0)
    length = trial.epochs
    if length is None or (now is None and not done):
        return "–" if not done else _epochs(done, ".1f")
    whole = _epochs(length)
    return whole if done >= length - 0.05 * min(1, length) else f"{_epochs(done, '.1f')}/{whole}"


def _epochs(number, form="g"):
    """Formats epochs with one decimal, or with two significant digits below one epoch."""
    return format(round(number, 1), form) if number >= 1 or not number else f"{number:.2g}"


def leaderboard_table(trials: Sequence[Trial], metric: str, width: int, now: Mapping[int, float] | None = None,
                      most: int | None = None) -> Any:
    """Returns the leaderboard as a rich.table.Table.

    Args:
      trials: all trials so far.
      metric: "accuracy" or "loss", by which they are ranked.
      width: of the window, in columns. Where the options need more, they share one column, cut off at its end.
      now: {number of a running trial: epochs done}.
      most: largest number of rows; None for all. Running trials are always shown.
    """
    heads, rows = _columns(trials, metric, width, now or {})
    shown = rows if most is None or len(rows) <= most else _fitting(rows, most)
    return _table(heads, rows, shown, best(trials, metric))


def print_final(trials: Sequence[Trial], metric: str, file: TextIO | None = None) -> None:
    """Prints the final leaderboard, and why trials failed, to an open text file, default standard output."""
    console = open_console(file or cast(TextIO, LastingStream(sys.stdout)), FILE_WIDTH)
    heads, rows = _columns(trials, metric, console.width, {})
    if SHARED in heads:
        heads, rows = heads[:-1], [(trial, cells[:-1]) for trial, cells in rows]
    console.print(_table(heads, rows, rows, best(trials, metric)))
    lines = [f"trial {trial.number}: {values_text(trial.values)}"
             for trial in ranked(trials, metric)] if len(heads) <= FIGURES else []
    lines += [f"trial {trial.number} failed: {trial.message}" for trial in trials if trial.status == FAILED]
    for line in lines:
        console.print(printable(line), highlight=False, markup=False)


def print_paragraph(name: str, text: str) -> None:
    """Prints `name    text`, on a terminal broken between words, each line under the first."""
    width = shutil.get_terminal_size().columns if sys.stdout.isatty() else sys.maxsize
    Console(lasting=True).info(textwrap.fill(
        printable(text), width, initial_indent=f"{name:8}", subsequent_indent=" " * 8, break_on_hyphens=False,
        break_long_words=False))


def _table(heads, rows, shown, first):
    columns = [(head, {"justify": "right" if head in NUMBERS else "left", "no_wrap": head == SHARED,
                       "min_width": _width(head, rows, i)}) for i, head in enumerate(heads)]
    caption = f"and {len(rows) - len(shown)} more" if len(shown) < len(rows) else None
    return make_table(columns, [cells for _, cells in shown],
                      ["bold" if trial is first else STYLES.get(trial.status) for trial, _ in shown],
                      caption=caption, caption_justify="left")


def _columns(trials, metric, width, now):
    """Returns (heads, [(Trial, cells)]) of the widest form that fits.

    These are: a column an option, its name in one line or in several; one column that all share; fewer figures.
    """
    names = list(trials[0].values) if trials else []
    heads = ["", "trial", metric, "epochs", "status"]
    rows = [(trial, _cells(trial, place, names, metric, now.get(trial.number)))
            for place, trial in enumerate(ranked(trials, metric), 1)]
    for form in (names, [name.replace("_", " ") for name in names]):
        if _total([*heads, *form], rows) < width:
            return [*heads, *form], rows
    room = max(len(SHARED), width - _total(heads, rows) - GAP - 1)
    heads, rows = [*heads, SHARED], [(trial, [*cells[:FIGURES], _cut(values_text(trial.values), room)])
                                     for trial, cells in rows]
    for least in (SHARED, "epochs", ""):  # A number broken in two is worse than none.
        if _total(heads, rows) >= width:
            place = heads.index(least)
            heads.pop(place)
            rows = [(trial, cells[:place] + cells[place + 1:]) for trial, cells in rows]
    return heads, rows


def _total(heads, rows):
    return sum(_width(head, rows, i) + GAP for i, head in enumerate(heads))


def _width(head, rows, column):
    """Returns the width of the longest word of a column."""
    return max(len(word) for text in (head, *(cells[column] for _, cells in rows)) for word in text.split() or [""])


def _cut(text, room):
    return text if len(text) <= room else f"{text[:room - 1]}…"


def _fitting(rows, most):
    """Returns at most `most` rows: those of running trials, and the first of the others."""
    room = most - sum(trial.status == RUNNING for trial, _ in rows)
    chosen = [trial for trial, _ in rows if trial.status != RUNNING][:max(1, room)]
    return [(trial, cells) for trial, cells in rows if trial.status == RUNNING or trial in chosen]


def _cells(trial, place, names, metric, now):
    return [str(place) if trial.status == FINISHED else "", str(trial.number), figure(metric, trial.last.get(metric)),
            epochs_text(trial, now), trial.status, *(value_text(trial.values[name]) or "none" for name in names)]
