"""Losses of examples compared with those of Keras, and mixing with its definition."""
import keras
import numpy as np
import pytest
import tensorflow as tf
from scipy.special import softmax

from pipeline.config import ExperimentConfig, OptimizerConfig
from pipeline.data.memory import InMemory
from pipeline.data.source import Source, Split
from pipeline.errors import UsageError
from pipeline.training.losses import cross_entropy, find_loss, masked, neighbour, training_losses
from pipeline.training.settings import step_settings

RANDOM = np.random.RandomState(0)
LOGITS = RANDOM.randn(6, 5)
LABELS = RANDOM.randint(0, 5, 6).astype("int32")


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_cross_entropy_is_that_of_keras_for_sparse_and_one_hot_labels(smoothing):
    expected = keras.losses.categorical_crossentropy(keras.utils.to_categorical(LABELS, 5), LOGITS, from_logits=True,
                                                     label_smoothing=smoothing)
    np.testing.assert_allclose(cross_entropy(tf.constant(LOGITS), LABELS, smoothing), expected, rtol=1e-6)


KERAS = {
    "binary_cross_entropy": lambda target: keras.losses.binary_crossentropy(target, LOGITS, from_logits=True),
    "binary_cross_entropy:0.25": lambda target: keras.losses.binary_crossentropy(
        (target > 0.25).astype("float64"), LOGITS, from_logits=True),
    # Keras weighs every class by alpha too.
    "focal": lambda target: keras.losses.categorical_focal_crossentropy(target, softmax(LOGITS, axis=1), 1.0, 2.0),
    "focal:0.5": lambda target: keras.losses.categorical_focal_crossentropy(target, softmax(LOGITS, axis=1), 1.0, 0.5),
    "focal:0": lambda target: keras.losses.categorical_crossentropy(target, LOGITS, from_logits=True)}


@pytest.mark.parametrize("loss", KERAS)
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_losses_of_soft_labels_are_those_of_keras(loss, smoothing):
    """Labels are mixed, then smoothed, as the target of Keras; evaluations take the labels as they are."""
    mix = np.array([0.2, 0.9, 1.0, 0.5, 0.0, 0.3])
    hot = keras.utils.to_categorical(LABELS, 5).astype("float64")
    target = mix[:, None] * hot + (1 - mix[:, None]) * hot[[1, 0, 3, 2, 5, 4]]
    batch = {"label": LABELS, "weight": tf.ones([6]), "mix": mix}
    found, *_ = training_losses(tf.constant(LOGITS), batch, smoothing, None, loss)
    np.testing.assert_allclose(found, KERAS[loss](target * (1 - smoothing) + smoothing / 5), rtol=1e-6)
    np.testing.assert_allclose(find_loss(loss)(tf.constant(LOGITS), LABELS), KERAS[loss](hot), rtol=1e-6)
    weighted, *_ = training_losses(tf.constant(LOGITS), batch, smoothing, (1.0, 2.0, 3.0, 4.0, 5.0), loss)
    own, other = LABELS + 1.0, LABELS[[1, 0, 3, 2, 5, 4]] + 1.0
    np.testing.assert_allclose(weighted, found * (mix * own + (1 - mix) * other), rtol=1e-6)


@pytest.mark.parametrize("loss", ["binary_cross_entropy", "focal", "focal:0.5"])
def test_gradients_of_sure_predictions_are_finite(loss):
    logits = tf.Variable([[200.0, -200.0, 0.0], [-1e4, 1e4, 3.0]])
    with tf.GradientTape() as tape:
        value = tf.reduce_sum(find_loss(loss)(logits, tf.constant([0, 0])))
    assert np.isfinite(value) and np.isfinite(tape.gradient(value, logits)).all()


@pytest.mark.parametrize("loss, says", [
    ("cross_entropy:2", "takes no number; found '2'"), ("focal:-1", "gamma of focal is a number from 0 to 10"),
    ("focal:much", "found 'much'"), ("binary_cross_entropy:1", "from 0 to 0.99 (default 0); found '1'"),
    ("focus", "did you mean 'focal'")])
def test_wrong_losses_are_refused(loss, says):
    with pytest.raises(UsageError) as raised:
        ExperimentConfig(optimizer=OptimizerConfig(loss=loss))
    assert "--loss" in str(raised.value) and says in str(raised.value)


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


@pytest.mark.parametrize("text, power", [("balanced", 1), ("balanced:0.5", 0.5), ("none", None)])
def test_class_weights_are_the_inverse_frequencies_to_a_power(text, power):
    labels = np.repeat([0, 1, 3], [6, 3, 3]).astype(np.int32)
    split = Split("train", 12, InMemory(np.zeros((12, 4, 4, 1), np.uint8), labels), labels)
    source = Source("made", tuple("abcd"), (4, 4, 1), split, split, None, "")
    found = step_settings(ExperimentConfig.from_flat({"class_weight": text}), source, 1, 1).class_weights
    expected = power and np.array([12 / 4 / 6, 1, 0, 1]) ** power
    assert (found is None and power is None) or found == pytest.approx(expected)


@pytest.mark.parametrize("text", ["balance", "balanced:", "balanced:0", "balanced:1.5", "none:1", "balanced:x"])
def test_another_class_weight_is_one_line(text):
    with pytest.raises(UsageError, match=f"--class_weight={text}: give none, balanced"):
        ExperimentConfig.from_flat({"class_weight": text})
