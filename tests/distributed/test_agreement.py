"""What workers decide together, with a sum over two workers that are threads of this process."""
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import tensorflow as tf

from pipeline.distributed.agreement import Workers


class Pair:
    """Adds up what two workers give at the same time."""

    def __init__(self):
        self.given, self.barrier = [None, None], threading.Barrier(2)

    def worker(self, rank):
        workers = Workers(tf.distribute.get_strategy())
        workers.rank, workers.count = rank, 2

        def added(values):
            self.given[rank] = values
            self.barrier.wait()
            total = sum(self.given)
            self.barrier.wait()
            return total

        workers._sum = added
        return workers


@pytest.mark.parametrize("own", [([[1, 2], [3, 4]], [[5, 6]]), ([], [[5, 6]]), ([[1, 2]], []), ([], [])])
def test_rows_of_all_workers_come_in_their_order(own):
    pair, rows = Pair(), [np.array(some, float).reshape(-1, 2) for some in own]
    with ThreadPoolExecutor(2) as pool:
        found = [each.result(30) for each in [
            pool.submit(pair.worker(rank).gathered, rows[rank]) for rank in (0, 1)]]
    for each in found:
        np.testing.assert_array_equal(each, np.concatenate(rows))
