"""Losses of examples compared with those of Keras, and mixing with its definition."""
import keras
import numpy as np
import pytest
import tensorflow as tf

from pipeline.training.losses import cross_entropy, masked, neighbour, training_losses

RANDOM = np.random.RandomState(0)
LOGITS = RANDOM.randn(6, 5)
LABELS = RANDOM.randint(0, 5, 6).astype("int32")


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_cross_entropy_is_that_of_keras_for_sparse_and_one_hot_labels(smoothing):
    expected = keras.losses.categorical_crossentropy(keras.utils.to_categorical(LABELS, 5), LOGITS, from_logits=True,
                                                     label_smoothing=smoothing)
    np.testing.assert_allclose(cross_entropy(tf.constant(LOGITS), LABELS, smoothing), expected, rtol=1e-6)


def test_padding_does_not_count_even_if_it_is_nan():
    values = masked(tf.constant([1.0, np.nan, np.inf]), tf.constant([1.0, 0.0, 0.0]))
    assert values.numpy().tolist() == [1, 0, 0]


def test_neighbours_are_swapped():
    assert neighbour(tf.constant([1, 2, 3, 4])).numpy().tolist() == [2, 1, 4, 3]
    assert neighbour(tf.constant([[1, 0], [2, 0]])).numpy().tolist() == [[2, 0], [1, 0]]


def test_mixed_losses_are_those_of_mixed_labels():
    mix = np.array([0.2, 0.9, 1.0, 0.5, 0.0, 0.3])
    batch = {"label": LABELS, "weight": tf.ones([6]), "mix": mix}
    loss, hit, near = training_losses(tf.constant(LOGITS), batch, 0.0, None)
    hot = keras.utils.to_categorical(LABELS, 5)
    mixed = mix[:, None] * hot + (1 - mix[:, None]) * hot[[1, 0, 3, 2, 5, 4]]
    np.testing.assert_allclose(loss, keras.losses.categorical_crossentropy(mixed, LOGITS, from_logits=True), rtol=1e-6)
    np.testing.assert_allclose(hit, mixed[np.arange(6), LOGITS.argmax(-1)], rtol=1e-6)
    assert np.isnan(near).all()  # There are no more than five classes.


def test_a_label_among_the_five_largest_counts_by_its_share():
    logits = np.round(3 * np.random.RandomState(1).randn(12, 9))  # Many are equal: the first class goes before.
    label = np.argsort(-logits, axis=-1, kind="stable")[np.arange(12), [0, 1, 2, 3, 4, 5, 6, 7, 8, 4, 5, 4]]
    batch = {"label": label.astype("int32"), "weight": tf.constant([1.0] * 11 + [0.0])}
    loss, hit, near = training_losses(tf.constant(logits), batch, 0.0, None)
    assert near.numpy().tolist() == [1, 1, 1, 1, 1, 0, 0, 0, 0, 1, 0, 0] and hit.numpy().tolist() == [1] + [0] * 11
    np.testing.assert_array_equal(near[:11], tf.math.in_top_k(label[:11], tf.constant(
        logits[:11] - 1e-3 * np.arange(9), tf.float32), 5))
    mix = np.linspace(0, 1, 12)
    mixed = training_losses(tf.constant(logits), {**batch, "mix": mix, "weight": tf.ones([12])}, 0.0, None)[2]
    ranks = np.argsort(np.argsort(-logits, axis=-1, kind="stable"), axis=-1)
    own, other = (ranks[np.arange(12), of] < 5 for of in (label, label[np.arange(12) ^ 1]))
    np.testing.assert_allclose(mixed, mix * own + (1 - mix) * other, atol=1e-12)


def test_class_weights_multiply_the_loss():
    batch = {"label": LABELS, "weight": tf.ones([6])}
    plain, *_ = training_losses(tf.constant(LOGITS), batch, 0.0, None)
    weighted, *_ = training_losses(tf.constant(LOGITS), batch, 0.0, (1.0, 2.0, 3.0, 4.0, 5.0))
    np.testing.assert_allclose(weighted, plain * (LABELS + 1.0))
