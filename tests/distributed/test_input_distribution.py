"""Batches that wait on a device, in the iterator that TensorFlow has for GPUs; here it computes on the CPU."""
import time

import pytest
import tensorflow as tf

from pipeline.distributed.input_distribution import InputDistributor

LONGEST = 60.0  # Seconds to wait for a batch that is made ahead.


@pytest.mark.parametrize("ahead", [1, 12])
def test_batches_wait_on_each_gpu(ahead):
    made = []

    def numbers():
        for number in range(200):
            made.append(number)
            yield number

    dataset = tf.data.Dataset.from_generator(numbers, output_signature=tf.TensorSpec([], tf.int64)).batch(
        2, drop_remainder=True)
    iterator = InputDistributor(tf.distribute.MirroredStrategy(["GPU:0"]), ahead).iterator(dataset)
    assert next(iterator).numpy().tolist() == [0, 1]
    least, until = 2 * (1 + ahead), time.monotonic() + LONGEST
    while len(made) < least and time.monotonic() < until:
        time.sleep(0.01)
    assert least <= len(made) < 200
    assert [next(iterator).numpy().tolist() for _ in range(2)] == [[2, 3], [4, 5]]
