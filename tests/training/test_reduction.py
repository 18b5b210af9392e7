"""The reduction: gradients are added, statistics averaged, counters unchanged."""
import numpy as np
import pytest
import tensorflow as tf

from pipeline.distributed.reduction import buckets, reduce_once
from tests.training.small import build, distance, run, weights


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


def test_buckets_hold_every_part_once_and_have_the_given_size():
    parts = [tf.zeros([n]) for n in (5, 100, 1, 300, 2, 3)]
    assert buckets(parts, 4, 0) == [slice(0, 6)]
    assert buckets(parts, 4, 400) == [slice(0, 1), slice(1, 3), slice(3, 6)]
    assert buckets(parts, 4, 1) == [slice(i, i + 1) for i in range(6)]
    assert buckets(parts, 4, 10**6) == [slice(0, 6)]


def test_reducing_in_buckets_changes_no_number(strategy):
    found, collectives = {}, {}
    for bucket in (0.0, 0.001):
        experiment = build(strategy(2), model="mlp", reduction_bucket_mb=bucket)
        found[bucket] = run(experiment, 3), weights(experiment)
        graph = experiment.steps.train_steps.get_concrete_function(
            experiment.train_iterator(0), tf.constant(1)).graph.as_graph_def()
        nodes = [node.op for function in graph.library.function for node in function.node_def]
        collectives[bucket] = sum("CollectiveReduce" in op or op == "AddN" for op in nodes)
    np.testing.assert_array_equal(found[0.0][0][:, :-1], found[0.001][0][:, :-1])
    assert distance(found[0.0][1], found[0.001][1]) == 0
    assert collectives[0.001] > collectives[0.0]
