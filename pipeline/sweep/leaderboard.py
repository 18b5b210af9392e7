"""Who leads: a table that lives on a terminal, lines in a file, and the table at the end."""
import shutil
import sys
import textwrap
import time

from pipeline.console import Console
from pipeline.console_table import open_console
from pipeline.quantities import clock, counted
from pipeline.sweep.records import FAILED, FINISHED, PRUNED, RUNNING, best, ranked
from pipeline.sweep.space import value_text
from pipeline.terminal import LastingStream, is_live, printable

SECONDS_BETWEEN = 0.5  # Two looks at a table.
FILE_WIDTH = 200  # Columns where lines are not broken.
STYLES = {PRUNED: "dim", FAILED: "red", RUNNING: "cyan"}
FIGURES, SHARED, GAP = 5, "values", 2  # Columns before those of options; the one they share; blanks after each.
LINES_AROUND = 6  # Of a terminal, that the table on it does not have.


def figure(metric, value):
    """Returns a metric as text: 97.22%, 0.1234, or a dash."""
    if value is None:
        return "–"
    return f"{value:.2%}" if metric == "accuracy" else f"{value:.4f}"


def values_text(values):
    """Returns `name=value name=value`; nothing in it can be mistaken for two."""
    return " ".join(f"{name}={value_text(value) or 'none'}" for name, value in values.items())


def in_epochs(count):
    """Returns "1 epoch" or "2.5 epochs" of a number that is text already."""
    return f"{count} {'epoch' if count == '1' else 'epochs'}"


def epochs_text(trial, now=None):
    """Returns how far a trial is, in epochs: 2, or 1.3/4 where it did not come to its end."""
    done = now if now is not None else trial.last.get("epoch", 0.0)
    length = trial.epochs
    if length is None or (now is None and not done):
        return "–" if not done else _epochs(done, ".1f")
    whole = _epochs(length)
    return whole if done >= length - 0.05 * min(1, length) else f"{_epochs(done, '.1f')}/{whole}"


def _epochs(number, form="g"):
    """Returns a number of epochs as text, with one decimal, or two figures of less than one epoch: never 0."""
    return format(round(number, 1), form) if number >= 1 or not number else f"{number:.2g}"


class PlainLeaderboard:
    """A line where a trial begins and ends: for files and pipes."""

    def __init__(self, metric, wanted, info):
        """
        Args:
          metric: "accuracy" or "loss".
          wanted: number of trials in all.
          info: called with each line.
        """
        self.metric, self.wanted, self.info = metric, wanted, info

    def begin(self, trial):
        """A trial begins, or goes on."""
        done = f"{trial.last['epoch']:g}" if trial.evaluations else ""
        on = f" goes on after {in_epochs(done)}" if done else ""
        self.info(printable(f"{self._name(trial)}{on}  {values_text(trial.values)}"))

    def end(self, trial, trials):
        """A trial has ended."""
        self.info(printable(f"{self._name(trial)}  {self._ending(trial, trials)}"))

    def _name(self, trial):
        width = len(str(self.wanted))
        return f"trial {trial.number:{width}d}/{self.wanted}"

    def _ending(self, trial, trials):
        reached = f"validation {self.metric} {figure(self.metric, trial.last.get(self.metric))}"
        if trial.status == FAILED:
            return f"FAILED: {trial.message}"
        if trial.status == FINISHED:
            first = best(trials, self.metric)
            leads = "the best so far"
            if first is not trial:
                leads = f"best {figure(self.metric, first.last[self.metric])} of trial {first.number}"
            return f"{reached} ({leads}) after {in_epochs(epochs_text(trial))}, {clock(trial.seconds)}"
        if trial.status == PRUNED:
            return f"pruned: {reached} after {in_epochs(epochs_text(trial))}"
        return f"stopped after {in_epochs(epochs_text(trial))}"

    def update(self, trials, processes, stopping):
        """Shows how it stands; called again and again."""

    def close(self):
        """Ends the display."""


class LiveLeaderboard(PlainLeaderboard):
    """A table that stays in place, with lines of what went wrong above it: for a terminal."""

    def __init__(self, metric, wanted):
        from rich.console import Console
        from rich.live import Live
        self.console = Console(file=LastingStream(sys.stdout))  # Trials do not end because nobody looks on.
        super().__init__(metric, wanted, lambda text: self.console.print(text, highlight=False, markup=False))
        self._live = Live(console=self.console, auto_refresh=False, transient=True)
        self._live.start()
        self._shown, self._began = 0.0, time.monotonic()

    def begin(self, trial):
        """The table shows it."""

    def end(self, trial, trials):
        """The table shows it; why one failed, it does not."""
        if trial.status == FAILED:
            super().end(trial, trials)

    def update(self, trials, processes, stopping):
        """Draws the table anew, not too often."""
        if time.monotonic() - self._shown < SECONDS_BETWEEN:
            return
        from rich.console import Group
        from rich.text import Text
        self._shown = time.monotonic()
        now = {process.trial.number: process.epoch() for process in processes}
        done = sum(trial.status in (FINISHED, PRUNED, FAILED) for trial in trials)
        head = f"{done} of {counted(self.wanted, 'trial')} done, {clock(self._shown - self._began)} since the start"
        if stopping:
            head = "stopping: trials that run save first"
        most = max(3, self.console.height - LINES_AROUND)
        # The last line is empty: there a terminal writes ^C without moving what is to be drawn over.
        self._live.update(Group(Text(head), table(trials, self.metric, self.console.width, now, most), Text()),
                          refresh=True)

    def close(self):
        """Takes the table away."""
        self._live.stop()


