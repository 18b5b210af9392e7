"""Warnings about a run that needs attention: each is given once, with the observation and a remedy."""
import collections
import dataclasses
import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from pipeline.callbacks import Callback, Evaluated, Restored, Window
from pipeline.data.memory import InMemory
from pipeline.metrics.evaluation import Evaluation

# Minimum windows and seconds to look back, and the share of that time without input that is too much.
WINDOWS, WINDOW_SECONDS, MOST_WAITING = 5, 2.0, 0.2
MOST_MEMORY = 0.92
LEAST_LOSS_SCALE, MOST_SKIPPED = 128.0, 5
# The norm of an update over that of the weights is about 1e-3 in a healthy run. The first steps, and the last ones of a
# schedule that ends at zero, do not count.
MEASUREMENTS, LEAST_RATIO, MOST_RATIO, SETTLED_STEPS, NEAR_PEAK = 5, 1e-6, 3e-2, 100, 0.1
SLOW_RATIO = 1e-4  # Below it, a model at chance has moved too little rather than too far.
MOST_LOSS = 10  # Times the loss of random predictions: only a diverged model exceeds it.


@dataclasses.dataclass(frozen=True)
class AlertContext:
    """Properties of a run that the remedies depend on.

    Attributes:
      cache: --cache, "host" or "device".
      in_memory: whether the training split is held in memory.
      memory_budget: --memory_budget in MiB.
      warmup_steps: of the learning rate.
      steps_per_epoch: steps until every example was seen once.
      num_classes: number of classes.
      random_loss: loss of uniform predictions in nats; infinite for a loss other than cross-entropy.
    """

    cache: str
    in_memory: bool
    memory_budget: int
    warmup_steps: int
    steps_per_epoch: int
    num_classes: int
    random_loss: float

    @classmethod
    def of(cls, experiment: Any) -> "AlertContext":
        """Returns the context of an Experiment."""
        data, plan, source = experiment.config.data, experiment.plan, experiment.source
        known = experiment.config.optimizer.loss == "cross_entropy"
        return cls(data.cache, isinstance(source.train.reader, InMemory), data.memory_budget, plan.warmup_steps,
                   plan.steps_per_epoch, source.num_classes, math.log(source.num_classes) if known else math.inf)


