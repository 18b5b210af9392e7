"""Recognizes errors and ends of processes for lack of memory, of the host or of a device. Standard library only."""
import contextlib
import re
import signal
from collections.abc import Iterator

from pipeline.config import ExperimentConfig
from pipeline.errors import RunFailure
from pipeline.files import no_room

NO_MEMORY = 3  # Exit code of a process of this program that ends for lack of memory.
OUT_OF_MEMORY = re.compile(r"bad_alloc|out of memory|\bOOM\b|RESOURCE_EXHAUSTED|cannot allocate memory|failed to alloc|"
                           r"alloc\w*[ _]failed|can't start new thread|failed to map segment|"
                           r"could not (create|execute) a (memory|primitive)|Resource temporarily unavailable",
                           re.IGNORECASE)
KILLED = (signal.SIGKILL,)
CRASHED = (signal.SIGABRT, signal.SIGSEGV, signal.SIGBUS)


def is_memory(error: BaseException) -> bool:
    """Returns whether an error reports that the memory of host or device is full."""
    if isinstance(error, MemoryError):
        return True
    if no_room(error) is not None:
        return False
    return type(error).__name__ == "ResourceExhaustedError" or reports_full_memory(str(error))


def ends_for_memory(code: int | None, text: str, limited: float) -> bool:
    """Returns whether a process ended for lack of memory.

    Args:
      code: its exit code, minus the number of a signal; None where it timed out.
      text: its standard error.
      limited: its memory limit; with one, a crash counts as a failed allocation of a library.
    """
    if code is None or code == 0:
        return False
    if code == NO_MEMORY or -code in KILLED:  # The kernel kills the process that exhausts it.
        return True
    return reports_full_memory(text) or (-code in CRASHED and bool(limited))


def reports_full_memory(text: str) -> bool:
    """Returns whether a text reports full memory, and not a full disk, which shares some of the words."""
    return no_room(text) is None and bool(OUT_OF_MEMORY.search(text))


@contextlib.contextmanager
def in_words(config: ExperimentConfig) -> Iterator[None]:
    """Turns an error for lack of memory in a training into a RunFailure that names the batch and what would fit."""
    try:
        yield
    except Exception as error:
        if isinstance(error, RunFailure) or not is_memory(error):
            raise
        size, parts = config.training.batch_size, config.optimizer.accumulate_steps
        halves = next((n for n in range(2 * parts, size + 1) if size % n == 0), None)
        fewer = f"--accumulate_steps={halves} computes the same step in parts of {size // halves}; " if halves else ""
        shown = f"--batch_size={size}" + (f" in {parts} micro-batches" if parts > 1 else "")
        raise RunFailure(f"out of memory with {shown}: {fewer}'mirrorline find --batch_size' with these flags finds "
                         f"what fits; what was saved is safe ({' '.join(str(error).split())[:120]})") from error
