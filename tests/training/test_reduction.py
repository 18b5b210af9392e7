"""One reduction: what is added, what is averaged, and what is left alone."""
import numpy as np
import pytest
import tensorflow as tf

from pipeline.training.reduction import reduce_once
from tests.training.small import build


@pytest.mark.parametrize("replicas", [1, 2, 4])
def test_gradients_are_added_statistics_averaged_and_counters_left_alone(strategy, replicas):
    counter = 2**31 - 1  # No float32.

    @tf.function
    def reduced():
        def on_replica():
            number = tf.cast(tf.distribute.get_replica_context().replica_id_in_sync_group, tf.float32)
            state = [tf.fill([2], 10 * number), tf.constant([counter, 7], tf.int64)]
            return reduce_once([tf.fill([2, 3], number), tf.cast(number, tf.float16)], state, tf.stack([1.0, number]),
                               replicas)
        return strategy(replicas).run(on_replica)

    (matrix, half), (statistic, integers), sums = reduced()
    total = sum(range(replicas))
    for value, expected, dtype in ((matrix, np.full((2, 3), total), "float32"), (half, total, "float16"),
                                   (statistic, np.full(2, 10 * total / replicas), "float32"),
                                   (integers, [counter, 7], "int64"), (sums, [replicas, total], "float32")):
        copies = strategy(replicas).experimental_local_results(value)
        assert len(copies) == replicas
        for copy in copies:
            assert copy.dtype == dtype
            np.testing.assert_array_equal(copy, expected)


def test_reduced_gradients_are_those_that_a_step_applies(strategy):
    experiment = build(strategy(2), optimizer="sgd", momentum=0.0, learning_rate=0.5, clip_norm=0.3,
                       label_smoothing=0.1)
    variables = experiment.state.model.trainable_variables
    before = [v.numpy() for v in variables]
    gradients, loss = experiment.steps.reduced_gradients(experiment.train_iterator(0))
    assert all((old == v.numpy()).all() for old, v in zip(before, variables, strict=True))
    assert int(experiment.state.global_step.numpy()) == 0
    row = experiment.steps.train_steps(experiment.train_iterator(0), tf.constant(1)).numpy()[0]
    assert loss.numpy() == row[0]
    assert float(tf.linalg.global_norm(gradients)) == pytest.approx(0.3)
    for old, variable, gradient in zip(before, variables, gradients, strict=True):
        np.testing.assert_allclose(variable.numpy(), old - 0.5 * gradient.numpy(), rtol=0, atol=1e-15)
