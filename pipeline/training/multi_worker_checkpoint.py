"""What a run's files are to a worker: the chief writes them, the others read its checkpoints."""
import contextlib
import shutil
import tempfile

from pipeline.distributed.cluster import Cluster
from pipeline.monitoring.full_disk import FullDisk
from pipeline.paths import literal
from pipeline.run_directory import RunDirectory
from pipeline.stored_checkpoint import check_specs, find_checkpoint
from pipeline.training.checkpoint import CheckpointStore

NONE = -1  # For a step that is not there, where workers agree on numbers.


class WorkerRunDirectory(RunDirectory):
    """The directory of a run to a worker that is not its chief: what it records itself is for the run of one process.

    The configuration and the checkpoints are the chief's. The report of a hang goes to the run's directory under the
    worker's own name; the rest into a folder for temporary files, gone when the process ends well.
    """

    def __init__(self, shared, rank):
        """
        Args:
          shared: RunDirectory of the chief.
          rank: index of this worker.
        """
        super().__init__(tempfile.mkdtemp(prefix=f"mirrorline-worker-{rank}-"))
        self.shared, self.rank = shared, rank

    def file(self, *names):
        if names[0] == "checkpoints":
            return self.shared.file(*names)
        if names[0] == "hang.txt":
            return self.shared.file(f"hang-{self.rank}.txt")
        return super().file(*names)

    @property
    def config(self):
        return self.shared.config

    def check(self, *arguments):
        return self.shared.check(*arguments)

    def claim(self):
        """Claims nothing: the chief has the lock."""

    @contextlib.contextmanager
    def claimed(self):
        try:
            yield
        finally:
            shutil.rmtree(self.path, ignore_errors=True)


class ChiefCheckpointStore(CheckpointStore):
    """The chief's checkpoints: it tells the other workers from which one they all go on."""

    def __init__(self, workers, *arguments, **named):
        """Args: workers: Workers; the others are those of CheckpointStore."""
        super().__init__(*arguments, **named)
        self._workers = workers

    def restore(self, known=None):
        return int(self._workers.first(super().restore(known)))

    def newest_good(self, wanted):
        found = super().newest_good(wanted)
        return shared_step(self._workers, NONE if found is None else found)


class WorkerCheckpointStore:
    """The checkpoints of a run to the other workers, which read what the chief names and write nothing.

    Every worker holds the same values, so that the chief's are the whole state. Attributes and methods are those of
    CheckpointStore.
    """

    full_message = "the disk of the chief is full"

    def __init__(self, workers, directory, state):
        """
        Args:
          workers: Workers.
          directory: `checkpoints/` of the run, which all workers see.
          state: TrainState.
        """
        self._workers, self.directory, self.state = workers, directory, state
        self.disk, self.last_step = FullDisk(lambda text: None), None
        self._checkpoint = state.checkpoint()

    def restore(self, known=None):
        """Restores what the chief has restored; returns its step, 0 for a fresh start."""
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

    def newest_good(self, wanted):
        """Returns the step that the chief found, or None."""
        del wanted
        return shared_step(self._workers, NONE)

    def save(self, step, best=False):
        """Takes note that the chief saves."""
        del best
        self.last_step = step

    def forget_after(self, step):
        """Takes note that the chief removes what is later."""
        self.last_step = step

    def has_best(self, step):
        """Leaves the best one to the chief."""
        return bool(step)

    def keep_best(self, step):
        """Leaves the best one to the chief."""

    def sync(self):
        """Waits for nothing."""
        return True


def shared_step(workers, step):
    """Returns the chief's step on every worker, or None where it has NONE."""
    found = int(workers.first(step))
    return None if found == NONE else found


def create_store(workers, *arguments, **named):
    """Returns the store of a worker; the arguments are those of CheckpointStore."""
    if workers.count == 1:
        return CheckpointStore(*arguments, **named)
    if workers.chief:
        return ChiefCheckpointStore(workers, *arguments, **named)
    directory, state = arguments[:2]
    return WorkerCheckpointStore(workers, directory, state)


def open_directory(shared: RunDirectory, cluster: Cluster | None) -> RunDirectory:
    """Returns the directory that this process writes: of several workers only the chief writes in the run's."""
    return WorkerRunDirectory(shared, cluster.rank) if cluster and cluster.rank else shared
