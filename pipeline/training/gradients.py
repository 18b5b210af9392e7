"""What a step decides: on reduced values, so that every replica decides the same."""
import tensorflow as tf


def unscale(grads, loss_scale):
    """Divides gradients by the loss scale that the objective was multiplied with.

    Args:
      grads: list of float tensors.
      loss_scale: float scalar > 0.
    """
    return [g / tf.cast(loss_scale, g.dtype) for g in grads]


def clip(grads, norm, limit):
    """Scales gradients so that their global norm is at most `limit` (Pascanu et al., arXiv:1211.5063).

    Args:
      grads: list of float tensors, reduced: clipped on each replica they would add up to more than the limit.
      norm: their global norm.
      limit: Python float > 0.
    """
    limit = tf.constant(limit, norm.dtype)
    return [g * tf.cast(limit / tf.maximum(norm, limit), g.dtype) for g in grads]


def is_finite(norm, loss):
    """Tells whether a step may be applied: one infinite value on any replica makes the reduced ones infinite.

    Args:
      norm: global norm of the reduced gradients.
      loss: reduced loss.
    """
    return tf.math.is_finite(norm) & tf.math.is_finite(loss)
