"""Losses per example against Keras's, and mixing against its definition."""
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


def test_padding_counts_nothing_even_where_it_is_nan():
    values = masked(tf.constant([1.0, np.nan, np.inf]), tf.constant([1.0, 0.0, 0.0]))
    assert values.numpy().tolist() == [1, 0, 0]


def test_neighbours_change_places():
    assert neighbour(tf.constant([1, 2, 3, 4])).numpy().tolist() == [2, 1, 4, 3]
    assert neighbour(tf.constant([[1, 0], [2, 0]])).numpy().tolist() == [[2, 0], [1, 0]]


def test_mixed_losses_are_those_of_mixed_labels():
    mix = np.array([0.2, 0.9, 1.0, 0.5, 0.0, 0.3])
    batch = {"label": LABELS, "weight": tf.ones([6]), "mix": mix}
    loss, hit = training_losses(tf.constant(LOGITS), batch, 0.0, None)
    hot = keras.utils.to_categorical(LABELS, 5)
    mixed = mix[:, None] * hot + (1 - mix[:, None]) * hot[[1, 0, 3, 2, 5, 4]]
    np.testing.assert_allclose(loss, keras.losses.categorical_crossentropy(mixed, LOGITS, from_logits=True), rtol=1e-6)
    np.testing.assert_allclose(hit, mixed[np.arange(6), LOGITS.argmax(-1)], rtol=1e-6)


def test_class_weights_multiply_the_loss():
    batch = {"label": LABELS, "weight": tf.ones([6])}
    plain, _ = training_losses(tf.constant(LOGITS), batch, 0.0, None)
    weighted, _ = training_losses(tf.constant(LOGITS), batch, 0.0, (1.0, 2.0, 3.0, 4.0, 5.0))
    np.testing.assert_allclose(weighted, plain * (LABELS + 1.0))
