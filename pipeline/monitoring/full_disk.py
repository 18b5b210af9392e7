"""Warnings about a full disk: one when it begins, one when it is over."""
from collections.abc import Callable

from pipeline.console import Console


class FullDisk:
    """Shared by everything that writes a run's files, so that the user is warned once and not once per file.

    It is over when a checkpoint is saved, after everything else is written: what the run removes makes a little room
    for a moment, again and again.

    Attributes:
      make_room: called with an errno, deletes what the run can spare; set by the owner of such files.
    """

    def __init__(self, console: Console):
        self._console, self._warned = console, False
        self.make_room: Callable[[int | None], object] = lambda number: None

    def failed(self, line: str) -> None:
        """Records that a write failed; gives the warning if it is the first."""
        if not self._warned:
            self._console.warning(line)
        self._warned = True

    def over(self, line: str) -> None:
        """Records that everything is written; gives the warning if a write had failed before."""
        if self._warned:
            self._console.warning(line)
        self._warned = False
