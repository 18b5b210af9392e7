"""What the workers of a run decide together: numbers of the chief's, and whether any of them was asked to stop.

The loop makes the same calls in the same order in every worker: a collective that one of them leaves out stops all.
"""
import contextlib
import re

import numpy as np
import tensorflow as tf

from pipeline.distributed import peer_failure
from pipeline.distributed.cluster import Cluster
from pipeline.distributed.rendezvous import PeerLost

LOST = (tf.errors.UnavailableError, tf.errors.AbortedError, tf.errors.CancelledError, tf.errors.DeadlineExceededError,
        tf.errors.InternalError)


def worker_of(strategy):
    """Returns (rank of this process, number of workers) of a tf.distribute.Strategy; (0, 1) on one machine."""
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

    def __init__(self, strategy):
        """
        Args:
          strategy: tf.distribute.Strategy.
        """
        self._strategy = strategy
        self.rank, self.count = worker_of(strategy)
        self._sum = tf.function(self._sum_over_workers, autograph=False, reduce_retracing=True)

    @property
    def chief(self):
        """Whether this process writes the run's files."""
        return self.rank == 0

    def first(self, *values):
        """Returns the chief's values, numbers or truth values that float64 holds exactly, as float64 [n].

        With one value: a Python float.
        """
        found = self._added(np.asarray(values if self.chief else [0] * len(values), np.float64))
        return float(found[0]) if len(values) == 1 else found

    def any(self, flag):
        """Tells whether a flag is set in any worker."""
        return self._added(np.asarray([bool(flag)], np.float64))[0] > 0

    def _added(self, values):
        return values if self.count == 1 else self._sum(tf.constant(values)).numpy()

    def _sum_over_workers(self, values):
        """Adds [n] float64 values over the workers: those of the first replica of each."""
        replicas = self._strategy.num_replicas_in_sync // self.count

        def add(values):
            replica = tf.distribute.get_replica_context()
            first = tf.equal(tf.cast(replica.replica_id_in_sync_group, tf.int32) % replicas, 0)
            return replica.all_reduce("SUM", tf.where(first, values, tf.zeros_like(values)))

        return self._strategy.experimental_local_results(self._strategy.run(add, args=(values,)))[0]


@contextlib.contextmanager
def lost_peers(cluster: Cluster | None):
    """Raises PeerLost where a collective in the block fails because another worker is gone.

    The other workers are told that this one left where the block ends well.
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
