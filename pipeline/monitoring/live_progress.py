"""The live display of a terminal: bars of the epoch and of the run, and below them what one asks of a run."""
import math
import sys
import time

from rich.cells import cell_len
from rich.console import Console
from rich.text import Text

from pipeline.callbacks import Evaluated, Restored, Window
from pipeline.internals.rich_internals import ResizableLive
from pipeline.monitoring.progress import PlainProgress, means
from pipeline.quantities import clock, rate
from pipeline.terminal import LastingStream

REFRESHES = 2  # A second; drawing takes the processor from the training.
TWO_COLUMNS = 80  # Columns of a window from which on two things stand side by side.
GAP, MARGIN = 3, 3  # Columns; the margin has room for the ^C that the terminal shows.
SHORTEST_BAR = 5


class LiveProgress(PlainProgress):
    """A few lines that move, with those of evaluations and warnings above them."""

    def __init__(self, plan, console=None):
        """
        Args:
          plan: Plan of the run.
          console: rich.console.Console of a terminal; default that of standard output, as long as there is one.
        """
        self.console = console or Console(file=LastingStream(sys.stdout))
        super().__init__(plan)
        self.activity_console = None
        self._screen = Screen(self)
        self._live = ResizableLive(
            self._screen, lambda: self._screen.widths, console=self.console, refresh_per_second=REFRESHES,
            transient=True, vertical_overflow="crop", redirect_stderr=sys.stderr is not None and sys.stderr.isatty())
        self.step, self.loss, self.accuracy, self.system, self.doing = 0, None, None, {}, None
        self.split, self.checkpoint = None, None

    def _print(self, text, style=None):
        self.console.print(Text(text, style=style or "", overflow="fold"))

    def on_start(self, restored: Restored) -> None:
        """Shows the display."""
        super().on_start(restored)
        self.step, self.doing = restored.step, "compiling the step"
        self.checkpoint = (restored.step, None) if restored.step else None
        self._live.start()

    def on_rollback(self, restored: Restored) -> None:
        """Takes the evaluations on record, see PlainProgress."""
        super().on_rollback(restored)
        self.split = restored.evaluations[-1]["split"] if restored.evaluations else None

    def on_window(self, window: Window) -> None:
        """Moves the bars."""
        self._time_left.window(window.step, window.system.get("examples_per_second"))
        self.step, self.doing, (self.loss, self.accuracy) = window.step, None, means(window)
        shown = ("examples_per_second", "ceiling_share")
        self.system = {**self.system, **{name: window.system[name] for name in shown if name in window.system}}

    def on_evaluation(self, evaluated: Evaluated) -> None:
        """Prints an evaluation above the display, in one line where that can be."""
        self.split, self.doing = evaluated.split.name, None
        super().on_evaluation(evaluated)

    def _evaluation_lines(self, step, split, figures):
        lines, room = super()._evaluation_lines(step, split, figures), self.console.width
        return [line for line in lines if cell_len(line) <= room] or lines[-1:]

    def phase(self, text):
        """Shows what is done between two windows."""
        self.doing = text

    def on_checkpoint(self, step: int) -> None:
        """Shows a checkpoint; that of step 0 is nobody's work yet."""
        if step:
            self.checkpoint = (step, time.monotonic())

    def info(self, text):
        """Prints a line above the display."""
        self._print(text)

    def warning(self, text):
        """Prints a warning above the display."""
        self._print(f"warning: {text}", "yellow")

    def seconds_left(self):
        """Returns the seconds until the end of the run, None where they are not known."""
        return self._time_left.seconds()

    def close(self) -> None:
        """Takes the display away."""
        self._live.stop()


