"""Which worker failed first, and what it said: its peers fail after it, and are only its echo."""
import dataclasses
import re
import signal

from pipeline.distributed.peer_failure import PEER_LOST

USAGE, PREEMPTED = 2, 75
GOOD = (0, PREEMPTED)
MOST_LINES = 15
PLACE = "[[{{"  # TensorFlow's last line tells where in a graph it was, the one before it what it was.
# How a command tells in one line what went wrong.
OWN_WORDS = re.compile(r"mirrorline( \w+)?: ")


@dataclasses.dataclass(frozen=True)
class Failure:
    """The failure that ended an attempt.

    Attributes:
      rank: of the worker that failed first.
      what: what became of it, in words ("was ended by SIGKILL").
      code: its exit code, None where it was still there.
      lines: the last that it said, tuple of str.
      certain: whether it is known to be the cause, and not only the best guess as long as peers still run.
    """

    rank: int
    what: str
    code: int | None
    lines: tuple
    certain: bool = True

    @property
    def error(self):
        """The one line of these that says most, "" where it was ended by another without a word of its own."""
        own = [line for line in self.lines if OWN_WORDS.match(line)]
        if own:
            return OWN_WORDS.sub("", own[-1], count=1)
        failed_itself = self.code is not None and self.code > 0
        lines = [line for line in self.lines if not line.strip().startswith(PLACE)]
        return lines[-1].strip() if lines and failed_itself else ""

    @property
    def text(self):
        """All of it in one line, without an end."""
        return f"worker {self.rank} {self.what}" + (f": {self.error}" if self.error else "")


def find(workers, said):
    """Returns the Failure of the worker that is the cause, as far as can be seen from outside.

    A worker that failed by itself is one, the first of them where there are several. Where all that ended say that
    they lost a peer, it is one that is stopped, or else one that still runs: it does not answer.

    Args:
      workers: objects with `rank`, `code`, `ended` and `stopped()`, see local_workers.Worker.
      said: {rank: the last lines of a worker}.

    Returns:
      Failure; None where nobody has failed.
    """
    bad = sorted((w for w in workers if w.code is not None and w.code not in GOOD), key=lambda w: (w.ended, w.rank))
    own = [worker for worker in bad if worker.code != PEER_LOST]
    running = [worker for worker in workers if worker.code is None]
    if own:
        return describe(own[0].rank, ending(own[0].code), own[0].code, said)
    if not bad:
        return None
    stopped = [worker for worker in running if worker.stopped()]
    if stopped:
        return describe(stopped[0].rank, "was stopped (SIGSTOP)", None, said)
    if running:
        return describe(running[0].rank, f"does not answer worker {bad[0].rank}", None, said, certain=False)
    return describe(bad[0].rank, ending(PEER_LOST), PEER_LOST, said)


def describe(rank, what, code, said, certain=True):
    """Returns the Failure of a worker with what matters of its last lines."""
    return Failure(rank, what, code, tuple(last_words(said.get(rank, ()))), certain)


def ending(code):
    """Returns in words how a process ended, by its exit code, that of a signal being negative."""
    if code == PEER_LOST:
        return f"lost a peer (exit code {code})"
    if code >= 0:
        return f"ended with exit code {code}"
    try:
        return f"was ended by {signal.Signals(-code).name}"
    except ValueError:
        return f"was ended by signal {-code}"


def last_words(lines):
    """Returns the last lines that matter: from the last traceback on, at most MOST_LINES, none of them empty."""
    lines = [line.rstrip() for line in lines if line.strip()]
    begins = [at for at, line in enumerate(lines) if line.startswith("Traceback (most recent call last)")]
    return lines[begins[-1] if begins else 0:][-MOST_LINES:]
