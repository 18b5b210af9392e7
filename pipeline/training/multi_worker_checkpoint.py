"""The files of a run with several workers: the chief writes them, the others read its checkpoints."""
import contextlib
import functools
import shutil
import tempfile
from collections.abc import Callable, Iterator
from typing import Any

from pipeline.console import Console
from pipeline.distributed.agreement import Workers
from pipeline.distributed.cluster import Cluster
from pipeline.monitoring.full_disk import FullDisk
from pipeline.paths import literal
from pipeline.run_directory import RunDirectory
from pipeline.stored_checkpoint import check_specs, find_checkpoint
from pipeline.training.checkpoint import CheckpointStore
from pipeline.training.state import TrainState

NONE = -1  # Stands for None where workers agree on a step.


class WorkerRunDirectory(RunDirectory):
    """The directory of a run for a worker that is not the chief.

    Configuration and checkpoints are those of the chief. The report of a hang goes to the directory of the run under
    the worker's own name; everything else to a temporary folder that is removed at the end.
    """

    def __init__(self, shared: RunDirectory, rank: int):
        """
        Args:
          shared: directory of the chief.
          rank: index of this worker.
        """
        super().__init__(tempfile.mkdtemp(prefix=f"mirrorline-worker-{rank}-"))
        self.shared, self.rank = shared, rank

    def file(self, *names: str) -> str:
        if names[0] == "checkpoints":
            return self.shared.file(*names)
        if names[0] == "hang.txt":
            return self.shared.file(f"hang-{self.rank}.txt")
        return super().file(*names)

    @property
    def config(self) -> dict[str, Any] | None:
        return self.shared.config

    def check(self, *arguments: Any) -> list[tuple]:
        return self.shared.check(*arguments)

    def claim(self) -> None:
        """Does nothing: the chief has the lock."""

    @contextlib.contextmanager
    def claimed(self) -> Iterator[None]:
        try:
            yield
        finally:
            shutil.rmtree(self.path, ignore_errors=True)


class ChiefCheckpointStore(CheckpointStore):
    """The checkpoints of the chief, which tells the other workers from which one they all continue."""

    def __init__(self, workers: Workers, *arguments: Any, **named: Any):
        """Args: workers; the others are those of CheckpointStore."""
        super().__init__(*arguments, **named)
        self._workers = workers

    def restore(self, known: int | None = None) -> int:
        return int(self._workers.first(super().restore(known)))

    def latest_good(self, wanted: Callable[[int], bool]) -> int | None:
        found = super().latest_good(wanted)
        return _shared_step(self._workers, NONE if found is None else found)


class WorkerCheckpointStore:
    """The checkpoints of a run for the other workers, which read the one that the chief names and write nothing.

    Every worker holds the same values, so the chief's are the whole state. Attributes and methods are those of
    CheckpointStore; what the chief does is only recorded.
    """

    full_message = "the disk of the chief is full"

    def __init__(self, workers: Workers, directory: str, state: TrainState):
        """
        Args:
          directory: `checkpoints/` of the run, on a file system that all workers share.
        """
        self._workers, self.directory, self.state = workers, directory, state
        self.disk = FullDisk(Console(quiet=True))
        self.last_step: int | None = None
        self._checkpoint = state.checkpoint()

    def restore(self, known: int | None = None) -> int:
        """Restores the checkpoint that the chief has restored; returns its step, 0 for a new run."""
        del known
        step = int(self._workers.first(NONE))
        if step:
            stored = find_checkpoint(self.directory, str(step))
            check_specs(stored, self.state.specs())
            _ = self._checkpoint.save_counter
            with literal(stored.path) as path:
                self._checkpoint.read(path).assert_consumed()
        self.last_step = step or None
        return step

    def latest_good(self, wanted: Callable[[int], bool]) -> int | None:
        """Returns the step that the chief found, or None."""
        del wanted
        return _shared_step(self._workers, NONE)

    def save(self, step: int, best: bool = False) -> None:
        """Records that the chief saves."""
        del best
        self.last_step = step

    def forget_after(self, step: int) -> None:
        """Records that the chief removes later checkpoints."""
        self.last_step = step

    def has_best(self, step: int) -> bool:
        """Leaves the best checkpoint to the chief."""
        return bool(step)

    def keep_best(self, step: int) -> None:
        """Leaves the best checkpoint to the chief."""

    def sync(self) -> bool:
        """Has nothing to wait for."""
        return True


def _shared_step(workers, step):
    """Returns the step of the chief on every worker, or None for NONE."""
    found = int(workers.first(step))
    return None if found == NONE else found


def create_store(workers: Workers, directory: str, state: TrainState, *arguments: Any,
                 **named: Any) -> CheckpointStore | WorkerCheckpointStore:
    """Returns the store of a worker; the other arguments are those of CheckpointStore."""
    if not workers.chief:
        return WorkerCheckpointStore(workers, directory, state)
    kind = CheckpointStore if workers.count == 1 else functools.partial(ChiefCheckpointStore, workers)
    return kind(directory, state, *arguments, **named)


def open_directory(shared: RunDirectory, cluster: Cluster | None) -> RunDirectory:
    """Returns the directory in which this process writes: that of the run only for the chief of several workers."""
    return WorkerRunDirectory(shared, cluster.rank) if cluster and cluster.rank else shared