class Screen:
    """Draws the display in the width that the window has now.

    Attributes:
      widths: columns of each line as it was drawn.
    """

    def __init__(self, progress):
        """Args: progress: LiveProgress."""
        self._progress, self.widths = progress, []

    def __rich_console__(self, console, options):
        width = max(1, options.max_width - MARGIN)
        columns = 2 if options.max_width >= TWO_COLUMNS else 1
        each = (width - GAP * (columns - 1)) // columns
        cells = [self._epoch(each, options.ascii_only), self._run(each, options.ascii_only), *self._items(each)]
        lines = [cells[i:i + columns] for i in range(0, len(cells), columns)]
        lines = lines[:max(1, console.height - 1)]
        for line in lines:
            for cell in line[:-1]:
                cell.pad_right(each + GAP - cell.cell_len)
        self.widths = [sum(cell.cell_len for cell in line) for line in lines]
        yield Text("\n", end="").join(Text.assemble(*line, no_wrap=True) for line in lines)

    def _epoch(self, width, ascii_only):
        plan, step = self._progress.plan, self._progress.step
        number, last, share = epoch_at(plan, step)
        return bar(f"epoch {number:{len(str(last))}d}/{last}", share, f"{share:4.0%}", width, ascii_only)

    def _run(self, width, ascii_only):
        progress = self._progress
        plan, step, left = progress.plan, progress.step, progress.seconds_left()
        share = step / plan.total_steps
        done = f"{share:4.0%}"
        if progress.doing:
            tails = [f"{done}  {progress.doing}", progress.doing, progress.doing.split()[0]]
        else:
            tails = [done] if left is None else [f"{done}  {clock(left)} left", f"{done}  {clock(left)}", done]
        head = f"step {step:{len(str(plan.total_steps))}d}/{plan.total_steps}"
        room = width - cell_len(head) - 2 - SHORTEST_BAR
        return bar(head, share, next((tail for tail in tails if cell_len(tail) <= room), tails[-1]), width, ascii_only)

    def _items(self, width):
        """Returns one Text for each thing to know, in the longest form that fits."""
        progress = self._progress
        figures = [("loss", "{:.4f}", progress.loss), ("accuracy", "{:.2%}", progress.accuracy)]
        variants = [self._figure(name, form, value) for name, form, value in figures]
        variants += [self._speed(), self._checkpoint()]
        return [fitting(v, width) for v in variants]

    def _figure(self, name, form, value):
        now = f"{name} {form.format(value) if value is not None else '–'}"
        if name not in self._progress.best:
            return [now]
        best, step = self._progress.best[name]
        best, split = form.format(best), self._progress.split
        # The one is of the last training steps, the other of an evaluation: never beside each other without saying so.
        return [f"training {now}; best {split} {name} {best} at step {step}",
                f"training {now}; best {split} {best} at step {step}", f"training {now}; best {split} {best}",
                f"{now}; best {split} {best}", f"{now}; {split} {best}", now]

    def _speed(self):
        system = self._progress.system
        if "examples_per_second" not in system:
            return ["– examples/s"]
        speed = rate(system["examples_per_second"])
        if "ceiling_share" not in system:
            return [speed]
        share = f"{system['ceiling_share']:.0%}"
        return [f"{speed}, {share} of the machine's ceiling", f"{speed}, {share} of the ceiling",
                f"{speed}, {share} of ceiling", speed]

    def _checkpoint(self):
        if self._progress.checkpoint is None:
            return ["no checkpoint yet"]
        step, when = self._progress.checkpoint
        if when is None:  # The run was resumed from it.
            return [f"last checkpoint of step {step}", f"checkpoint of step {step}", f"saved step {step}"]
        ago = clock(time.monotonic() - when)
        return [f"last checkpoint of step {step}, {ago} ago", f"checkpoint of step {step}, {ago} ago",
                f"saved step {step}, {ago} ago", f"saved {ago} ago"]


def epoch_at(plan, step):
    """Returns (number of the epoch that a step is in, from 1; number of the last one; share of it that is done)."""
    # The last step of an epoch runs on into the next one: that is no epoch of its own.
    last = math.floor(plan.epochs)
    if last == 0 or plan.epochs - last >= plan.batch_size / plan.num_examples:
        last += 1
    number = min(last, math.floor(plan.epoch(step)) + 1)
    # Of an epoch that the run will not come to the end of, what it trains is the whole.
    length = min(1.0, plan.epoch(plan.total_steps) - (number - 1)) or 1.0
    return number, last, min(1.0, (plan.epoch(step) - (number - 1)) / length)


def bar(head, share, tail, width, ascii_only):
    """Returns one line of `width` columns, a bar between two texts; where it has no room, without."""
    room = width - cell_len(head) - cell_len(tail) - 2
    if room < SHORTEST_BAR:
        return fitting([f"{head} {tail}", head], width)
    done = min(room, int(room * share))
    # Two characters, so that it can be read without colours as well.
    full, empty = "#." if ascii_only else "━─"
    return Text.assemble(f"{head} ", (full * done, "green" if done == room else "cyan"),
                         (empty * (room - done), "bright_black"), f" {tail}", end="")


def fitting(variants, width):
    """Returns the first of texts that fits into `width` columns as a Text, the last one cut off if none does."""
    text = next((v for v in variants if cell_len(v) <= width), variants[-1])
    text = Text(text, end="", no_wrap=True)
    text.truncate(width)
    return text
