"""Warnings that matter: each is said once, with what was seen and what would help."""
import collections
import dataclasses
import math

import numpy as np

from pipeline.callbacks import Callback, Evaluated, Restored, Window
from pipeline.data.memory import InMemory

# How far is looked back, at least, and the share of that time without input that is too much.
WINDOWS, WINDOW_SECONDS, MOST_WAITING = 5, 2.0, 0.2
MOST_MEMORY = 0.92
LEAST_LOSS_SCALE, MOST_SKIPPED = 128.0, 5
# The norm of an update over that of the weights is about 1e-3 where training goes well; a layer's first steps, and the
# last ones of a schedule that ends at zero, are another matter.
MEASUREMENTS, LEAST_RATIO, MOST_RATIO, SETTLED_STEPS, NEAR_PEAK = 5, 1e-6, 3e-2, 100, 0.1
SLOW_RATIO = 1e-4  # Below it, a model that knows nothing has moved too little rather than too far.
MOST_LOSS = 10  # Times the loss of naming classes at random: no model gets there but one whose numbers have blown up.


@dataclasses.dataclass(frozen=True)
class Circumstances:
    """What advice depends on.

    Attributes:
      cache: --cache, "host" or "device".
      in_memory: whether the training split lies in memory.
      memory_budget: --memory_budget in MiB.
      warmup_steps: steps in which the learning rate rises.
      steps_per_epoch: steps until every example was seen once.
      num_classes: number of classes.
    """

    cache: str
    in_memory: bool
    memory_budget: int
    warmup_steps: int
    steps_per_epoch: int
    num_classes: int

    @classmethod
    def of(cls, experiment):
        """Returns the Circumstances of an Experiment."""
        data, plan, source = experiment.config.data, experiment.plan, experiment.source
        return cls(data.cache, isinstance(source.train.reader, InMemory), data.memory_budget, plan.warmup_steps,
                   plan.steps_per_epoch, source.num_classes)


