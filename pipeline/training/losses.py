"""Losses and hits per example: nothing here divides by a batch size, the step does that once."""
import math

import tensorflow as tf

TOP = 5  # Classes among which the label is looked for beside the first one.


def cross_entropy(logits, label, label_smoothing=0.0):
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


def neighbour(values):
    """Exchanges rows 2i and 2i+1.

    Args:
      values: [B, ...], B even.

    Returns:
      A tensor of the same shape and dtype.
    """
    pairs = tf.reshape(values, tf.concat([[-1, 2], tf.shape(values)[1:]], 0))
    return tf.reshape(tf.reverse(pairs, axis=[1]), tf.shape(values))


def hits(logits, label):
    """Returns [B] float: 1 where the largest logit is the label's, of the dtype of the logits."""
    return tf.cast(tf.argmax(logits, axis=-1, output_type=label.dtype) == label, logits.dtype)


def top5_hits(logits, label):
    """Returns [B] float of the dtype of the logits: 1 where the label's logit is among the five largest.

    Of equal logits the first class goes before, as in an evaluation. NaN where there are no more than five classes.
    """
    if logits.shape[-1] <= TOP:
        return tf.fill(tf.shape(label), tf.constant(math.nan, logits.dtype))
    largest = tf.math.top_k(logits, TOP, sorted=False, index_type=label.dtype).indices
    return tf.cast(tf.reduce_any(largest == label[:, None], axis=-1), logits.dtype)


def smoothed(function, logits, label, label_smoothing):
    """Returns the losses [B] of a function of (logits, label), with the label spread where that is asked for."""
    if function is cross_entropy:
        return cross_entropy(logits, label, label_smoothing)
    return function(logits, label)


def training_losses(logits, batch, label_smoothing, class_weights, function=cross_entropy):
    """Losses and hits of a training batch; mixed examples mix the loss, not the label.

    Args:
      logits: [B, classes] float.
      batch: {"label": int32 [B], "weight": float32 [B], optionally "mix": float32 [B], the share of the example's own
        image; the rest is the neighbour's (2i and 2i+1)}.
      label_smoothing: in [0, 1).
      class_weights: a [classes] tuple of factors for the loss, or None.
      function: of (logits, label) to a loss for each example, [B].

    Returns:
      (loss [B], hit [B], top-5 hit [B]) of the dtype of the logits, 0 where the weight is 0; see `top5_hits`.
    """

    def judged(label):
        loss = smoothed(function, logits, label, label_smoothing)
        if class_weights is not None:
            loss *= tf.gather(tf.constant(class_weights, logits.dtype), label)
        return loss, hits(logits, label), top5_hits(logits, label)

    found = judged(batch["label"])
    if "mix" in batch:
        mix = tf.cast(batch["mix"], logits.dtype)
        others = judged(neighbour(batch["label"]))
        found = [mix * own + (1 - mix) * other for own, other in zip(found, others, strict=True)]
    return tuple(masked(values, batch["weight"]) for values in found)


def masked(values, weight):
    """Returns values * weight, and exactly 0 where the weight is 0, whatever stands there (0 * NaN is NaN)."""
    weight = tf.cast(weight, values.dtype)
    return tf.where(weight > 0, values * weight, tf.zeros_like(values))
