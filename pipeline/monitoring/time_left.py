"""How long a run will still take: its steps at the pace of the last ones, and the pauses that evaluations make."""
import fractions
import math
import statistics
import time

RECENT = 0.3  # Weight of the newest window of steps in the pace.
PAUSES = 5


def evaluations_between(plan, first, last):
    """Returns how many evaluations come after step `first` up to step `last`, the one at the end of the run among them.

    Args:
      plan: Plan.
      first, last: steps, at most plan.total_steps.
    """
    each = fractions.Fraction(plan.boundary(plan.evaluate_every, 10**6), 10**6)
    ends = last == plan.total_steps and first < last and not plan.is_boundary(plan.evaluate_every, last)
    return math.floor(last / each) - math.floor(first / each) + ends


class TimeLeft:
    """Watches windows and evaluations go by."""

    def __init__(self, plan, now=time.monotonic):
        """
        Args:
          plan: Plan.
          now: returns seconds of a clock that only runs forward.
        """
        self._plan, self._now = plan, now
        self._step_seconds, self._step, self._ended, self._evaluated, self._pauses = None, 0, None, False, []

    def window(self, step, rate):
        """Takes note of a window of steps that has just ended at `step`; rate in examples/s, None if not steady."""
        seconds = (step - self._step) * self._plan.batch_size / rate if rate else 0.0
        if rate and self._evaluated and self._ended is not None and step > self._step:
            # Evaluating, and whatever else is done then: from the end of the window before to this one's start.
            self._pauses = [*self._pauses[-PAUSES + 1:], max(0.0, self._now() - seconds - self._ended)]
        if rate:
            new = self._plan.batch_size / rate
            self._step_seconds = new if self._step_seconds is None else (
                RECENT * new + (1 - RECENT) * self._step_seconds)
        self._step, self._ended, self._evaluated = step, self._now(), False

    def evaluated(self):
        """Takes note of an evaluation that has just ended."""
        self._evaluated = True

    def seconds(self):
        """Returns the seconds until the end of the run, counted from now, or None where no pace is known yet."""
        if self._step_seconds is None:
            return None
        steps = (self._plan.total_steps - self._step) * self._step_seconds
        # The first evaluation of a process is traced and compiled: the median soon knows better.
        pause = statistics.median(self._pauses) if self._pauses else 0.0
        evaluations = evaluations_between(self._plan, self._step, self._plan.total_steps) - self._evaluated
        return max(0.0, steps + max(0, evaluations) * pause - (self._now() - self._ended))
