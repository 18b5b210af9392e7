"""Losses and correctness of each example: the step alone divides by the batch size."""
import math
from collections.abc import Callable, Mapping, Sequence

import tensorflow as tf

TOP = 5


def cross_entropy(logits: tf.Tensor, label: tf.Tensor, label_smoothing: float = 0.0) -> tf.Tensor:
    """Cross-entropy of softmax(logits) with integer labels.

    Label smoothing mixes the label with the uniform distribution over classes (Szegedy et al., arXiv:1512.00567).

    Args:
      logits: [B, classes] float32 or float64.
      label: [B] int32 in [0, classes).
      label_smoothing: share of the label spread over all classes, in [0, 1).

    Returns:
      [B] losses in nats, of the dtype of the logits.
    """
    loss = tf.nn.sparse_softmax_cross_entropy_with_logits(label, logits)
    if not label_smoothing:
        return loss
    uniform = -tf.reduce_mean(tf.nn.log_softmax(logits), axis=-1)
    return (1.0 - label_smoothing) * loss + label_smoothing * uniform


def neighbour(values: tf.Tensor) -> tf.Tensor:
    """Swaps rows 2i and 2i+1 of [B, ...], B even."""
    pairs = tf.reshape(values, tf.concat([[-1, 2], tf.shape(values)[1:]], 0))
    return tf.reshape(tf.reverse(pairs, axis=[1]), tf.shape(values))


def is_correct(logits: tf.Tensor, label: tf.Tensor) -> tf.Tensor:
    """Returns [B] of the dtype of the logits: 1 if the largest logit is that of the label, else 0."""
    return tf.cast(tf.argmax(logits, axis=-1, output_type=label.dtype) == label, logits.dtype)


def is_top5_correct(logits: tf.Tensor, label: tf.Tensor) -> tf.Tensor:
    """Returns [B] of the dtype of the logits: 1 if the logit of the label is among the five largest, else 0.

    Of equal logits the first class wins, as in an evaluation. NaN with five classes or fewer.
    """
    if logits.shape[-1] <= TOP:
        return tf.fill(tf.shape(label), tf.constant(math.nan, logits.dtype))
    largest = tf.math.top_k(logits, TOP, sorted=False, index_type=label.dtype).indices
    return tf.cast(tf.reduce_any(largest == label[:, None], axis=-1), logits.dtype)


def training_losses(logits: tf.Tensor, batch: Mapping[str, tf.Tensor], label_smoothing: float,
                    class_weights: Sequence[float] | None, function: Callable = cross_entropy) -> tuple[tf.Tensor, ...]:
    """Losses and correctness of a training batch; mixed examples mix the loss, not the label.

    Args:
      logits: [B, classes] float.
      batch: {"label": int32 [B], "weight": float32 [B], optionally "mix": float32 [B], the share of the example's own
        image; the rest is that of its neighbour (2i and 2i+1)}.
      label_smoothing: in [0, 1), for cross-entropy.
      class_weights: [classes] factors of the loss, or None.
      function: of (logits, label) to a loss for each example, [B].

    Returns:
      (loss [B], correct [B], top-5 correct [B]) of the dtype of the logits, 0 where the weight is 0; see
      `is_top5_correct`.
    """
    smoothing = (label_smoothing,) if function is cross_entropy else ()

    def compared(label):
        loss = function(logits, label, *smoothing)
        if class_weights is not None:
            loss *= tf.gather(tf.constant(class_weights, logits.dtype), label)
        return loss, is_correct(logits, label), is_top5_correct(logits, label)

    found = compared(batch["label"])
    if "mix" in batch:
        mix = tf.cast(batch["mix"], logits.dtype)
        others = compared(neighbour(batch["label"]))
        found = tuple(mix * own + (1 - mix) * other for own, other in zip(found, others, strict=True))
    return tuple(masked(values, batch["weight"]) for values in found)


def masked(values: tf.Tensor, weight: tf.Tensor) -> tf.Tensor:
    """Returns values * weight, and exactly 0 where the weight is 0, even for NaN (0 * NaN is NaN)."""
    weight = tf.cast(weight, values.dtype)
    return tf.where(weight > 0, values * weight, tf.zeros_like(values))
