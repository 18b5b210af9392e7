"""How fast a stream delivers images, and what they cost in processor time. Standard library only."""
import multiprocessing
import os
import pathlib
import resource
import sys
import time
from collections.abc import Callable
from typing import Any

from benchmarks.gate import Gate

WARM_SHARE = 0.5  # Of the time that is measured: before it, what waits in buffers is taken, and tf.data tunes itself.
REST, QUIET, LONGEST_REST = 0.1, 0.05, 60.0  # Seconds, cores, seconds.


def pull(open_stream: Callable[[], Callable[[], int]], seconds: float) -> dict[str, Any]:
    """Takes batches from a stream, and returns when its threads rest.

    Args:
      open_stream: returns a function that takes a batch and returns its number of images. A stream of tf.data is opened
        again for each turn: the buffer of prefetch(AUTOTUNE) would double with each, to half of the memory.
      seconds: for which batches are counted.

    Returns:
      {"images": of the counted batches, "seconds": that they took, "processor": seconds of processor time of this
      process and its children meanwhile}.
    """
    next_batch, end = open_stream(), time.monotonic() + WARM_SHARE * seconds
    next_batch()
    while time.monotonic() < end:
        next_batch()
    images, began, processor = 0, time.monotonic(), processor_seconds()
    while not images or time.monotonic() < began + seconds:
        images += next_batch()
    found = {"images": images, "seconds": time.monotonic() - began, "processor": processor_seconds() - processor}
    del next_batch
    wait_for_rest()
    return found


def serve(next_batch: Callable[[], int]) -> None:
    """Lets a stream be pulled by another process, to the end of standard input.

    Each of its lines, {"command": "pull", "seconds": number}, is answered by what `pull` returns, a line of JSON.

    Args:
      next_batch: takes a batch and returns its number of images.
    """
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # What libraries print is no answer.
    gate = Gate(sys.stdin, answers)
    gate.on("pull", lambda seconds: pull(lambda: next_batch, seconds))
    gate.serve()


def processor_seconds() -> float:
    """Returns the processor time of this process and of its living children so far."""
    own = resource.getrusage(resource.RUSAGE_SELF)
    children = (process_seconds(child.pid) for child in multiprocessing.active_children() if child.pid)
    return own.ru_utime + own.ru_stime + sum(children)


def process_seconds(pid: int) -> float:
    """Returns the processor time of all threads of a process so far, in hundredths."""
    fields = pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def wait_for_rest() -> None:
    """Waits until this process and its children use next to no processor time."""
    end, before = time.monotonic() + LONGEST_REST, processor_seconds()
    while time.monotonic() < end:
        time.sleep(REST)
        now = processor_seconds()
        if now - before <= QUIET * REST:
            return
        before = now
