"""Progress of a training run as lines, or none; `live_progress` is the display for terminals."""
import time
from collections.abc import Mapping
from typing import Any

from pipeline.callbacks import Callback, Evaluated, Restored, Window
from pipeline.console import Console
from pipeline.metrics.evaluation import is_better
from pipeline.monitoring.time_left import TimeLeft
from pipeline.quantities import clock, counted, rate


class PlainProgress(Callback):
    """One line per window and one per evaluation, for files and pipes.

    Attributes:
      activity_console: where a long activity is reported; None where the display shows it.
      best: {"loss", "accuracy": (value, step)} of the best evaluations so far.
    """

    def __init__(self, plan: Any, console: Console | None = None):
        """Args: plan: Plan; console: default standard output, as long as anybody reads it."""
        self.plan, self._console = plan, console or Console(lasting=True)
        self.activity_console: Console | None = self._console
        self.best: dict[str, tuple[float, int]] = {}
        self._started, self._time_left = time.monotonic(), TimeLeft(plan)

    def _position(self, step: int) -> str:
        total = self.plan.total_steps
        return f"epoch {self.plan.epoch(step):5.2f}/{self.plan.epochs_text}  step {step:{len(str(total))}d}/{total}"

    def on_start(self, restored: Restored) -> None:
        """Starts the clock."""
        self._started = time.monotonic()
        self.on_rollback(restored)

    def on_rollback(self, restored: Restored) -> None:
        """Replaces the best evaluations by those on record."""
        self.best = {}
        for figures in restored.evaluations:
            self._see(figures["step"], figures)

    def on_window(self, window: Window) -> None:
        """Prints the mean loss and accuracy of a window of steps, and the speed."""
        speed, (loss, accuracy) = window.system.get("examples_per_second"), means(window)
        self._time_left.window(window.step, speed)
        line = f"{self._position(window.step)}  loss {loss:.4f}  accuracy {accuracy:7.2%}"
        if speed:  # The window was neither compiled nor profiled.
            line += f"  {rate(speed)}  {clock(self._time_left.seconds() or 0)} left"
        self.info(line)

    def on_evaluation(self, evaluated: Evaluated) -> None:
        """Prints an evaluation."""
        step, figures = evaluated.step, evaluated.evaluation.figures
        self._see(step, figures)
        self._time_left.evaluated()
        self.info(self._evaluation_lines(step, evaluated.split.name, figures)[0])

    def _evaluation_lines(self, step: int, split: str, figures: Mapping[str, Any]) -> list[str]:
        """Returns a line about an evaluation in several lengths, the longest first."""
        loss, accuracy = f"loss {figures['loss']:.4f}", f"accuracy {figures['accuracy']:.2%}"
        line, since = f"{self._position(step)}  {split} {loss}  {split} {accuracy}", time.monotonic() - self._started
        return [f"{line}  of {counted(figures['examples'], 'example')}, {clock(since)} since the start", line,
                f"step {step}  {split} {loss}  {accuracy}", f"step {step}  {loss}  {accuracy}"]

    def _see(self, step: int, figures: Mapping[str, Any]) -> None:
        for name in ("loss", "accuracy"):
            value = figures[name]
            if value is not None and is_better(name, value, self.best.get(name, (float("nan"),))[0]):
                self.best[name] = (value, step)

    def phase(self, text: str) -> None:
        """Shows the activity between two windows, in a few words, until the next window or evaluation."""

    def info(self, text: str) -> None:
        """Prints a line."""
        self._console.info(text)

    def warning(self, text: str) -> None:
        """Prints a warning."""
        self.info(f"warning: {text}")


def means(window: Window) -> tuple[float, float]:
    """Returns the mean loss and the mean accuracy of a window."""
    return float(window.column("loss").mean()), float(window.column("accuracy").mean())


class NullProgress(PlainProgress):
    """Prints nothing."""

    def __init__(self, plan: Any):
        super().__init__(plan, Console(quiet=True))
