"""Work on many items by several threads."""
import itertools
import os
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

_AT_ONCE = 64  # Items that a thread takes together.


def for_each(function: Callable[[int], None], count: int, advance: Callable[[int], None] = lambda done: None,
             threads: int | None = None) -> None:
    """Calls function(i) for i in [0, count); no more memory is used for more items.

    Args:
      function: called by several threads; the first exception ends the work and is raised.
      count: number of items.
      advance: called with a number of items that are done.
      threads: how many; None: one for each processor.
    """
    starts, lock, stopped = itertools.count(0, _AT_ONCE), threading.Lock(), threading.Event()

    def work():
        try:
            while not stopped.is_set():
                with lock:
                    start = next(starts)
                if start >= count:
                    return
                stop = min(start + _AT_ONCE, count)
                for i in range(start, stop):
                    function(i)
                with lock:
                    advance(stop - start)
        except BaseException:
            stopped.set()
            raise

    threads = threads or len(os.sched_getaffinity(0))
    with ThreadPoolExecutor(threads) as pool:
        try:
            for done in [pool.submit(work) for _ in range(threads)]:
                done.result()
        finally:
            stopped.set()  # An interrupt does not wait for thousands of files.
