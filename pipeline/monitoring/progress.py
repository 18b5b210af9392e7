"""What a person sees while a model trains: a live line on a terminal, plain lines in a file, or nothing."""
import sys
import time


def clock(seconds):
    """Returns a duration as 1:02:03 or 02:03."""
    seconds = int(max(0, seconds))
    hours, rest = divmod(seconds, 3600)
    return (f"{hours}:" if hours else "") + f"{rest // 60:02d}:{rest % 60:02d}"


class PlainProgress:
    """A line a window and a line an evaluation: for files and pipes."""

    def __init__(self, plan, echo=None):
        """
        Args:
          plan: Plan of the run.
          echo: where lines go; default standard output.
        """
        self.plan = plan
        self.note = echo or (lambda text: print(text, flush=True))
        self._started = time.monotonic()
        self._digits = len(str(plan.total_steps))

    def _where(self, step):
        return (f"epoch {self.plan.epoch(step):5.2f}/{round(self.plan.epochs, 1):g}  "
                f"step {step:{self._digits}d}/{self.plan.total_steps}")

    def _left(self, step, rate):
        return clock((self.plan.total_steps - step) * self.plan.batch_size / max(rate, 1e-9))

    def start(self, step):
        """Says where training begins."""
        self._started = time.monotonic()

    def window(self, step, loss, accuracy, rate):
        """Shows the means of a window of steps; rate in examples/s."""
        self.note(f"{self._where(step)}  loss {loss:.4f}  accuracy {accuracy:7.2%}  {rate:,.0f} examples/s  "
                  f"{self._left(step, rate)} left")

    def evaluation(self, step, split, figures):
        """Shows an evaluation."""
        self.note(f"{self._where(step)}  {split} loss {figures['loss']:.4f}  {split} accuracy "
                  f"{figures['accuracy']:.2%}  of {figures['examples']:,} examples, "
                  f"{clock(time.monotonic() - self._started)} since the start")

    def close(self):
        """Ends the display."""


class LiveProgress(PlainProgress):
    """A bar that moves, with the lines of evaluations above it: for a terminal."""

    def __init__(self, plan):
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn
        self.console = Console()
        super().__init__(plan, lambda text: self.console.print(text, highlight=False, markup=False))
        self._bar = Progress(TextColumn("{task.description}"), BarColumn(bar_width=None),
                             TextColumn("{task.fields[numbers]}"), console=self.console, expand=True, transient=True)
        self._task = None

    def start(self, step):
        """Shows the bar."""
        super().start(step)
        self._bar.start()
        self._task = self._bar.add_task(f"step {step}", total=self.plan.total_steps, completed=step,
                                        numbers="compiling the step")

    def window(self, step, loss, accuracy, rate):
        """Moves the bar."""
        wide = self.console.width >= 100
        numbers = f"loss {loss:.4f}  accuracy {accuracy:.2%}  {rate:,.0f} examples/s"
        if wide:
            numbers += f"  {self._left(step, rate)} left"
        epoch = f"epoch {self.plan.epoch(step):.1f}/{round(self.plan.epochs, 1):g} " if wide else ""
        self._bar.update(self._task, completed=step, description=f"{epoch}step {step}/{self.plan.total_steps}",
                         numbers=numbers if self.console.width >= 70 else f"loss {loss:.4f}")

    def close(self):
        """Takes the bar away."""
        self._bar.stop()


class NoProgress(PlainProgress):
    """Says nothing."""

    def __init__(self, plan):
        super().__init__(plan, lambda text: None)


def create_progress(plan, verbosity):
    """Returns the display that fits: none if quiet, a live one on a terminal, lines elsewhere."""
    if verbosity == "quiet":
        return NoProgress(plan)
    return LiveProgress(plan) if sys.stdout.isatty() else PlainProgress(plan)