class Alerts(Callback):
    """Warns about problems that the user can do something about."""

    def __init__(self, context: AlertContext, warning: Callable[[str], None]):
        self._context, self._warning = context, warning
        self._given: set[str] = set()
        self._waiting: collections.deque = collections.deque()  # (seconds without input, seconds) of steady windows.
        self._ratios: collections.deque[float] = collections.deque(maxlen=MEASUREMENTS)
        self._skipped, self._peak, self._scaled = 0, 0.0, False

    def on_window(self, window: Window) -> None:
        """Checks the steps of a window."""
        column = {name: window.rows[:, number] for number, name in enumerate(window.columns)}
        if "input_wait" in window.system:
            self._look_back(window.system["input_wait"] * window.seconds, window.seconds)
        self._warn_of({"input": self._input_bound(), "host memory": self._host_memory(window.system),
                       "device memory": self._device_memory(window.system), "loss scale": self._loss_scale(column),
                       "learning rate": self._learning_rate(window.step, column)})

    def on_evaluation(self, evaluated: Evaluated) -> None:
        """Checks an evaluation, from the end of the first epoch and of warm-up on."""
        context = self._context
        settled = max(context.steps_per_epoch, context.warmup_steps, SETTLED_STEPS)
        if context.num_classes > 1 and evaluated.step >= settled:
            found = evaluated.step, evaluated.evaluation, evaluated.split.name
            self._warn_of({"loss": self._diverged(*found), "chance": self._at_chance(*found)})

    def on_rollback(self, restored: Restored) -> None:
        """Forgets the abandoned steps; warnings are not repeated."""
        self._ratios.clear()
        self._skipped = 0

    def _warn_of(self, found: Mapping[str, str | None]) -> None:
        """Gives the warnings, None or a line by cause, whose cause is new."""
        for cause, line in found.items():
            if line and cause not in self._given:
                self._given.add(cause)
                self._warning(line)

    def _look_back(self, waited: float, seconds: float) -> None:
        self._waiting.append((waited, seconds))
        while len(self._waiting) > WINDOWS and sum(s for _, s in self._waiting) - self._waiting[0][1] >= WINDOW_SECONDS:
            self._waiting.popleft()

    def _input_bound(self) -> str | None:
        waited, seconds = sum(w for w, _ in self._waiting), sum(s for _, s in self._waiting)
        often = sum(w > MOST_WAITING * s for w, s in self._waiting) > len(self._waiting) / 2
        if len(self._waiting) < WINDOWS or seconds < WINDOW_SECONDS or waited <= MOST_WAITING * seconds or not often:
            return None
        if self._context.in_memory:
            remedy = "--cache=device makes the batches inside the step"
        else:
            remedy = (f"the data is read from disk; with more than --memory_budget={self._context.memory_budget} "
                      "(MiB) it would stay in memory")
        return f"the steps wait for their input {waited / seconds:.0%} of the time: {remedy}"

    def _host_memory(self, system: Mapping[str, float]) -> str | None:
        full = system.get("host_memory_full", 0.0)
        if full <= MOST_MEMORY:
            return None
        limit = system["host_memory_mib"] / system["host_memory_share"]
        smaller = ("a smaller --memory_budget streams the data from disk" if self._context.in_memory
                   else "a smaller --batch_size takes less")
        return (f"memory is {full:.0%} full ({system['host_memory_mib']:,.0f} of {limit:,.0f} MiB by this process); "
                f"when it runs out the system kills the run: {smaller}, or stop other processes")

    def _device_memory(self, system: Mapping[str, float]) -> str | None:
        full = system.get("device_memory_full", 0.0)
        if full <= MOST_MEMORY:
            return None
        host = " or --cache=host" if self._context.cache == "device" else ""
        return (f"GPU memory is {full:.0%} full ({system['device_memory_mib']:,.0f} MiB): if it runs out, use more "
                f"--accumulate_steps{host}")

    def _loss_scale(self, column: Mapping[str, np.ndarray]) -> str | None:
        if "loss_scale" not in column:
            return None
        longest = self._skipped
        for applied in column["applied"]:
            self._skipped = 0 if applied else self._skipped + 1
            longest = max(longest, self._skipped)
        lowest = float(column["loss_scale"].min())
        self._scaled = self._scaled or float(column["loss_scale"].max()) > 1  # 1: no scaling.
        if not self._scaled or (lowest >= LEAST_LOSS_SCALE and longest < MOST_SKIPPED):
            return None
        seen = f"fell to {lowest:g}" if lowest < LEAST_LOSS_SCALE else f"was halved {longest} times in a row"
        return (f"the loss scale {seen}, since the gradients of float16 are not finite: --precision=mixed_bfloat16 "
                "needs no scale; or use a lower --learning_rate, or --clip=norm:1")

    def _learning_rate(self, step: int, column: Mapping[str, np.ndarray]) -> str | None:
        if "update_ratio" not in column:
            return None
        self._peak = max(self._peak, float(column["learning_rate"].max()))
        steps = np.arange(step - len(column["loss"]) + 1, step + 1)
        counts = (np.isfinite(column["update_ratio"]) & (column["applied"] > 0)
                  & (steps > max(SETTLED_STEPS, self._context.warmup_steps))
                  & (column["learning_rate"] >= NEAR_PEAK * self._peak))
        self._ratios.extend(column["update_ratio"][counts].tolist())
        if len(self._ratios) < MEASUREMENTS:
            return None
        typical, rate = float(np.median(self._ratios)), column["learning_rate"][-1]
        if min(self._ratios) > MOST_RATIO:
            return (f"the learning rate of {rate:.3g} looks too high: a step changes the weights by {typical:.1%} of "
                    "their norm, where 0.1% is usual; try a tenth of it (--learning_rate)")
        if max(self._ratios) < LEAST_RATIO:
            return (f"the learning rate of {rate:.3g} looks too low: a step changes the weights by {typical:.1e} of "
                    "their norm, where 1e-3 is usual; try ten times as much (--learning_rate)")
        return None

    def _diverged(self, step: int, evaluation: Evaluation, split: str) -> str | None:
        random = self._context.random_loss
        if not math.isfinite(evaluation.loss) or evaluation.loss <= MOST_LOSS * random:
            return None
        return (f"after {step} steps the {split} loss is {evaluation.loss:.3g}, where random predictions have "
                f"{random:.3g}: the learning rate looks too high; try a tenth of it (--learning_rate)")

    def _at_chance(self, step: int, evaluation: Evaluation, split: str) -> str | None:
        counts = np.bincount(evaluation.rows[:, 0].astype(np.int64), minlength=self._context.num_classes)
        chance = counts.max() / counts.sum()  # Of always predicting the most frequent class.
        error = math.sqrt(chance * (1 - chance) / counts.sum())
        if chance == 1 or evaluation.accuracy > chance + 2 * error:
            return None
        slow = self._ratios and np.median(self._ratios) < SLOW_RATIO
        rate = "ten times as much --learning_rate" if slow else "a tenth of the --learning_rate"
        return (f"after {step} steps the {split} accuracy of {evaluation.accuracy:.2%} is no better than always "
                f"predicting the most frequent of {self._context.num_classes} classes ({chance:.2%}): try {rate}, and "
                "check that the labels match the images")
