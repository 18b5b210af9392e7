"""A process that computes when it is told to: python -m benchmarks.worker ORDER, see benchmarks.processes.

The order is {"peer": name, "workload": fields of a Workload, "data": folder, ...} of JSON's types. Each line of
standard input is a command, {"command": name, ...}, answered by one line of JSON; the end of the input is the end. What
libraries print goes to standard error.
"""
import dataclasses
import json
import os
import resource
import sys
import time

from benchmarks.workloads import CEILING, TORCH_PEERS, Workload
from pipeline.errors import RunFailure, UsageError


class Gate:
    """Where a peer waits between two blocks of training.

    The peer keeps control: `fit` of Keras, or a training loop of its own, goes on where it was when a block begins.
    """

    def __init__(self, commands, answers):
        """
        Args:
          commands, answers: open text files.
        """
        self._commands, self._answers, self._handlers = commands, answers, {"memory": peak_memory}

    def on(self, command, handler):
        """Sets what a command is answered by: a function of its values that returns a dict."""
        self._handlers[command] = handler

    def send(self, **values):
        """Answers."""
        self._answers.write(json.dumps(values) + "\n")
        self._answers.flush()

    def wait(self):
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

    def serve(self):
        """Answers commands to the end, for a process that does not train."""
        while True:
            self.wait()

    def train(self, run_steps):
        """Trains in blocks to the end.

        Args:
          run_steps: a function that does a number of steps and returns when they are computed.
        """
        while True:
            steps = self.wait()
            began = time.monotonic()
            run_steps(steps)
            self.finished(steps, time.monotonic() - began)

    def finished(self, steps, seconds):
        """Answers what a block took."""
        self.send(steps=steps, seconds=seconds, ended=time.time())


class Blocks:
    """Blocks for a loop that somebody else runs: it says when a call begins, and is held there between two blocks."""

    def __init__(self, gate):
        self.gate, self._left, self._done, self._began = gate, None, 0, 0.0

    def call_begins(self):
        """Ends the block where its steps are done, and waits for the next one."""
        if self._left is not None and self._left > 0:
            return
        if self._left is not None:
            self.gate.finished(self._done, time.monotonic() - self._began)
        self._left, self._done = self.gate.wait(), 0
        self._began = time.monotonic()

    def count(self, steps):
        """Counts the steps of the call that begins."""
        self._left -= steps
        self._done += steps


def peak_memory():
    """Returns {"mebibytes": the most memory that this process has held so far}."""
    return {"mebibytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024}


def timed(function):
    """Returns a handler that answers with the seconds that a function takes."""
    def handler():
        began = time.monotonic()
        function()
        return {"seconds": time.monotonic() - began}
    return handler


def main(text):
    """Runs the peer of an order; returns the exit code."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    order = json.loads(text)
    fields = order["workload"]
    order["workload"] = Workload(**{f.name: tuple(v) if isinstance(v := fields[f.name], list) else v
                                    for f in dataclasses.fields(Workload)})
    from pipeline import silence
    silence.quiet("normal")
    try:
        run(order, Gate(sys.stdin, answers))
    except (UsageError, RunFailure) as error:
        print(" ".join(str(error).splitlines()), file=sys.stderr)
        return 2 if isinstance(error, UsageError) else 1
    return 0


def run(order, gate):
    """Runs one peer."""
    peer = order["peer"]
    if peer == CEILING:
        from benchmarks.ceiling import run as run_peer
    elif peer in TORCH_PEERS:
        from benchmarks.torch_peers import run as run_peer
    elif peer.startswith("mirrorline"):
        from benchmarks.mirrorline_peers import run as run_peer
    else:
        from benchmarks.keras_peers import run as run_peer
    run_peer(order, gate)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
