"""Where a peer waits between two blocks of training, and what it answers there."""
import json
import resource
import time
from collections.abc import Callable, Iterable
from typing import Any, TextIO


class Gate:
    """Where a peer waits between two blocks of training.

    The peer keeps control: `fit` of Keras, or a training loop of its own, goes on where it was when a block begins.
    """

    def __init__(self, commands: Iterable[str], answers: TextIO):
        """
        Args:
          commands, answers: open text files.
        """
        self._commands, self._answers, self._handlers = commands, answers, {"memory": peak_memory}

    def on(self, command: str, handler: Callable[..., dict[str, Any]]) -> None:
        """Sets what a command is answered by: a function of its values that returns a dict."""
        self._handlers[command] = handler

    def send(self, **values: Any) -> None:
        """Answers."""
        self._answers.write(json.dumps(values) + "\n")
        self._answers.flush()

    def report_first_steps(self, losses: Iterable[Any]) -> None:
        """Trains the first steps and answers their losses, and when the first one ended.

        Args:
          losses: iterable that trains one step for each loss it yields.
        """
        found, ended = [], None
        for loss in losses:
            found.append(float(loss))
            ended = ended or time.time()
        self.send(losses=found, ended=ended)

    def wait(self) -> int:
        """Answers commands until training is to go on; returns the steps of the block.

        Raises:
          SystemExit: there are no more commands.
        """
        for line in self._commands:
            values = json.loads(line)
            command = values.pop("command")
            if command == "train":
                return values["steps"]
            self.send(**self._handlers[command](**values))
        raise SystemExit(0)

    def serve(self) -> None:
        """Answers commands to the end, for a process that does not train."""
        while True:
            self.wait()

    def train(self, run_steps: Callable[[int], Any]) -> None:
        """Trains in blocks to the end.

        Args:
          run_steps: a function that does a number of steps and returns when they are computed.
        """
        while True:
            steps = self.wait()
            began = time.monotonic()
            run_steps(steps)
            self.finished(steps, time.monotonic() - began)

    def finished(self, steps: int, seconds: float) -> None:
        """Answers what a block took."""
        self.send(steps=steps, seconds=seconds, ended=time.time())


class Blocks:
    """Blocks for a loop that somebody else runs: it says when a call begins, and is held there between two blocks."""

    def __init__(self, gate: Gate):
        self.gate, self._done, self._began = gate, 0, 0.0
        self._left: int | None = None  # Steps of the block; None before the first.

    def call_begins(self) -> None:
        """Ends the block where its steps are done, and waits for the next one."""
        if self._left is not None and self._left > 0:
            return
        if self._left is not None:
            self.gate.finished(self._done, time.monotonic() - self._began)
        self._left, self._done = self.gate.wait(), 0
        self._began = time.monotonic()

    def count(self, steps: int) -> None:
        """Counts the steps of the call that begins."""
        self._left = (self._left or 0) - steps
        self._done += steps


def peak_memory() -> dict[str, float]:
    """Returns {"mebibytes": the most memory that this process has held so far}."""
    return {"mebibytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024}


def timed(function: Callable[[], Any]) -> Callable[[], dict[str, float]]:
    """Returns a handler that answers with the seconds that a function takes."""
    def handler():
        began = time.monotonic()
        function()
        return {"seconds": time.monotonic() - began}
    return handler
