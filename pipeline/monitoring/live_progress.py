"""The live display of a training run on a terminal: two bars, the latest figures, the speed and the last checkpoint."""
import math
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import IO, Any, cast

import rich.console
from rich.cells import cell_len
from rich.text import Text

from pipeline.callbacks import Evaluated, Restored, Window
from pipeline.internals.rich_internals import ResizableLive
from pipeline.monitoring.progress import PlainProgress, means
from pipeline.quantities import clock, rate
from pipeline.terminal import LastingStream

REFRESHES = 2  # A second; drawing takes processor time from the training.
TWO_COLUMNS = 80  # Columns of a terminal from which on two items share a line.
GAP, MARGIN = 3, 3  # Columns; the margin leaves room for the ^C that the terminal shows.
SHORTEST_BAR = 5
GPU_FIGURES = {"gpu_utilization": "{:.0%}", "gpu_temperature": "{:.0f} °C", "gpu_power_watts": "{:,.0f} W"}


class LiveProgress(PlainProgress):
    """A few lines that are redrawn, with evaluations and warnings printed above them."""

    def __init__(self, plan: Any, console: rich.console.Console | None = None):
        """Args: plan: Plan; console: of a terminal, default that of standard output, as long as it is open."""
        super().__init__(plan)
        self.console = console or rich.console.Console(file=cast(IO[str], LastingStream(sys.stdout)))
        self.activity_console = None
        self._widths: list[int] = []  # Columns of each line as it was drawn.
        self._live = ResizableLive(
            self, lambda: self._widths, console=self.console, refresh_per_second=REFRESHES, transient=True,
            vertical_overflow="crop", redirect_stderr=sys.stderr is not None and sys.stderr.isatty())
        self._step = 0
        self._activity: str | None = None
        self._figures: dict[str, float] = {}
        self._system: dict[str, float] = {}
        self._split: str | None = None
        self._checkpoint: tuple[int, float | None] | None = None

    def _print(self, text: str, style: str = "") -> None:
        self.console.print(Text(text, style=style, overflow="fold"))

    def on_start(self, restored: Restored) -> None:
        """Shows the display."""
        super().on_start(restored)
        self._step, self._activity = restored.step, "compiling the step"
        self._checkpoint = (restored.step, None) if restored.step else None
        self._live.start()

    def on_rollback(self, restored: Restored) -> None:
        """Replaces the best evaluations by those on record."""
        super().on_rollback(restored)
        self._split = restored.evaluations[-1].get("split") if restored.evaluations else None

    def on_window(self, window: Window) -> None:
        """Updates the display."""
        self._time_left.window(window.step, window.system.get("examples_per_second"))
        self._step, self._activity = window.step, None
        self._figures = dict(zip(("loss", "accuracy"), means(window), strict=True))
        shown = ("examples_per_second", "ceiling_share", *GPU_FIGURES)
        self._system.update({name: window.system[name] for name in shown if name in window.system})

    def on_evaluation(self, evaluated: Evaluated) -> None:
        """Prints an evaluation above the display, in one line if one fits."""
        self._split, self._activity = evaluated.split.name, None
        super().on_evaluation(evaluated)

    def _evaluation_lines(self, step: int, split: str, figures: Mapping[str, Any]) -> list[str]:
        lines, room = super()._evaluation_lines(step, split, figures), self.console.width
        return [line for line in lines if cell_len(line) <= room] or lines[-1:]

    def phase(self, text: str) -> None:
        """Shows the activity between two windows."""
        self._activity = text

    def on_checkpoint(self, step: int) -> None:
        """Shows a checkpoint, except that of step 0."""
        if step:
            self._checkpoint = (step, time.monotonic())

    def info(self, text: str) -> None:
        """Prints a line above the display."""
        self._print(text)

    def warning(self, text: str) -> None:
        """Prints a warning above the display."""
        self._print(f"warning: {text}", "yellow")

    def close(self) -> None:
        """Removes the display."""
        self._live.stop()

    def __rich_console__(self, console: rich.console.Console, options: rich.console.ConsoleOptions) -> Iterator[Text]:
        """Draws the display in the present width of the terminal."""
        width = max(1, options.max_width - MARGIN)
        columns = 2 if options.max_width >= TWO_COLUMNS else 1
        each = (width - GAP * (columns - 1)) // columns
        cells = [self._epoch_bar(each, options.ascii_only), self._run_bar(each, options.ascii_only), *(
            fitting(variants, each) for variants in (
                self._figure("loss", "{:.4f}"), self._figure("accuracy", "{:.2%}"), self._speed(),
                self._last_checkpoint(), *self._gpus()))]
        lines = [cells[i:i + columns] for i in range(0, len(cells), columns)]
        lines = lines[:max(1, console.height - 1)]
        for line in lines:
            for cell in line[:-1]:
                cell.pad_right(each + GAP - cell.cell_len)
        self._widths = [sum(cell.cell_len for cell in line) for line in lines]
        yield Text("\n", end="").join(Text.assemble(*line, no_wrap=True) for line in lines)

    def _epoch_bar(self, width: int, ascii_only: bool) -> Text:
        number, last, share = epoch_at(self.plan, self._step)
        return bar(f"epoch {number:{len(str(last))}d}/{last}", share, f"{share:4.0%}", width, ascii_only)

    def _run_bar(self, width: int, ascii_only: bool) -> Text:
        total, left = self.plan.total_steps, self._time_left.seconds()
        share = self._step / total
        done = f"{share:4.0%}"
        if self._activity:
            tails = [f"{done}  {self._activity}", self._activity, self._activity.split()[0]]
        else:
            tails = [done] if left is None else [f"{done}  {clock(left)} left", f"{done}  {clock(left)}", done]
        head = f"step {self._step:{len(str(total))}d}/{total}"
        room = width - cell_len(head) - 2 - SHORTEST_BAR
        return bar(head, share, next((tail for tail in tails if cell_len(tail) <= room), tails[-1]), width, ascii_only)

    def _figure(self, name: str, form: str) -> list[str]:
        """Returns a figure of the last window and its best evaluation, longest form first."""
        now = f"{name} {form.format(self._figures[name]) if name in self._figures else '–'}"
        if name not in self.best:
            return [now]
        value, step = self.best[name]
        best, split = form.format(value), self._split
        # Figures of training and of an evaluation are never shown together without naming them.
        return [f"training {now}; best {split} {name} {best} at step {step}",
                f"training {now}; best {split} {best} at step {step}", f"training {now}; best {split} {best}",
                f"{now}; best {split} {best}", f"{now}; {split} {best}", now]

    def _speed(self) -> list[str]:
        if "examples_per_second" not in self._system:
            return ["– examples/s"]
        speed = rate(self._system["examples_per_second"])
        if "ceiling_share" not in self._system:
            return [speed]
        share = f"{self._system['ceiling_share']:.0%}"
        return [f"{speed}, {share} of the machine's ceiling", f"{speed}, {share} of the ceiling",
                f"{speed}, {share} of ceiling", speed]

    def _gpus(self) -> list[list[str]]:
        """Returns the load of the GPUs, in no item where it is not known."""
        known = [form.format(self._system[name]) for name, form in GPU_FIGURES.items() if name in self._system]
        return [[f"GPU {', '.join(known[:count])}" for count in range(len(known), 0, -1)]] if known else []

    def _last_checkpoint(self) -> list[str]:
        if self._checkpoint is None:
            return ["no checkpoint yet"]
        step, when = self._checkpoint
        if when is None:  # The run was resumed from it.
            return [f"last checkpoint of step {step}", f"checkpoint of step {step}", f"saved step {step}"]
        ago = clock(time.monotonic() - when)
        return [f"last checkpoint of step {step}, {ago} ago", f"checkpoint of step {step}, {ago} ago",
                f"saved step {step}, {ago} ago", f"saved {ago} ago"]


