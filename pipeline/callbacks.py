"""The callback protocol: what a training run calls, in which order, with what. Standard library only.

The trainer holds one ordered tuple of callbacks. What decides the course of a run (save, evaluate, roll back, stop) is
no callback: it stands in the loop of `pipeline.training.trainer`.
"""
import dataclasses
import typing
from collections.abc import Callable, Sequence

from pipeline.registration import raise_with_location
from pipeline.registry import Registry

CALLBACKS = Registry("callback", {})  # Of users: called with (experiment, workdir); see pipeline.register.


@dataclasses.dataclass(frozen=True)
class Restored:
    """The state that a run continues from.

    Attributes:
      step: global step, 0 for a fresh run.
      evaluations: records of the evaluations up to there, oldest first: {"step", "split", "loss", "accuracy", ...}.
    """

    step: int
    evaluations: Sequence[dict] = ()


@dataclasses.dataclass(frozen=True)
class Window:
    """Training steps that ran in one call.

    Attributes:
      step: global step at the end of the window.
      columns: names of the columns of `rows`.
      rows: float64 [steps, columns], one row a step.
      started: wall time at its start, in seconds since the epoch.
      seconds: its duration.
      compiled: whether the step was traced and compiled in it: the first window of a process.
      steady: whether its speed is that of training: neither compiled nor profiled.
      system: {name: float} about the machine, added by the first callback for those after it.
    """

    step: int
    columns: Sequence[str]
    rows: typing.Any
    started: float
    seconds: float
    compiled: bool = False
    steady: bool = True
    system: dict[str, float] = dataclasses.field(default_factory=dict)

    def column(self, name: str) -> typing.Any:
        """Returns one value of every step, float64 [steps]."""
        return self.rows[:, list(self.columns).index(name)]


@dataclasses.dataclass(frozen=True)
class Evaluated:
    """An evaluation that has just been computed.

    Attributes:
      step: global step.
      split: the pipeline.data.source.Split that was evaluated.
      evaluation: pipeline.metrics.evaluation.Evaluation.
      wall_time: in seconds since the epoch.
      weights: in words, which weights were evaluated where it was not those of the training, else "".
    """

    step: int
    split: typing.Any
    evaluation: typing.Any
    wall_time: float
    weights: str = ""


@dataclasses.dataclass
class Ending:
    """The end of a run that was not preempted.

    Attributes:
      step: global step.
      result: what result.json is going to hold.
      should_stop: predicate; a callback that takes long asks it, and leaves with `complete` false where it is true.
      beat: to be called with a few words now and then by a callback that takes long, else the watchdog ends the run.
      complete: whether every callback has done its work; where not, the run counts as preempted and the same command
        does the rest.
    """

    step: int
    result: dict
    should_stop: Callable[[], bool]
    beat: Callable[[str], None]
    complete: bool = True


class Callback:
    """What a run calls; every method does nothing unless a subclass overrides it.

    A callback may read everything and change nothing of the training state. It is called in the trainer's thread,
    between two calls of the step, in every worker of a run on several machines.
    """

    def on_start(self, restored: Restored) -> None:
        """Called once, before the first step of this process."""

    def on_window(self, window: Window) -> None:
        """Called after every window of steps."""

    def on_evaluation(self, evaluated: Evaluated) -> None:
        """Called after every evaluation along the way."""

    def on_checkpoint(self, step: int) -> None:
        """Called when the checkpoint of a step is known to be on the disk."""

    def on_rollback(self, restored: Restored) -> None:
        """Called after the run went back to an earlier step because training had diverged."""

    def on_end(self, ending: Ending) -> None:
        """Called once the run has reached its end and its results are known."""

    def close(self) -> None:
        """Called last, however the run ended, unless its process was killed, or interrupted in its first step."""


class UserCallback(Callback):
    """A callback that a user registered: what it raises ends the run in one line that names its location."""

    def __init__(self, name: str, experiment, workdir: str):
        """
        Args:
          name: of CALLBACKS.
          experiment: Experiment of the run.
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

    def _call(self, method, *arguments):
        with raise_with_location(self._what, self._location):
            getattr(self._callback, method)(*arguments)
