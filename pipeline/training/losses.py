"""Losses and correctness of each example: the step alone divides by the batch size."""
import dataclasses
import functools
import importlib
import math
from collections.abc import Callable, Mapping, Sequence

import tensorflow as tf

from pipeline.choices import LossRow, example_function, parse_loss
from pipeline.device_scope import on_gpu
from pipeline.registry import RegistryEntry

TOP = 5
LEAST_REST = 1e-7  # 1 - p where focal's factor (1 - p)^gamma would have no finite gradient.


@dataclasses.dataclass(frozen=True)
class Loss:
    """A loss by name.

    Attributes:
      function: of (logits [B, classes] float, target) to [B] of the dtype of the logits; `soft` is as in LossRow.
      smooths: whether label smoothing applies to it.
    """

    function: Callable
    soft: bool
    smooths: bool

    def __call__(self, logits: tf.Tensor, label: tf.Tensor) -> tf.Tensor:
        """Returns the losses [B] of logits [B, classes] with labels, int32 or int64 [B], as evaluations report them."""
        return self.function(logits, tf.one_hot(label, logits.shape[-1], dtype=logits.dtype) if self.soft else label)


def of_user(what: str, entry: RegistryEntry) -> Callable:
    """Returns a user's function of logits and labels as example_function does; it gets labels of any type as int32."""
    function = example_function(what, entry)
    return lambda logits, label: function(logits, tf.cast(label, tf.int32))


def find_loss(text: str) -> Loss:
    """Returns the loss of --loss.

    Raises:
      UsageError: see parse_loss.
    """
    row, numbers = parse_loss(text)
    if not isinstance(row, LossRow):
        return Loss(of_user(f"loss {text}", row), soft=False, smooths=False)
    module, name = row.function.split(":")
    function = getattr(importlib.import_module(module), name)
    return Loss(functools.partial(function, **numbers) if numbers else function, row.soft, smooths=True)


def cross_entropy(logits: tf.Tensor, label: tf.Tensor, label_smoothing: float = 0.0) -> tf.Tensor:
    """Cross-entropy of softmax(logits) with integer labels.

    Label smoothing mixes the label with the uniform distribution over classes (Szegedy et al., arXiv:1512.00567).

    Args:
      logits: [B, classes] float32 or float64.
      label: [B] int32 or int64 in [0, classes).
      label_smoothing: share of the label spread over all classes, in [0, 1).

    Returns:
      [B] losses in nats, of the dtype of the logits.
    """
    if logits.dtype == tf.float64 and on_gpu():  # For which GPUs have no kernel.
        loss = -tf.gather(tf.nn.log_softmax(logits), label, batch_dims=1)
    else:
        loss = tf.nn.sparse_softmax_cross_entropy_with_logits(label, logits)
    if not label_smoothing:
        return loss
    uniform = -tf.reduce_mean(tf.nn.log_softmax(logits), axis=-1)
    return (1.0 - label_smoothing) * loss + label_smoothing * uniform


def binary_cross_entropy(logits: tf.Tensor, target: tf.Tensor, threshold: float = 0.0) -> tf.Tensor:
    """Binary cross-entropy of sigmoid(logits), one yes-or-no question a class, mean over classes.

    As in the training of "ResNet strikes back" (Wightman et al., arXiv:2110.00476): each class that is mixed into an
    image is a class that it shows.

    Args:
      logits: [B, classes] float.
      target: [B, classes] of the same dtype, in [0, 1].
      threshold: targets above it count as 1, others as 0; 0: targets as they are.

    Returns:
      [B] losses in nats, of the dtype of the logits.
    """
    if threshold:
        target = tf.cast(target > threshold, logits.dtype)
    return tf.reduce_mean(tf.nn.sigmoid_cross_entropy_with_logits(target, logits), axis=-1)


def focal(logits: tf.Tensor, target: tf.Tensor, gamma: float = 2.0) -> tf.Tensor:
    """Focal loss of softmax(logits): the cross-entropy of each class times (1 - its probability)^gamma.

    Lin et al., arXiv:1708.02002; gamma 0 is cross-entropy.

    Args:
      logits: [B, classes] float.
      target: [B, classes] of the same dtype, each row a distribution over classes.
      gamma: at least 0; the larger, the less well-classified examples count.

    Returns:
      [B] losses in nats, of the dtype of the logits.
    """
    log = tf.nn.log_softmax(logits)
    factor = tf.maximum(-tf.math.expm1(log), tf.constant(LEAST_REST, log.dtype)) ** gamma if gamma else 1.0
    return -tf.reduce_sum(target * factor * log, axis=-1)