def epoch_at(plan: Any, step: int) -> tuple[int, int, float]:
    """Returns (epoch that a step is in, from 1; last epoch; share of it that is done)."""
    # The last step of an epoch may run on into the next one, which is then no epoch of its own.
    last = math.floor(plan.epochs)
    if last == 0 or plan.epochs - last >= plan.batch_size / plan.num_examples:
        last += 1
    number = min(last, math.floor(plan.epoch(step)) + 1)
    # An epoch in which the run ends is shown as long as its trained part.
    length = min(1.0, plan.epoch(plan.total_steps) - (number - 1)) or 1.0
    return number, last, min(1.0, (plan.epoch(step) - (number - 1)) / length)


def bar(head: str, share: float, tail: str, width: int, ascii_only: bool) -> Text:
    """Returns one line of `width` columns, a bar between two texts; without the bar where it does not fit."""
    room = width - cell_len(head) - cell_len(tail) - 2
    if room < SHORTEST_BAR:
        return fitting([f"{head} {tail}", head], width)
    done = min(room, int(room * share))
    # Two characters, so that it is readable without colors as well.
    full, empty = "#." if ascii_only else "━─"
    return Text.assemble(f"{head} ", (full * done, "green" if done == room else "cyan"),
                         (empty * (room - done), "bright_black"), f" {tail}", end="")


def fitting(variants: Sequence[str], width: int) -> Text:
    """Returns the first of texts that fits into `width` columns, else the last one, cut off."""
    text = Text(next((v for v in variants if cell_len(v) <= width), variants[-1]), end="", no_wrap=True)
    text.truncate(width)
    return text
