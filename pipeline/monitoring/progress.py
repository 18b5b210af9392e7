"""What a person sees while a model trains: a live display on a terminal, plain lines in a file, or nothing."""
import time

from pipeline.callbacks import Callback, Evaluated, Restored, Window
from pipeline.console import Console
from pipeline.metrics.evaluation import is_better
from pipeline.monitoring.time_left import TimeLeft
from pipeline.quantities import clock, counted, rate


class PlainProgress(Callback):
    """A line a window and a line an evaluation: for files and pipes.

    Attributes:
      activity_console: where a long activity is reported; None where the display shows it.
      best: {"loss", "accuracy": (value, step)} of the best evaluations so far.
    """

    def __init__(self, plan, console=None):
        """
        Args:
          plan: Plan of the run.
          console: where lines go; default standard output, as long as anybody reads it.
        """
        self.plan, self.activity_console, self.best = plan, console or Console(lasting=True), {}
        self._started, self._time_left = time.monotonic(), TimeLeft(plan)
        self._digits = len(str(plan.total_steps))

    def _where(self, step):
        return (f"epoch {self.plan.epoch(step):5.2f}/{self.plan.epochs_text}  "
                f"step {step:{self._digits}d}/{self.plan.total_steps}")

    def on_start(self, restored: Restored) -> None:
        """Shows where training begins."""
        self._started = time.monotonic()
        self.on_rollback(restored)

    def on_rollback(self, restored: Restored) -> None:
        """Takes the evaluations that are on record instead of those seen so far."""
        self.best = {}
        for figures in restored.evaluations:
            self._see(figures["step"], figures)

    def on_window(self, window: Window) -> None:
        """Shows a window of steps: the means of loss and accuracy, and the speed."""
        speed, (loss, accuracy) = window.system.get("examples_per_second"), means(window)
        self._time_left.window(window.step, speed)
        line = f"{self._where(window.step)}  loss {loss:.4f}  accuracy {accuracy:7.2%}"
        if speed:  # A window that is compiled or profiled says nothing about the speed.
            line += f"  {rate(speed)}  {clock(self._time_left.seconds())} left"
        self.info(line)

    def on_evaluation(self, evaluated: Evaluated) -> None:
        """Shows an evaluation."""
        step, figures = evaluated.step, evaluated.evaluation.figures
        self._see(step, figures)
        self._time_left.evaluated()
        self.info(self._evaluation_lines(step, evaluated.split.name, figures)[0])

    def _evaluation_lines(self, step, split, figures):
        """Returns what is said of an evaluation, the longest form first."""
        loss, accuracy = f"loss {figures['loss']:.4f}", f"accuracy {figures['accuracy']:.2%}"
        where, since = self._where(step), clock(time.monotonic() - self._started)
        judged = f"{where}  {split} {loss}  {split} {accuracy}"
        return [f"{judged}  of {counted(figures['examples'], 'example')}, {since} since the start", judged,
                f"step {step}  {split} {loss}  {accuracy}", f"step {step}  {loss}  {accuracy}"]

    def _see(self, step, figures):
        for name in ("loss", "accuracy"):
            value = figures[name]
            if value is not None and is_better(name, value, self.best.get(name, (float("nan"),))[0]):
                self.best[name] = (value, step)

    def phase(self, text):
        """Shows what is done between two windows, in a few words, until the next window or evaluation."""

    def info(self, text):
        """Shows a line."""
        self.activity_console.info(text)

    def warning(self, text):
        """Shows a warning."""
        self.info(f"warning: {text}")


def means(window):
    """Returns the mean loss and the mean accuracy of a window."""
    return (float(window.column(name).mean()) for name in ("loss", "accuracy"))


class NullProgress(PlainProgress):
    """Says nothing."""

    def __init__(self, plan):
        super().__init__(plan, Console(quiet=True))