class Alerts(Callback):
    """Warns of what the user should do something about."""

    def __init__(self, circumstances, warning):
        """
        Args:
          circumstances: Circumstances.
          warning: called with a line.
        """
        self._of, self._warning, self._said = circumstances, warning, set()
        self._waiting = collections.deque()  # (seconds without input, seconds) of steady windows.
        self._ratios = collections.deque(maxlen=MEASUREMENTS)
        self._skipped, self._peak, self._scaled = 0, 0.0, False

    def on_window(self, window: Window) -> None:
        """Looks at the steps of a window; each cause is named once."""
        column = {name: window.rows[:, number] for number, name in enumerate(window.columns)}
        if "input_wait" in window.system:
            self._look_back(window.system["input_wait"] * window.seconds, window.seconds)
        self._warn_of({"input": self._input_bound(), "host memory": self._host_memory(window.system),
                       "device memory": self._device_memory(window.system), "loss scale": self._loss_scale(column),
                       "learning rate": self._learning_rate(window.step, column)})

    def on_evaluation(self, evaluated: Evaluated) -> None:
        """Looks at an evaluation."""
        if self._has_learned_for_a_while(evaluated.step):
            seen = evaluated.step, evaluated.evaluation, evaluated.split.name
            self._warn_of({"loss": self._blown_up(*seen), "chance": self._at_chance(*seen)})

    def on_rollback(self, restored: Restored) -> None:
        """Forgets what was seen of the abandoned steps; what was said stays said."""
        self._ratios.clear()
        self._skipped = 0

    def _warn_of(self, found):
        lines = {cause: line for cause, line in found.items() if line and cause not in self._said}
        self._said |= set(lines)
        for line in lines.values():
            self._warning(line)

    def _look_back(self, waited, seconds):
        self._waiting.append((waited, seconds))
        while len(self._waiting) > WINDOWS and sum(s for _, s in self._waiting) - self._waiting[0][1] >= WINDOW_SECONDS:
            self._waiting.popleft()

    def _input_bound(self):
        waited, seconds = sum(w for w, _ in self._waiting), sum(s for _, s in self._waiting)
        often = sum(w > MOST_WAITING * s for w, s in self._waiting) > len(self._waiting) / 2
        if len(self._waiting) < WINDOWS or seconds < WINDOW_SECONDS or waited <= MOST_WAITING * seconds or not often:
            return None
        if self._of.in_memory:
            remedy = "--cache=device makes the batches inside the step"
        else:
            remedy = (f"the data is read from disk; with more than --memory_budget={self._of.memory_budget} (MiB) it "
                      "would stay in memory")
        return f"the steps wait for their input {waited / seconds:.0%} of the time: {remedy}"

    def _host_memory(self, system):
        full = system.get("host_memory_full", 0.0)
        if full <= MOST_MEMORY:
            return None
        limit = system["host_memory_mib"] / system["host_memory_share"]
        smaller = "a smaller --memory_budget streams the data from disk" if self._of.in_memory else (
            "a smaller --batch_size takes less")
        return (f"memory is {full:.0%} full ({system['host_memory_mib']:,.0f} of {limit:,.0f} MiB are this process's), "
                f"and when it is all taken the system ends the run: {smaller}, or end something else")

    def _device_memory(self, system):
        full = system.get("device_memory_full", 0.0)
        if full <= MOST_MEMORY:
            return None
        host = " or --cache=host" if self._of.cache == "device" else ""
        return (f"the memory of a GPU is {full:.0%} full ({system['device_memory_mib']:,.0f} MiB): if it does not "
                f"suffice, take more --accumulate_steps{host}")

    def _loss_scale(self, column):
        if "loss_scale" not in column:
            return None
        longest = self._skipped
        for applied in column["applied"]:
            self._skipped = 0 if applied else self._skipped + 1
            longest = max(longest, self._skipped)
        lowest = float(column["loss_scale"].min())
        self._scaled = self._scaled or float(column["loss_scale"].max()) > 1  # It is 1 where nothing is scaled.
        if not self._scaled or (lowest >= LEAST_LOSS_SCALE and longest < MOST_SKIPPED):
            return None
        seen = f"fell to {lowest:g}" if lowest < LEAST_LOSS_SCALE else f"was halved {longest} times in a row"
        return (f"the loss scale {seen}, since the gradients of float16 are not finite: --precision=mixed_bfloat16 "
                "needs no scale; or take a lower --learning_rate, or --clip_norm=1")

    def _learning_rate(self, step, column):
        if "update_ratio" not in column:
            return None
        self._peak = max(self._peak, float(column["learning_rate"].max()))
        steps = np.arange(step - len(column["loss"]) + 1, step + 1)
        counts = (np.isfinite(column["update_ratio"]) & (column["applied"] > 0)
                  & (steps > max(SETTLED_STEPS, self._of.warmup_steps))
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

    def _has_learned_for_a_while(self, step):
        return self._of.num_classes > 1 and step >= max(self._of.steps_per_epoch, self._of.warmup_steps, SETTLED_STEPS)

    def _blown_up(self, step, evaluation, split):
        guessed = math.log(self._of.num_classes)
        if not math.isfinite(evaluation.loss) or evaluation.loss <= MOST_LOSS * guessed:
            return None
        return (f"after {step} steps the {split} loss is {evaluation.loss:.3g}, where guessing at random has "
                f"{guessed:.3g}: the learning rate looks too high; try a tenth of it (--learning_rate)")

    def _at_chance(self, step, evaluation, split):
        counts = np.bincount(evaluation.rows[:, 0].astype(np.int64), minlength=self._of.num_classes)
        chance = counts.max() / counts.sum()  # Of naming the most frequent class each time.
        error = math.sqrt(chance * (1 - chance) / counts.sum())
        if chance == 1 or evaluation.accuracy > chance + 2 * error:
            return None
        slow = self._ratios and np.median(self._ratios) < SLOW_RATIO
        rate = "ten times as much --learning_rate" if slow else "a tenth of the --learning_rate"
        return (f"after {step} steps the {split} accuracy of {evaluation.accuracy:.2%} is no better than always naming "
                f"the most frequent of {self._of.num_classes} classes ({chance:.2%}): try {rate}, and look whether the "
                "labels belong to the images")
