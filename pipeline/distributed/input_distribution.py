"""How batches reach the replicas: sent ahead by the strategy, sliced from the whole batch, or made by each replica."""
from collections.abc import Iterator, Mapping

import tensorflow as tf

from pipeline.data.resident import ResidentBatch
from pipeline.distributed.agreement import worker_of


def uses_gpus(strategy: tf.distribute.Strategy) -> bool:
    """Tells whether a strategy's replicas are on GPUs."""
    if strategy is tf.distribute.get_strategy() and not tf.distribute.has_strategy():  # It has no list of devices.
        return bool(tf.config.list_logical_devices("GPU"))
    return any("GPU" in device for device in strategy.extended.worker_devices)


class InputDistributor:
    """Opens iterators over global batches, and gives each replica its rows.

    Attributes:
      rank, workers: index of this process, and number of processes.
      replicas: of this process.
      distributes: whether the strategy prefetches the rows to the replicas: on the GPUs of one machine. On CPUs there
        is nothing to copy, and each replica slices the whole batch: the strategy's iterator (MultiDeviceIterator of
        TensorFlow 2.21) sometimes crashes the process when it is deleted while its thread fetches. With several workers
        each has only its own rows, which the strategy would divide once more.
    """

    def __init__(self, strategy: tf.distribute.Strategy, ahead: int = 1):
        """
        Args:
          ahead: batches that wait on each GPU where the strategy prefetches them.
        """
        self._strategy, self._ahead = strategy, ahead
        self.rank, self.workers = worker_of(strategy)
        self.replicas = strategy.num_replicas_in_sync // self.workers
        self.distributes = uses_gpus(strategy) and self.workers == 1

    def iterator(self, dataset: tf.data.Dataset) -> Iterator:
        """Opens an iterator over a dataset of this worker's batches."""
        if not self.distributes:
            return iter(dataset)
        # Without options TensorFlow sends one batch ahead.
        options = None if self._ahead == 1 else tf.distribute.InputOptions(
            experimental_per_replica_buffer_size=self._ahead)
        return iter(self._strategy.experimental_distribute_dataset(dataset, options))

    def rows(self, batch: "Mapping[str, tf.Tensor] | ResidentBatch") -> Mapping[str, tf.Tensor]:
        """Returns the rows of the calling replica, of static shape, from an element of an iterator."""
        replica = tf.distribute.get_replica_context().replica_id_in_sync_group
        if isinstance(batch, ResidentBatch):
            return batch.rows(replica)
        if self.distributes or self.replicas == 1:
            return batch
        rows = batch["label"].shape[0] // self.replicas
        first = (tf.cast(replica, tf.int32) - self.rank * self.replicas) * rows
        return {key: tf.ensure_shape(value[first:first + rows], [rows, *value.shape[1:]])
                for key, value in batch.items()}

    def wait(self, decided: tf.Tensor, batch: "Mapping[str, tf.Tensor] | ResidentBatch") -> tf.Tensor:
        """Returns the seconds, float64, from when a tensor was ready until the batch was.

        Neither time stamp waits for the other, so a batch can be fetched while the step before is still computing.

        Args:
          decided: any tensor; the decision of the step before.
          batch: element of an iterator.
        """
        if isinstance(batch, ResidentBatch):
            return tf.zeros([], tf.float64)  # Made inside the step: there is nothing to wait for.
        with tf.control_dependencies([decided]):
            free = tf.timestamp()
        with tf.control_dependencies([self._strategy.experimental_local_results(batch["label"])[0]]):
            fetched = tf.timestamp()
        return tf.maximum(fetched - free, 0.0)
