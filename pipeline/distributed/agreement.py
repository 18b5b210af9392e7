"""What the workers of a run decide together: numbers of the chief's, and whether any of them was asked to stop.

Every worker makes the same calls in the same order: a collective that one of them leaves out blocks all.
"""
import contextlib
import re
from collections.abc import Iterator
from typing import Any

import numpy as np
import tensorflow as tf

from pipeline.distributed import peer_failure
from pipeline.distributed.cluster import Cluster
from pipeline.distributed.rendezvous import PeerLost

LOST = (tf.errors.UnavailableError, tf.errors.AbortedError, tf.errors.CancelledError, tf.errors.DeadlineExceededError,
        tf.errors.InternalError)


def worker_of(strategy: tf.distribute.Strategy) -> tuple[int, int]:
    """Returns (rank of this process, number of workers) of a strategy; (0, 1) on one machine."""
    resolver = getattr(strategy, "cluster_resolver", None)
    if not isinstance(strategy, tf.distribute.MultiWorkerMirroredStrategy) or resolver is None:
        return 0, 1
    return resolver.task_id, max(1, len(resolver.cluster_spec().as_dict().get("worker", ())))


class Workers:
    """The processes of a run, seen from one of them.

    Attributes:
      rank: index of this process.
      count: number of processes.
    """

    def __init__(self, strategy: tf.distribute.Strategy):
        self._strategy = strategy
        self.rank, self.count = worker_of(strategy)
        self._sum = tf.function(self._sum_over_workers, autograph=False, reduce_retracing=True)

    @property
    def chief(self) -> bool:
        """Whether this process writes the run's files."""
        return self.rank == 0

    def first(self, *values: float) -> Any:
        """Returns the chief's values, numbers or booleans that float64 holds exactly, as float64 [n].

        With one value: a Python float.
        """
        found = self._added(np.asarray(values if self.chief else [0] * len(values), np.float64))
        return float(found[0]) if len(values) == 1 else found

    def any(self, flag: bool) -> bool:
        """Tells whether a flag is set in any worker."""
        return self._added(np.asarray([bool(flag)], np.float64))[0] > 0

    def gathered(self, rows: np.ndarray) -> np.ndarray:
        """Returns the rows of all workers, float64 [any, k], of each worker's own [n, k], the chief's first."""
        counts = np.zeros(self.count)
        counts[self.rank] = len(rows)
        counts = self._added(counts).astype(int)
        found = np.zeros([counts.sum(), rows.shape[1]])
        found[counts[:self.rank].sum():][:len(rows)] = rows
        return self._added(found.reshape(-1)).reshape(found.shape) if found.size else found

    def _added(self, values: np.ndarray) -> np.ndarray:
        return values if self.count == 1 else self._sum(tf.constant(values)).numpy()

    def _sum_over_workers(self, values: tf.Tensor) -> tf.Tensor:
        """Adds [n] float64 values of the first replica of each worker."""
        replicas = self._strategy.num_replicas_in_sync // self.count

        def add(values):
            replica = tf.distribute.get_replica_context()
            first = tf.equal(tf.cast(replica.replica_id_in_sync_group, tf.int32) % replicas, 0)
            return replica.all_reduce("SUM", tf.where(first, values, tf.zeros_like(values)))

        return self._strategy.experimental_local_results(self._strategy.run(add, args=(values,)))[0]


@contextlib.contextmanager
def lost_peers(cluster: Cluster | None) -> Iterator[None]:
    """Raises PeerLost where a collective in the block fails because another worker is gone.

    Where the block succeeds, the other workers learn that this one has left.
    """
    try:
        yield
        peer_failure.leave()
    except LOST as error:
        if not cluster:
            raise
        lines = [line for line in str(error.message).splitlines() if line.strip()]
        relevant = (line for line in lines if re.search("abort|peer|connect|unavailable", line, re.IGNORECASE))
        cause = next(relevant, lines[0])
        raise PeerLost(f"worker {cluster.rank} lost another worker ({cause.strip()[:300]}); run the same command on "
                       "all of them again, they continue from the latest checkpoint") from error
