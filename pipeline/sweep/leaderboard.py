"""What a person sees while a sweep runs: a table that stays in place on a terminal, lines elsewhere."""
import sys
import time
from collections.abc import Callable, Sequence
from typing import TextIO, cast

from pipeline.console import Console
from pipeline.quantities import clock, counted
from pipeline.sweep.records import FAILED, FINISHED, PRUNED, Trial, best
from pipeline.sweep.tables import epochs_text, figure, in_epochs, leaderboard_table, values_text
from pipeline.sweep.trials import TrialProcess
from pipeline.terminal import LastingStream, is_live, printable

# Imports inside functions: rich takes time, and only a terminal needs it.

SECONDS_BETWEEN = 0.5  # Updates of the table.
LINES_AROUND = 6  # Lines of a terminal that the table leaves free.


class PlainLeaderboard:
    """One line where a trial starts and one where it ends: for files and pipes."""

    def __init__(self, metric: str, wanted: int, info: Callable[[str], None]):
        """
        Args:
          metric: "accuracy" or "loss".
          wanted: total number of trials.
          info: called with each line.
        """
        self.metric, self.wanted, self.info = metric, wanted, info

    def begin(self, trial: Trial) -> None:
        """Reports that a trial starts or continues."""
        done = f"{trial.last['epoch']:g}" if trial.evaluations else ""
        on = f" continues after {in_epochs(done)}" if done else ""
        self.info(printable(f"{self._name(trial)}{on}  {values_text(trial.values)}"))

    def end(self, trial: Trial, trials: Sequence[Trial]) -> None:
        """Reports how a trial of `trials` ended."""
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

    def update(self, trials: Sequence[Trial], processes: Sequence[TrialProcess], stopping: bool) -> None:
        """Updates what is shown of running trials; called often."""

    def close(self) -> None:
        """Ends the display."""


class LiveLeaderboard(PlainLeaderboard):
    """A table that stays in place, with failures above it: for a terminal."""

    def __init__(self, metric: str, wanted: int):
        import rich.console  # 0.1 s that pipes do not need.
        import rich.live
        # A terminal that is closed ends no trial.
        self.console = rich.console.Console(file=cast(TextIO, LastingStream(sys.stdout)))
        super().__init__(metric, wanted, lambda text: self.console.print(text, highlight=False, markup=False))
        self._live = rich.live.Live(console=self.console, auto_refresh=False, transient=True)
        self._live.start()
        self._shown, self._began = 0.0, time.monotonic()

    def begin(self, trial: Trial) -> None:
        """Does nothing: the table shows it."""

    def end(self, trial: Trial, trials: Sequence[Trial]) -> None:
        """Reports a failure, whose reason the table does not show."""
        if trial.status == FAILED:
            super().end(trial, trials)

    def update(self, trials: Sequence[Trial], processes: Sequence[TrialProcess], stopping: bool) -> None:
        """Redraws the table, at most twice a second."""
        if time.monotonic() - self._shown < SECONDS_BETWEEN:
            return
        from rich.console import Group
        from rich.text import Text
        self._shown = time.monotonic()
        now = {process.trial.number: process.epoch() for process in processes}
        done = sum(trial.status in (FINISHED, PRUNED, FAILED) for trial in trials)
        head = f"{done} of {counted(self.wanted, 'trial')} done, {clock(self._shown - self._began)} since the start"
        if stopping:
            head = "stopping: running trials save first"
        most = max(3, self.console.height - LINES_AROUND)
        table = leaderboard_table(trials, self.metric, self.console.width, now, most)
        # On the empty last line a terminal writes ^C without moving what is redrawn.
        self._live.update(Group(Text(head), table, Text()), refresh=True)

    def close(self) -> None:
        """Removes the table."""
        self._live.stop()


def create_leaderboard(metric: str, wanted: int, verbosity: str) -> PlainLeaderboard:
    """Returns the display: none if quiet, a live table on a terminal, lines elsewhere."""
    if verbosity == "quiet":
        return PlainLeaderboard(metric, wanted, Console(quiet=True).info)
    if is_live(sys.stdout):
        return LiveLeaderboard(metric, wanted)
    return PlainLeaderboard(metric, wanted, Console(lasting=True).info)
