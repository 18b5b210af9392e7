"""Decisions of a step, made on reduced values, so that every replica makes the same."""
from collections.abc import Sequence

import tensorflow as tf


def unscale(grads: Sequence[tf.Tensor], loss_scale: tf.Tensor) -> list[tf.Tensor]:
    """Divides gradients by the loss scale, a float scalar > 0."""
    return [g / tf.cast(loss_scale, g.dtype) for g in grads]


def clip(grads: Sequence[tf.Tensor], norm: tf.Tensor, limit: float) -> list[tf.Tensor]:
    """Scales gradients so that their global norm is at most `limit` (Pascanu et al., arXiv:1211.5063).

    Args:
      grads: reduced gradients: clipped on each replica they would add up to more than the limit.
      norm: their global norm.
      limit: > 0.
    """
    limit = tf.constant(limit, norm.dtype)
    return [g * tf.cast(limit / tf.maximum(norm, limit), g.dtype) for g in grads]


def is_finite(norm: tf.Tensor, loss: tf.Tensor) -> tf.Tensor:
    """Tells whether a step may be applied: a non-finite value of any replica makes the reduced ones non-finite.

    Args:
      norm: global norm of the reduced gradients.
      loss: reduced loss.
    """
    return tf.math.is_finite(norm) & tf.math.is_finite(loss)
