"""The unreadable files of a data set that a run skips: left out when it is loaded, or replaced in its streams."""
import dataclasses
import os
import threading

from pipeline.data.image_index import PackedNames, readable

EVALUATION = -1  # In place of a position: an evaluation reads every file of its split.


@dataclasses.dataclass(eq=False)
class Unreadable:
    """The skipped files of one data set.

    Attributes:
      names: of its files.
      left_out: how many files were unreadable when it was loaded, and belong to no split.
      replaced: {where the name of a file begins in `names`: the first position of the training stream at which the next
        file of its class was read in its place, or EVALUATION}.
    """

    names: PackedNames
    left_out: int = 0
    replaced: dict[int, int] = dataclasses.field(default_factory=dict)
    _lock: threading.Lock = dataclasses.field(default_factory=threading.Lock)

    def replace(self, start: int, position: int) -> bool:
        """Adds a file whose name begins at `start`; returns whether it is new."""
        with self._lock:
            is_new = start not in self.replaced
            self.replaced[start] = min(position, self.replaced.get(start, position))
            return is_new

    def found(self) -> list[tuple[int, int]]:
        """Returns the items of `replaced` so far."""
        with self._lock:
            return list(self.replaced.items())

    def name(self, start: int) -> str:
        """Returns the name of a file that begins at `start`, relative to the data set's folder, as text."""
        return readable(os.fsdecode(self.names.content[start:self.names.content.index(b"\0", start)]))
