"""The callback protocol of a training run. Standard library only.

The trainer holds one ordered tuple of callbacks. Decisions about the course of a run (evaluate, save, roll back, stop)
are not callbacks: they are in the loop of `pipeline.training.trainer`.
"""
import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

from pipeline.registration import raise_with_location
from pipeline.registry import Registry

CALLBACKS = Registry("callback", {})  # Registered by users (pipeline.register): called with (experiment, workdir).


@dataclasses.dataclass(frozen=True)
class Restored:
    """The state that a run continues from.

    Attributes:
      step: global step, 0 for a new run.
      evaluations: records of the evaluations up to this step, oldest first: {"step", "split", "loss", "accuracy", ...}.
    """

    step: int
    evaluations: Sequence[dict] = ()


@dataclasses.dataclass(frozen=True)
class Window:
    """Training steps that ran in one call.

    Attributes:
      step: global step at the end of the window.
      columns: names of the columns of `rows`.
      rows: float64 [steps, columns].
      started: wall time at its start, in seconds since the epoch.
      seconds: its duration.
      compiled: whether the step was traced and compiled in it: in the first window of a process, and of a phase of
        --unfreeze_at.
      steady: whether its speed is representative: neither compiled nor profiled.
      system: metrics of the machine, added by the first callback for those after it.
    """

    step: int
    columns: Sequence[str]
    rows: Any
    started: float
    seconds: float
    compiled: bool = False
    steady: bool = True
    system: dict[str, float] = dataclasses.field(default_factory=dict)

    def column(self, name: str) -> Any:
        """Returns the values of a column, float64 [steps]."""
        return self.rows[:, list(self.columns).index(name)]


@dataclasses.dataclass(frozen=True)
class Evaluated:
    """An evaluation that has just been computed.

    Attributes:
      step: global step.
      split: the pipeline.data.source.Split that was evaluated.
      evaluation: pipeline.metrics.evaluation.Evaluation.
      wall_time: in seconds since the epoch.
      weights: description of the weights, "" for those being trained.
    """

    step: int
    split: Any
    evaluation: Any
    wall_time: float
    weights: str = ""


@dataclasses.dataclass
class Ending:
    """The end of a run that was not preempted.

    Attributes:
      step: global step.
      result: contents of result.json.
      should_stop: a callback that takes long calls it, and if it is true sets `complete` to False and returns.
      beat: a callback that takes long calls it with a text now and then, else the watchdog ends the run.
      complete: whether every callback has completed; if not, the run counts as preempted and the same command does the
        rest.
    """

    step: int
    result: dict
    should_stop: Callable[[], bool]
    beat: Callable[[str], None]
    complete: bool = True


class Callback:
    """Base class of callbacks: every method does nothing unless overridden.

    A callback may read the training state but not change it. It is called in the thread of the trainer, between two
    calls of the step, in every worker of a run on several machines.
    """

    def on_start(self, restored: Restored) -> None:
        """Called once, before the first step of this process."""

    def on_window(self, window: Window) -> None:
        """Called after every window of steps."""

    def on_evaluation(self, evaluated: Evaluated) -> None:
        """Called after every evaluation during training."""

    def on_checkpoint(self, step: int) -> None:
        """Called once the checkpoint of a step is on the disk."""

    def on_rollback(self, restored: Restored) -> None:
        """Called after a divergence, when an earlier step has been restored."""

    def on_end(self, ending: Ending) -> None:
        """Called at the end of the run, with its results."""

    def close(self) -> None:
        """Called last, however the run ended, unless the process was killed, or interrupted before the first step."""


class UserCallback(Callback):
    """A callback registered by a user: an exception in it ends the run in one line that names its source location."""

    def __init__(self, name: str, experiment: Any, workdir: str):
        """
        Args:
          name: in CALLBACKS.
          experiment: pipeline.training.experiment.Experiment of the run.
          workdir: directory of the run.
        """
        entry = CALLBACKS.find(name)
        self._what, self._location = f"callback {name}", entry.location
        with raise_with_location(self._what, self._location):
            self._callback = entry.origin(experiment, workdir)

    def on_start(self, restored: Restored) -> None:
        self._call("on_start", restored)

    def on_window(self, window: Window) -> None:
        self._call("on_window", window)

    def on_evaluation(self, evaluated: Evaluated) -> None:
        self._call("on_evaluation", evaluated)

    def on_checkpoint(self, step: int) -> None:
        self._call("on_checkpoint", step)

    def on_rollback(self, restored: Restored) -> None:
        self._call("on_rollback", restored)

    def on_end(self, ending: Ending) -> None:
        self._call("on_end", ending)

    def close(self) -> None:
        self._call("close")

    def _call(self, method: str, *arguments: Any) -> None:
        with raise_with_location(self._what, self._location):
            getattr(self._callback, method)(*arguments)
