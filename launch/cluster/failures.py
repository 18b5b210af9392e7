"""Finds the worker whose failure caused those of its peers."""
import dataclasses
import re
import signal
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from pipeline.distributed.peer_failure import PEER_LOST

USAGE, PREEMPTED = 2, 75
GOOD = (0, PREEMPTED)
MOST_LINES = 15
NODE = "[[{{"  # TensorFlow's last line names the node of the graph, the line before it the error.
OWN_LINE = re.compile(r"mirrorline( \w+)?: ")  # In which a command reports its error.


@dataclasses.dataclass(frozen=True)
class Failure:
    """The failure that ended an attempt.

    Attributes:
      rank: of the worker that failed first.
      what: what happened to it ("was ended by SIGKILL").
      code: its exit code, None where it was still running.
      lines: its last lines.
      certain: whether it is known to be the cause, not the best guess as long as peers still run.
    """

    rank: int
    what: str
    code: int | None
    lines: tuple[str, ...]
    certain: bool = True

    @property
    def error(self) -> str:
        """The most informative of its lines, "" where another process ended it and it reported nothing."""
        own = [line for line in self.lines if OWN_LINE.match(line)]
        if own:
            return OWN_LINE.sub("", own[-1], count=1)
        failed_itself = self.code is not None and self.code > 0
        lines = [line for line in self.lines if not line.strip().startswith(NODE)]
        return lines[-1].strip() if lines and failed_itself else ""

    @property
    def text(self) -> str:
        """The failure in one line."""
        return f"worker {self.rank} {self.what}" + (f": {self.error}" if self.error else "")


def find(workers: Iterable[Any], output: Mapping[int, Iterable[str]]) -> Failure | None:
    """Returns the failure that is the cause, as far as it can be seen from outside; None where no worker failed.

    It is that of the first worker that failed by itself. Where all that ended report a lost peer, it is that of a
    stopped worker, or else of one that still runs and does not answer.

    Args:
      workers: of an attempt, with `rank`, `code`, `ended` and `stopped()`, see local_workers.Worker.
      output: {rank: last lines}.
    """
    workers = list(workers)
    bad = sorted((w for w in workers if w.code is not None and w.code not in GOOD), key=lambda w: (w.ended, w.rank))
    own = [worker for worker in bad if worker.code != PEER_LOST]
    running = [worker for worker in workers if worker.code is None]
    if own:
        return describe(own[0].rank, ending(own[0].code or 0), own[0].code, output)
    if not bad:
        return None
    stopped = [worker for worker in running if worker.stopped()]
    if stopped:
        return describe(stopped[0].rank, "was stopped (SIGSTOP)", None, output)
    if running:
        return describe(running[0].rank, f"does not answer worker {bad[0].rank}", None, output, certain=False)
    return describe(bad[0].rank, ending(PEER_LOST), PEER_LOST, output)


def describe(rank: int, what: str, code: int | None, output: Mapping[int, Iterable[str]], certain: bool = True
             ) -> Failure:
    """Returns the Failure of a worker with the relevant part of its last lines."""
    return Failure(rank, what, code, tuple(last_lines(output.get(rank, ()))), certain)


def ending(code: int) -> str:
    """Describes how a process ended, by its exit code, negative for a signal."""
    if code == PEER_LOST:
        return f"lost a peer (exit code {code})"
    if code >= 0:
        return f"ended with exit code {code}"
    try:
        return f"was ended by {signal.Signals(-code).name}"
    except ValueError:
        return f"was ended by signal {-code}"


def last_lines(lines: Iterable[str]) -> Sequence[str]:
    """Returns the last lines that are not empty: from the last traceback on, at most MOST_LINES."""
    lines = [line.rstrip() for line in lines if line.strip()]
    tracebacks = [at for at, line in enumerate(lines) if line.startswith("Traceback (most recent call last)")]
    return lines[tracebacks[-1] if tracebacks else 0:][-MOST_LINES:]
