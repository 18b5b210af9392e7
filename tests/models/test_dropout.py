"""Dropout: a mask belongs to an example's place in the global batch."""
import numpy as np
import pytest
import tensorflow as tf

from pipeline.models import context as step
from pipeline.models.dropout import Dropout, scramble, uniform_rows
from pipeline.models.serialization import PACKAGE


def context(first_row=0, draw_index=5, seed=7):
    return step.StepContext(seed, tf.constant(draw_index, tf.int64), tf.constant(first_row, tf.int64),
                            tf.constant(0, tf.int64))


def drop(shape, dtype="float32", rate=0.3, calls=1, **place):
    """Returns the masks (True where kept) of `calls` layers called one after another within one step."""
    with step.step_context(context(**place)):
        return [Dropout(rate, dtype=dtype)(tf.ones(shape, dtype), training=True).numpy() != 0 for _ in range(calls)]


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16", "float64"])
@pytest.mark.parametrize("inner", [(64,), (3, 3, 5), (1,)], ids=str)  # 45 and 1 do not divide by 4.
def test_rows_of_a_large_batch_are_those_of_the_small_one(dtype, inner):
    whole = drop((12, *inner))[0]
    for first, rows in ((0, 4), (5, 3), (11, 1)):
        np.testing.assert_array_equal(drop((rows, *inner), dtype, first_row=first)[0], whole[first:first + rows])


def test_masks_differ_between_layers_steps_and_seeds_and_repeat_otherwise():
    first, second = drop((8, 32), calls=2)
    masks = [first, second, drop((8, 32), draw_index=6)[0], drop((8, 32), seed=8)[0], drop((8, 32), first_row=8)[0]]
    for i, a in enumerate(masks):
        for b in masks[:i]:
            assert 0.3 < np.mean(a == b) < 0.8  # By chance 0.58: neither the same nor the opposite.
    np.testing.assert_array_equal(drop((8, 32))[0], first)


def test_share_and_scale():
    with step.step_context(context()):
        y = Dropout(0.3)(tf.ones((400, 250)), training=True).numpy()
    assert np.mean(y == 0) == pytest.approx(0.3, abs=0.006)  # Four standard deviations.
    np.testing.assert_allclose(y[y != 0], 1 / 0.7, rtol=1e-6)
    uniform = uniform_rows(0, 0, 0, 0, 500, 100).numpy()
    assert uniform.min() >= 0 and uniform.max() <= 1 and uniform.std() == pytest.approx(12 ** -0.5, rel=0.02)


def test_same_mask_compiled():
    layer = Dropout(0.5)

    def call(x, first_row):
        with step.step_context(context(first_row=first_row)):
            return layer(x, training=True)

    x = tf.ones((6, 10))
    compiled = tf.function(call, jit_compile=True)
    np.testing.assert_array_equal(compiled(x, 3), call(x, 3))
    np.testing.assert_array_equal(compiled(x, 3)[2:], compiled(x, 5)[:4])


def test_gradient_passes_where_it_was_kept():
    with tf.GradientTape() as tape, step.step_context(context()):
        x = tf.ones((16, 16))
        tape.watch(x)
        y = Dropout(0.5)(x, training=True)
    np.testing.assert_array_equal(tape.gradient(y, x), y)


def test_outside_of_a_step_masks_differ_and_in_evaluation_it_does_nothing():
    layer, x = Dropout(0.5), tf.ones((16, 16))
    np.testing.assert_array_equal(layer(x), x)
    assert np.any(layer(x, training=True).numpy() != layer(x, training=True).numpy())
    assert [v.name for v in layer.non_trainable_variables] == ["seed_generator_state"]
    with step.step_context(context()):
        np.testing.assert_array_equal(layer(x, training=False), x)
        assert step.next_layer_index() == 0


def test_a_rate_of_one_is_refused():
    with pytest.raises(ValueError, match="found 1"):
        Dropout(1)
    assert Dropout.from_config(Dropout(0.25).get_config()).rate == 0.25
    assert PACKAGE == "mirrorline"


def test_contexts_are_a_stack_each_thread_its_own():
    import threading
    seen = []
    with step.step_context(context(seed=1)) as outer:
        assert (step.next_layer_index(), step.next_layer_index()) == (0, 1)
        with step.step_context(context(seed=2)):
            assert step.next_layer_index() == 0 and step.current().seed == 2
            thread = threading.Thread(target=lambda: seen.append(step.current()))
            thread.start()
            thread.join()
        assert step.current() is outer and step.next_layer_index() == 2
    assert seen == [None] and step.current() is None
    with pytest.raises(RuntimeError):
        step.next_layer_index()


def test_seeds_are_scrambled_on_gpus_as_by_the_kernel_of_the_host():
    words = np.random.default_rng(0).integers(-2**62, 2**62, (50, 2)).tolist()
    for first, second in [(0, 0), (1, -1), (2**51, 7), *words]:
        pair = tf.constant(first, tf.int64), tf.constant(second, tf.int64)
        wanted = tf.raw_ops.StatelessRandomGetKeyCounter(seed=tf.stack(pair))
        np.testing.assert_array_equal(tf.concat(scramble(*pair), axis=0), tf.concat(wanted, axis=0))

    def rows():
        return uniform_rows(3, tf.constant(5, tf.int64), 2, tf.constant(8, tf.int64), 4, 6)

    def rows_on_gpu():
        with tf.device("GPU:0"):
            return rows()
    np.testing.assert_array_equal(tf.function(rows_on_gpu, autograph=False)(), rows())
