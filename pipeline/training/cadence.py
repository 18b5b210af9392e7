"""The lengths and intervals of a run in steps."""
import dataclasses
import fractions
import math

from pipeline.config import DEFAULT_EPOCHS, ExperimentConfig
from pipeline.errors import UsageError
from pipeline.finetuning import UnfreezePoint
from pipeline.image_sizes import parse_sizes
from pipeline.options import Interval, profiled_steps
from pipeline.quantities import counted


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
      profiled: (first, last), the steps after `first` up to `last` are profiled; None without --profile.
      thaws: ((step, patterns), ...) of --unfreeze_at, ascending: after so many steps what they match trains.
      rewarmup_steps: steps of warm-up after each of these.
      drop_every: steps from one drop of the schedule "step" to the next, 0 for drops at parts of the run.
      image_sizes: ((step, pixels), ...) of --image_sizes, ascending from step 0; () without.
      averaged: numbers of steps after which the weights enter the mean of --average_last, ascending.
    """

    num_examples: int
    batch_size: int
    total_steps: int
    warmup_steps: int
    evaluate_every: Interval
    checkpoint_every: Interval
    histograms_every: Interval | None = None
    profiled: tuple[int, int] | None = None
    thaws: tuple[tuple[int, tuple[str, ...]], ...] = ()
    rewarmup_steps: int = 0
    drop_every: float = 0.0
    image_sizes: tuple[tuple[int, int], ...] = ()
    averaged: tuple[int, ...] = ()

    @property
    def unfreeze_at(self) -> tuple[int, ...]:
        """The steps of `thaws`."""
        return tuple(step for step, _ in self.thaws)

    @property
    def resized_at(self) -> tuple[int, ...]:
        """Numbers of steps after which images have another size."""
        return tuple(step for step, _ in self.image_sizes[1:])

    def image_size(self, step: int) -> int | None:
        """Returns the size of images of the step after `step` steps; None without --image_sizes."""
        return max(((begins, size) for begins, size in self.image_sizes if begins <= step), default=(0, None))[1]

    @property
    def steps_per_epoch(self) -> int:
        """Steps in which every example is seen once, rounded up: the last one may reach into the next epoch."""
        return math.ceil(self.num_examples / self.batch_size)

    @property
    def epochs(self) -> float:
        """Length of the run in epochs."""
        return self.epoch(self.total_steps)

    @property
    def epochs_text(self) -> str:
        """Length of the run in epochs as text, never 0: two decimals, or three digits of less than one epoch."""
        return f"{round(self.epochs, 2):g}" if self.epochs >= 1 else f"{self.epochs:.3g}"

    def epoch(self, step: int) -> float:
        """Returns the number of epochs that `step` steps are."""
        return step * self.batch_size / self.num_examples

    def boundary(self, interval: Interval, number: int) -> int:
        """Returns the step at which the `number`-th (from 1) interval ends: the first step boundary at or after it."""
        if interval.unit == "steps":
            return int(interval.amount) * number
        return math.ceil(self._steps_each(interval) * number)

    def is_regular(self, step: int) -> bool:
        """Tells whether an uninterrupted run has a checkpoint of `step`; with intervals of seconds any may be."""
        return step == 0 or self.checkpoint_every.unit == "seconds" or self.is_boundary(self.checkpoint_every, step)

    def is_profiled(self, step: int) -> bool:
        """Tells whether --profile covers a step."""
        return self.profiled is not None and self.profiled[0] < step <= self.profiled[1]

    def next_boundary(self, interval: Interval, step: int) -> int:
        """Returns the first boundary after `step` of an interval of steps or epochs."""
        if interval.unit == "steps":
            return self.boundary(interval, step // int(interval.amount) + 1)
        return self.boundary(interval, math.floor(step / self._steps_each(interval)) + 1)

    def _steps_each(self, interval: Interval) -> fractions.Fraction:
        return _exact(interval.amount) * self.num_examples / self.batch_size

    def steps_to_boundary(self, step: int) -> int:
        """Returns the steps from `step` to the next boundary.

        That is an evaluation, a checkpoint, a histogram, an edge of a profile, a point of --unfreeze_at or
        --image_sizes, or the end.
        """
        ends = [end for end in (*(self.profiled or ()), *self.unfreeze_at, *self.resized_at) if end > step]
        ends += [self.next_boundary(interval, step)
                 for interval in (self.evaluate_every, self.checkpoint_every, self.histograms_every)
                 if interval and interval.unit != "seconds"]
        return min([self.total_steps, *ends]) - step

    def is_boundary(self, interval: Interval | None, step: int) -> bool:
        """Tells whether an interval of steps or epochs ends at `step`."""
        if not interval or interval.unit == "seconds":
            return False
        return step > 0 and self.next_boundary(interval, step - 1) == step


class StepsPerLoopController:
    """Adapts the number of steps of one call to about a second.

    Short enough to stop soon when asked to, long enough that the overhead of the host is small. The first call, which
    is traced and compiled, has one step; the second measures the speed. So it is again after `restart`.
    """

    SECONDS, FIRST = 1.0, (1, 4)

    def __init__(self, fixed: int = 0, longest: float = math.inf):
        """
        Args:
          fixed: steps of every call but the first, 0 to adapt.
          longest: longest duration in seconds of a call of a fixed number of steps.
        """
        self.fixed, self.longest, self.calls, self._rate = fixed, longest, 0, 0.0

    def restart(self) -> None:
        """Forgets the speed: the next call is traced and compiled again."""
        self.calls, self._rate = 0, 0.0

    def next(self, limit: int) -> int:
        """Returns the number of steps of the next call, from 1 to `limit`."""
        wanted = self._rate * self.SECONDS
        if self.calls == 0:
            wanted = self.FIRST[0]
        elif self.fixed or self.calls < len(self.FIRST):
            wanted = min(self.fixed or self.FIRST[self.calls], self._rate * self.longest)
        return max(1, int(min(wanted, limit)))

    def finished(self, count: int, seconds: float) -> None:
        """Records a call of `count` steps that took `seconds`."""
        self.calls += 1
        self._rate = count / max(seconds, 1e-9)


def _exact(amount: float) -> fractions.Fraction:
    """Returns the decimal number that a float was read from: 0.1 is a tenth."""
    return fractions.Fraction(repr(float(amount)))


def plan(config: ExperimentConfig, num_examples: int) -> Plan:
    """Converts the lengths and intervals of a configuration to steps.

    `num_examples`: of the training split, > 0.

    Raises:
      UsageError: the points of --unfreeze_at are not ascending, or not inside the run.
    """
    training, batch_size = config.training, config.training.batch_size

    def exact_steps(interval: Interval) -> fractions.Fraction:
        length = fractions.Fraction(num_examples, batch_size) if interval.unit == "epochs" else 1
        return _exact(interval.amount) * length

    def steps(interval: Interval) -> int:
        return math.ceil(exact_steps(interval))

    histograms = Interval.parse("histograms_every", config.runtime.histograms_every)
    length = Interval(float(training.steps), "steps") if training.steps else Interval(
        training.epochs or DEFAULT_EPOCHS, "epochs")
    total = max(1, steps(length))
    thaws = tuple((steps(point.interval), point.patterns) for point in UnfreezePoint.parse(config.model.unfreeze_at))
    _check_ascending(config.model.unfreeze_at, [step for step, _ in thaws], total)
    return Plan(
        num_examples=num_examples, batch_size=batch_size, total_steps=total, thaws=thaws,
        rewarmup_steps=steps(Interval.parse("rewarmup", config.optimizer.rewarmup)),
        drop_every=float(exact_steps(Interval.parse("step_decay_every", config.optimizer.step_decay_every))),
        image_sizes=_sizes(config.data.image_sizes, total),
        averaged=_averaged(config.optimizer.average_last, total, fractions.Fraction(num_examples, batch_size)),
        warmup_steps=steps(Interval.parse("warmup", config.optimizer.warmup)),
        evaluate_every=Interval.parse("evaluate_every", training.evaluate_every),
        checkpoint_every=Interval.parse("checkpoint_every", training.checkpoint_every, ("steps", "epochs", "seconds")),
        histograms_every=histograms if histograms.amount else None, profiled=profiled_steps(config.runtime.profile))


def _sizes(texts, total_steps):
    """Returns Plan.image_sizes; every run has a step of the last size, and a short one may have none of others."""
    begins = {min(math.ceil(_exact(part) * total_steps), total_steps - 1): size for size, part in parse_sizes(texts)}
    return tuple(begins.items())


def _averaged(epochs, total_steps, steps_each):
    """Returns the ends of the last epochs, counted back from that of the run; raises UsageError without so many."""
    ends = tuple(sorted({total_steps - math.floor(steps_each * i) for i in range(epochs)}))
    if ends and ends[0] <= 0:
        raise UsageError(f"--average_last={epochs}: the run has {total_steps / float(steps_each):.3g} epochs; give at "
                         "most as many, or a longer run (--epochs, --steps)")
    return ends


def _check_ascending(texts, points, total_steps):
    """Raises UsageError unless points[0] < points[1] < ... < total_steps."""
    shown, listed = ",".join(texts), ", ".join(map(str, points))
    if any(later <= earlier for earlier, later in zip(points, points[1:], strict=False)):
        raise UsageError(f"--unfreeze_at={shown} is after {listed} steps: give each point a later time than the one "
                         "before it")
    if points and points[-1] >= total_steps:
        raise UsageError(f"--unfreeze_at={shown}: step {points[-1]} is not inside this run of "
                         f"{counted(total_steps, 'step')}; give an earlier point, or a longer run (--epochs, --steps)")