def with_wide_labels(batch: Mapping[str, tf.Tensor]) -> dict[str, tf.Tensor]:
    """Returns a batch whose "label", int32 [B], is int64.

    Kernels of GPUs read int32 in host memory, as if it were sizes: labels would be copied to the host and back for each
    comparison, and the host wait for the GPU.
    """
    return {**batch, "label": tf.cast(batch["label"], tf.int64)}


def neighbour(values: tf.Tensor) -> tf.Tensor:
    """Swaps rows 2i and 2i+1 of [B, ...], B even."""
    return tf.gather(values, tf.bitwise.bitwise_xor(tf.range(values.shape[0]), 1))


def is_correct(logits: tf.Tensor, label: tf.Tensor) -> tf.Tensor:
    """Returns [B] of the dtype of the logits: 1 if the largest logit is that of the label, else 0."""
    return tf.cast(tf.argmax(logits, axis=-1, output_type=label.dtype) == label, logits.dtype)


def is_top5_correct(logits: tf.Tensor, label: tf.Tensor) -> tf.Tensor:
    """Returns [B] of the dtype of the logits: 1 if the logit of the label is among the five largest, else 0.

    Of equal logits the first class wins, as in an evaluation. NaN with five classes or fewer.
    """
    if logits.shape[-1] <= TOP:
        return tf.fill(tf.shape(label), tf.constant(math.nan, logits.dtype))
    largest = tf.cast(tf.math.top_k(logits, TOP, sorted=False).indices, label.dtype)
    return tf.cast(tf.reduce_any(largest == label[:, None], axis=-1), logits.dtype)


def training_losses(logits: tf.Tensor, batch: Mapping[str, tf.Tensor], label_smoothing: float,
                    class_weights: Sequence[float] | None, loss: str = "cross_entropy") -> tuple[tf.Tensor, ...]:
    """Losses and correctness of a training batch, of mixed images by the shares of their two labels.

    Args:
      logits: [B, classes] float.
      batch: {"label": int64 [B], "weight": float32 [B], optionally "mix": float32 [B], the share of the example's own
        image; the rest is that of its neighbour (2i and 2i+1)}.
      label_smoothing: share of the label spread over all classes, in [0, 1).
      class_weights: [classes] factors of the loss, or None.
      loss: as --loss has it.

    Returns:
      (loss [B], correct [B], top-5 correct [B]) of the dtype of the logits, 0 where the weight is 0; see
      `is_top5_correct`.
    """
    chosen, classes = find_loss(loss), logits.shape[-1]

    def mixed(values_of):
        """Mixes a function of the labels, [B] or [B, classes], of both images."""
        own = values_of(batch["label"])
        if "mix" not in batch:
            return own
        share = tf.reshape(tf.cast(batch["mix"], logits.dtype), [-1] + [1] * (len(own.shape) - 1))
        return share * own + (1 - share) * values_of(neighbour(batch["label"]))

    def weight(label):
        return tf.gather(tf.constant(class_weights, logits.dtype), label)

    def of_label(label):
        smoothing = (label_smoothing,) if chosen.smooths else ()
        losses = chosen.function(logits, label, *smoothing)
        return losses if class_weights is None else losses * weight(label)

    if chosen.soft:
        target = mixed(lambda label: tf.one_hot(label, classes, dtype=logits.dtype))
        losses = chosen.function(logits, target * (1 - label_smoothing) + label_smoothing / classes)
        losses = losses if class_weights is None else losses * mixed(weight)
    else:
        losses = mixed(of_label)
    correct = (mixed(functools.partial(function, logits)) for function in (is_correct, is_top5_correct))
    return tuple(masked(values, batch["weight"]) for values in (losses, *correct))


def masked(values: tf.Tensor, weight: tf.Tensor) -> tf.Tensor:
    """Returns values * weight, and exactly 0 where the weight is 0, even for NaN (0 * NaN is NaN)."""
    weight = tf.cast(weight, values.dtype)
    return tf.where(weight > 0, values * weight, tf.zeros_like(values))
