"""How batches reach the replicas: ahead of time by the strategy, cut from the whole batch, or made by each replica."""
import tensorflow as tf

from pipeline.data.resident import ResidentBatch
from pipeline.distributed.agreement import worker_of


def uses_gpus(strategy):
    """Tells whether a strategy's replicas are on GPUs."""
    if strategy is tf.distribute.get_strategy() and not tf.distribute.has_strategy():  # It has no list of devices.
        return bool(tf.config.list_logical_devices("GPU"))
    return any("GPU" in device for device in strategy.extended.worker_devices)


class InputDistributor:
    """Opens iterators of global batches for the steps, and gives each replica its rows.

    Attributes:
      rank, workers: index of this process, and how many there are.
      replicas: of this process.
      distributes: whether the strategy sends the rows to the replicas ahead of time: to the GPUs of one machine. On
        CPUs there is nothing to copy ahead, and each replica takes its rows from the whole batch: the strategy's
        iterator (MultiDeviceIterator of TensorFlow 2.21) now and then crashes the process when it is dropped while its
        thread fetches. With several workers each has only its own rows, which the strategy would divide once more.
    """

    def __init__(self, strategy):
        self._strategy = strategy
        self.rank, self.workers = worker_of(strategy)
        self.replicas = strategy.num_replicas_in_sync // self.workers
        self.distributes = uses_gpus(strategy) and self.workers == 1

    def iterator(self, dataset):
        """Opens a data set of this worker's batches."""
        return iter(self._strategy.experimental_distribute_dataset(dataset) if self.distributes else dataset)

    def rows(self, batch):
        """Returns the rows of the replica that asks, of static shape, from what an iterator gave."""
        replica = tf.distribute.get_replica_context().replica_id_in_sync_group
        if isinstance(batch, ResidentBatch):
            return batch.rows(replica)
        if self.distributes or self.replicas == 1:
            return batch
        rows = batch["label"].shape[0] // self.replicas
        first = (tf.cast(replica, tf.int32) - self.rank * self.replicas) * rows
        return {key: tf.ensure_shape(value[first:first + rows], [rows, *value.shape[1:]])
                for key, value in batch.items()}

    def wait(self, decided, batch):
        """Returns the seconds, float64, from the moment a tensor was there to that when the batch was.

        Neither moment waits for the other, so that a batch may be fetched while the step before still computes.

        Args:
          decided: any tensor; what the step before has decided.
          batch: what an iterator gave.
        """
        if isinstance(batch, ResidentBatch):
            return tf.zeros([], tf.float64)  # Made inside of the step: there is nothing to wait for.
        with tf.control_dependencies([decided]):
            free = tf.timestamp()
        with tf.control_dependencies([self._strategy.experimental_local_results(batch["label"])[0]]):
            fetched = tf.timestamp()
        return tf.maximum(fetched - free, 0.0)
