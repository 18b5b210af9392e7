"""Counted operations: by hand for single operations, and known ones for whole models."""
import pytest
import tensorflow as tf

from pipeline.monitoring import operations
from tests.training import small


def counted(function, *shapes):
    """Returns the operations counted in a function of float32 tensors."""
    arguments = [tf.TensorSpec(shape, tf.float32) for shape in shapes]
    return operations.count(tf.function(function, autograph=False).get_concrete_function(*arguments).graph)


@tf.function(autograph=False)
def product(a, b):
    """A function of its own within the graph."""
    return tf.matmul(a, b)


def gradients(function):
    """Returns a function that computes the gradients of the sum of another's values."""
    def both(*arguments):
        with tf.GradientTape() as tape:
            tape.watch(arguments)
            value = function(*arguments)
        return tape.gradient(value, arguments)
    return both


def convolve(x, w):
    """A convolution with stride 2."""
    return tf.nn.conv2d(x, w, 2, "SAME")


CONVOLUTION = 2 * (4 * 5 * 5 * 16) * (3 * 3 * 8)  # Of the output [4, 5, 5, 16], 3 x 3 x 8 multiply-adds a number.


@pytest.mark.parametrize("function, shapes, expected", [
    (tf.matmul, ([2, 3], [3, 5]), 2 * 2 * 3 * 5),
    (lambda a, b: tf.matmul(a, b, transpose_a=True, transpose_b=True), ([3, 2], [5, 3]), 2 * 2 * 3 * 5),
    (lambda a, b: tf.matmul(a, b, transpose_a=True), ([7, 3, 2], [7, 3, 5]), 7 * 2 * 2 * 3 * 5),
    (convolve, ([4, 10, 10, 8], [3, 3, 8, 16]), CONVOLUTION),
    (gradients(convolve), ([4, 10, 10, 8], [3, 3, 8, 16]), 3 * CONVOLUTION),
    (lambda x, w: tf.nn.depthwise_conv2d(x, w, [1, 1, 1, 1], "SAME"), ([4, 10, 10, 8], [3, 3, 8, 2]),
     2 * (4 * 10 * 10 * 16) * 9),
    (product, ([2, 3], [3, 5]), 60),
    (lambda a, b: tf.while_loop(lambda i, x: i < 9, lambda i, x: (i + 1, x + product(a, b)),
                                (0, tf.zeros([2, 5])))[1], ([2, 3], [3, 5]), 60),
    (lambda a, b: tf.cond(a[0, 0] > 0, lambda: product(a, b) + product(a, b), lambda: product(a, b)),
     ([2, 3], [3, 5]), 120),
    (tf.matmul, ([None, 3], [3, 5]), None),
])
def test_operations_are_those_counted_by_hand(function, shapes, expected):
    assert counted(function, *shapes) == expected


@pytest.mark.acceptance
def test_a_training_step_of_mini_inception_costs_what_is_known_of_it(strategy):
    experiment = small.build(strategy(1), model="mini_inception", dataset="synthetic:32x32x3", batch_size=2,
                             precision="float32")
    graph = experiment.steps.train_steps.get_concrete_function(experiment.train_iterator(0), tf.constant(1)).graph
    assert operations.count(graph) / 2 == pytest.approx(1.41e9, rel=0.005)
