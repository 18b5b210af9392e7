"""When things happen: lengths and distances of a run as steps, from one function."""
import dataclasses
import fractions
import math

from pipeline.config import DEFAULT_EPOCHS
from pipeline.options import Interval, profiled_steps


@dataclasses.dataclass(frozen=True)
class Plan:
    """A run in steps.

    Attributes:
      num_examples: examples of the training split.
      batch_size: examples of one step.
      total_steps: length of the run.
      warmup_steps: steps of learning-rate warm-up.
      evaluate_every, checkpoint_every: Interval.
      histograms_every: Interval, or None without --histograms_every.
      profiled: (first, last), the steps after `first` up to `last` are looked into; None without --profile.
    """

    num_examples: int
    batch_size: int
    total_steps: int
    warmup_steps: int
    evaluate_every: Interval
    checkpoint_every: Interval
    histograms_every: Interval | None = None
    profiled: tuple | None = None

    @property
    def steps_per_epoch(self):
        """Steps until every example was seen once; the last one may run on into the next epoch."""
        return math.ceil(self.num_examples / self.batch_size)

    @property
    def epochs(self):
        """Length of the run in epochs, a float."""
        return self.total_steps * self.batch_size / self.num_examples

    @property
    def epochs_text(self):
        """Length of the run in epochs as text, never 0: two decimals, or three figures of less than one epoch."""
        return f"{round(self.epochs, 2):g}" if self.epochs >= 1 else f"{self.epochs:.3g}"

    def epoch(self, step):
        """Returns how many epochs, a float, are done after `step` steps."""
        return step * self.batch_size / self.num_examples

    def boundary(self, interval, number):
        """Returns the step at which the `number`-th (from 1) interval ends: the first step boundary at or after it."""
        if interval.unit == "steps":
            return int(interval.amount) * number
        return math.ceil(self._steps_each(interval) * number)

    def is_regular(self, step):
        """Tells whether an uninterrupted run has a checkpoint of `step`; with intervals of seconds any may be."""
        return step == 0 or self.checkpoint_every.unit == "seconds" or self.is_boundary(self.checkpoint_every, step)

    def next_boundary(self, interval, step):
        """Returns the first boundary of an interval of steps or epochs that lies after `step`."""
        if interval.unit == "steps":
            return self.boundary(interval, step // int(interval.amount) + 1)
        return self.boundary(interval, math.floor(step / self._steps_each(interval)) + 1)

    def _steps_each(self, interval):
        """Returns the length of an interval of epochs in steps, exactly."""
        return exact(interval.amount) * self.num_examples / self.batch_size

    def steps_to_boundary(self, step):
        """Returns how many steps from `step` on pass no evaluation, checkpoint, histogram, profile edge and end."""
        ends = [end for end in self.profiled or () if end > step]
        ends += [self.next_boundary(interval, step)
                 for interval in (self.evaluate_every, self.checkpoint_every, self.histograms_every)
                 if interval and interval.unit != "seconds"]
        return min([self.total_steps, *ends]) - step

    def is_boundary(self, interval, step):
        """Tells whether an interval of steps or epochs ends at `step`; None has no end."""
        if not interval or interval.unit == "seconds":
            return False
        return step > 0 and self.next_boundary(interval, step - 1) == step


class Pace:
    """How many steps one host call runs: about a second's worth.

    Short enough to stop soon when asked to, long enough that the host's part is small. The first call is of one step,
    since it is traced and compiled; the second one measures the speed.
    """

    SECONDS, FIRST = 1.0, (1, 4)

    def __init__(self, fixed=0, longest=math.inf):
        """
        Args:
          fixed: steps of every call but the first, 0 to adapt.
          longest: seconds that a call of a fixed number of steps may last as well.
        """
        self.fixed, self.longest, self.calls, self._rate = fixed, longest, 0, None

    def next(self, limit):
        """Returns the steps of the next call, from 1 to `limit`."""
        if self.fixed and self.calls:
            wanted = min(self.fixed, self._rate * self.longest)
        elif not self.calls:
            wanted = self.FIRST[0]
        elif self.calls < len(self.FIRST):
            wanted = min(self.FIRST[self.calls], self._rate * self.longest)
        else:
            wanted = self._rate * self.SECONDS
        return max(1, int(min(wanted, limit)))

    def finished(self, count, seconds):
        """Takes note of a call of `count` steps that took `seconds`."""
        self.calls += 1
        self._rate = count / max(seconds, 1e-9)


def exact(amount):
    """Returns the decimal number that a float was read from as a Fraction: 0.1 is a tenth."""
    return fractions.Fraction(repr(float(amount)))


def plan(config, num_examples):
    """Turns the durations of an ExperimentConfig into steps.

    Args:
      config: ExperimentConfig.
      num_examples: examples of the training split, > 0.

    Returns:
      A Plan.
    """
    training, batch_size = config.training, config.training.batch_size

    def steps(interval):
        if interval.unit == "steps":
            return int(interval.amount)
        return math.ceil(exact(interval.amount) * num_examples / batch_size)

    histograms = Interval.parse("histograms_every", config.runtime.histograms_every)
    length = Interval(float(training.steps), "steps") if training.steps else Interval(
        training.epochs or DEFAULT_EPOCHS, "epochs")
    return Plan(
        num_examples=num_examples, batch_size=batch_size, total_steps=max(1, steps(length)),
        warmup_steps=steps(Interval.parse("warmup", config.optimizer.warmup)),
        evaluate_every=Interval.parse("evaluate_every", training.evaluate_every),
        checkpoint_every=Interval.parse("checkpoint_every", training.checkpoint_every,
                                        ("steps", "epochs", "seconds")),
        histograms_every=histograms if histograms.amount else None, profiled=profiled_steps(config.runtime.profile))
