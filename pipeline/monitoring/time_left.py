"""Estimates the remaining time of a run: its steps at their recent speed, and the pauses of its evaluations."""
import fractions
import math
import statistics
import time
from collections.abc import Callable
from typing import Any

RECENT = 0.3  # Weight of the latest window in the moving average of the speed.
PAUSES = 5


def evaluations_between(plan: Any, first: int, last: int) -> int:
    """Returns the number of a Plan's evaluations after step `first` up to `last`, with the one at the run's end."""
    each = fractions.Fraction(plan.boundary(plan.evaluate_every, 10**6), 10**6)
    ends = last == plan.total_steps and first < last and not plan.is_boundary(plan.evaluate_every, last)
    return math.floor(last / each) - math.floor(first / each) + ends


class TimeLeft:
    """Estimates from the windows and evaluations so far."""

    def __init__(self, plan: Any, now: Callable[[], float] = time.monotonic):
        """Args: plan: Plan; now: returns seconds of a monotonic clock."""
        self._plan, self._now = plan, now
        self._step_seconds: float | None = None
        self._ended: float | None = None
        self._step, self._evaluated = 0, False
        self._pauses: list[float] = []

    def window(self, step: int, rate: float | None) -> None:
        """Adds a window of steps that has just ended at `step`; rate in examples/s, None if it is not steady."""
        seconds = (step - self._step) * self._plan.batch_size / rate if rate else 0.0
        if rate and self._evaluated and self._ended is not None and step > self._step:
            # The evaluation, and whatever else came between the window before and this one.
            self._pauses = [*self._pauses[-PAUSES + 1:], max(0.0, self._now() - seconds - self._ended)]
        if rate:
            new = self._plan.batch_size / rate
            self._step_seconds = new if self._step_seconds is None else (
                RECENT * new + (1 - RECENT) * self._step_seconds)
        self._step, self._ended, self._evaluated = step, self._now(), False

    def evaluated(self) -> None:
        """Adds an evaluation that has just ended."""
        self._evaluated = True

    def seconds(self) -> float | None:
        """Returns the seconds from now until the end of the run, or None as long as no speed is known."""
        if self._step_seconds is None or self._ended is None:
            return None
        steps = (self._plan.total_steps - self._step) * self._step_seconds
        # The first evaluation of a process is traced and compiled, which the median soon leaves out.
        pause = statistics.median(self._pauses) if self._pauses else 0.0
        evaluations = evaluations_between(self._plan, self._step, self._plan.total_steps) - self._evaluated
        return max(0.0, steps + max(0, evaluations) * pause - (self._now() - self._ended))
