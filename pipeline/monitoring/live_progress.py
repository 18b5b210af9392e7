"""The live display of a terminal: bars of the epoch and of the run, and below them what one asks of a run."""
import math
import sys
import time

from rich.cells import cell_len
from rich.console import Console
from rich.live import Live
from rich.text import Text

from pipeline.monitoring.progress import PlainProgress
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
        super().__init__(plan, self._print)
        self.aside = None
        self._screen = Screen(self)
        self._live = ResizableLive(self._screen, self.console)
        self.step, self.loss, self.accuracy, self.vitals, self.doing = 0, None, None, {}, None
        self.split, self.checkpoint, self.resumed = None, None, False

    def _print(self, text, style=None):
        self.console.print(Text(text, style=style or "", overflow="fold"))

    def start(self, step):
        """Shows the display."""
        super().start(step)
        self.step, self.resumed, self.doing = step, step > 0, "compiling the step"
        self._live.start()

    def restore(self, evaluations):
        """Takes the evaluations on record, see PlainProgress."""
        super().restore(evaluations)
        self.split = evaluations[-1]["split"] if evaluations else None

    def window(self, step, loss, accuracy, vitals):
        """Moves the bars."""
        self._time_left.window(step, vitals.get("examples_per_second"))
        self.step, self.loss, self.accuracy, self.doing = step, loss, accuracy, None
        shown = ("examples_per_second", "ceiling_share")
        self.vitals = {**self.vitals, **{name: vitals[name] for name in shown if name in vitals}}

    def evaluation(self, step, split, figures):
        """Prints an evaluation above the display, in one line where that can be."""
        self.split, self.doing = split, None
        super().evaluation(step, split, figures)

    def _evaluation_lines(self, step, split, figures):
        lines, room = super()._evaluation_lines(step, split, figures), self.console.width
        return [line for line in lines if cell_len(line) <= room] or lines[-1:]

    def phase(self, text):
        """Shows what is done between two windows."""
        self.doing = text

    def saved(self, step):
        """Shows a checkpoint; that of step 0 is nobody's work yet."""
        if step:
            self.checkpoint = (step, time.monotonic())

    def warn(self, text):
        """Prints a warning above the display."""
        self._print(f"warning: {text}", "yellow")

    def seconds_left(self):
        """Returns the seconds until the end of the run, None where they are not known."""
        return self._time_left.seconds()

    def close(self):
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
        best = form.format(best)
        return [f"{now}, best on {self._progress.split} {best} at step {step}", f"{now}, best {best} at step {step}",
                f"{now}, best {best} at {step}", f"{now}, best {best}", now]

    def _speed(self):
        vitals = self._progress.vitals
        if "examples_per_second" not in vitals:
            return ["– examples/s"]
        speed = rate(vitals["examples_per_second"])
        if "ceiling_share" not in vitals:
            return [speed]
        share = f"{vitals['ceiling_share']:.0%}"
        return [f"{speed}, {share} of the machine's ceiling", f"{speed}, {share} of the ceiling",
                f"{speed}, {share} of ceiling", speed]

    def _checkpoint(self):
        if self._progress.checkpoint is None:
            return ["resumed, no checkpoint since", "no new checkpoint"] if self._progress.resumed else [
                "no checkpoint yet"]
        step, when = self._progress.checkpoint
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


class ResizableLive(Live):
    """A Live that finds its lines again when the window has become narrower, and leaves the cursor alone.

    A terminal breaks lines that do not fit any more, so they are more than were drawn. A cursor that is hidden stays
    hidden when the process is killed.
    """

    def __init__(self, screen, console):
        """
        Args:
          screen: Screen.
          console: rich.console.Console.
        """
        super().__init__(screen, console=console, refresh_per_second=REFRESHES, transient=True,
                         vertical_overflow="crop", redirect_stderr=sys.stderr is not None and sys.stderr.isatty())
        self._screen_drawn, self._width = screen, console.width

    def start(self, refresh=True):
        """Starts to draw."""
        super().start(refresh)
        self.console.show_cursor(True)

    def process_renderables(self, renderables):
        """Adds the display below what is printed."""
        with self._lock:
            width, shape = self.console.width, self._live_render._shape  # Rich has no public way to say where it was.
            if shape and width < self._width:
                rows = sum(max(1, math.ceil(columns / width)) for columns in self._screen_drawn.widths)
                self._live_render._shape = (shape[0], rows)
            self._width = width
            return super().process_renderables(renderables)