def create_leaderboard(metric, wanted, verbosity):
    """Returns the display that fits: none if quiet, a live table on a terminal, lines elsewhere."""
    if verbosity == "quiet":
        return PlainLeaderboard(metric, wanted, Console(quiet=True).info)
    if is_live(sys.stdout):
        return LiveLeaderboard(metric, wanted)
    return PlainLeaderboard(metric, wanted, Console(lasting=True).info)


def table(trials, metric, width, now=None, most=None):
    """Returns the leaderboard as a rich table that fits.

    Args:
      trials: list of Trial.
      metric: what they are ranked by.
      width: columns there are. Where the options need more, even with their names in two lines, they share one column,
        cut off at its end.
      now: {number of a trial that runs: epochs done}.
      most: lines there is room for; None: any number. Trials that run are always shown.
    """
    import rich.box
    import rich.table
    import rich.text

    first = best(trials, metric)
    heads, rows = _columns(trials, metric, width, now or {})
    shown = rows if most is None or len(rows) <= most else _fitting(rows, most)
    left_out = len(rows) - len(shown)
    found = rich.table.Table(box=rich.box.SIMPLE_HEAD, padding=(0, 1, 0, 0), caption_justify="left",
                             caption=f"and {left_out} more" if left_out else None)
    for i, head in enumerate(heads):
        found.add_column(head, justify="right" if head in ("", "trial", metric, "epochs") else "left",
                         no_wrap=head == SHARED,
                         min_width=_width([head], rows, i))
    for trial, cells in shown:
        # As Text: brackets in a value are no markup.
        found.add_row(*(rich.text.Text(printable(cell)) for cell in cells),
                      style="bold" if trial is first else STYLES.get(trial.status))
    return found


def _columns(trials, metric, width, now):
    """Returns (heads, [(Trial, cells)]) in the first form that fits, or that which can be cut."""
    names = list(trials[0].values) if trials else []
    heads = ["", "trial", metric, "epochs", "status"]
    rows = [(trial, _cells(trial, place, names, metric, now.get(trial.number)))
            for place, trial in enumerate(ranked(trials, metric), 1)]
    for form in (names, [name.replace("_", " ") for name in names]):
        if sum(_width([head], rows, i) + GAP for i, head in enumerate([*heads, *form])) < width:
            return [*heads, *form], rows
    room = max(len(SHARED), width - sum(_width([head], rows, i) + GAP for i, head in enumerate(heads)) - GAP - 1)
    heads, rows = [*heads, SHARED], [(trial, [*cells[:FIGURES], _cut(values_text(trial.values), room)])
                                     for trial, cells in rows]
    for least in (SHARED, "epochs", ""):  # A number that is broken in two is worse than none.
        if sum(_width([head], rows, i) + GAP for i, head in enumerate(heads)) >= width:
            place = heads.index(least)
            heads.pop(place)
            rows = [(trial, cells[:place] + cells[place + 1:]) for trial, cells in rows]
    return heads, rows


def _width(heads, rows, column):
    """Returns the columns of the longest word in a column."""
    return max(len(word) for text in (*heads, *(cells[column] for _, cells in rows)) for word in text.split() or [""])


def _cut(text, room):
    return text if len(text) <= room else f"{text[:room - 1]}…"


def _fitting(rows, most):
    """Returns at most `most` rows: those that run, and the first of the others."""
    room = most - sum(trial.status == RUNNING for trial, _ in rows)
    chosen = [trial for trial, _ in rows if trial.status != RUNNING][:max(1, room)]
    return [(trial, cells) for trial, cells in rows if trial.status == RUNNING or trial in chosen]


def _cells(trial, place, names, metric, now):
    return [str(place) if trial.status == FINISHED else "", str(trial.number), figure(metric, trial.last.get(metric)),
            epochs_text(trial, now), trial.status, *(value_text(trial.values[name]) or "none" for name in names)]


def print_paragraph(name, text):
    """Prints `name    text`, on a terminal broken between words, each line under the first."""
    width = shutil.get_terminal_size().columns if sys.stdout.isatty() else sys.maxsize
    Console(lasting=True).info(textwrap.fill(
        printable(text), width, initial_indent=f"{name:8}", subsequent_indent=" " * 8, break_on_hyphens=False,
        break_long_words=False))


def print_final(trials, metric, file=None):
    """Prints the leaderboard as it is at the end, and why trials failed."""

    file = file or LastingStream(sys.stdout)
    console = open_console(file, FILE_WIDTH)
    found = table(trials, metric, console.width)
    if found.columns[-1].header == SHARED:
        found.columns.pop()
    console.print(found)
    for trial in ranked(trials, metric) if len(found.columns) <= FIGURES else ():
        console.print(printable(f"trial {trial.number}: {values_text(trial.values)}"), highlight=False, markup=False)
    for trial in trials:
        if trial.status == FAILED:
            console.print(printable(f"trial {trial.number} failed: {trial.message}"), highlight=False, markup=False)
