"""Decisions of a step, made on reduced values, so that every replica makes the same."""
from collections.abc import Sequence

import keras
import tensorflow as tf

LEAST_NORM = 1e-3  # Of the weights of a unit in `clip_units`: those that begin at zero may leave it.


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


def clip_units(grads: Sequence[tf.Tensor], variables: Sequence[keras.Variable], ratio: float,
               unclipped: Sequence[keras.Variable] = ()) -> list[tf.Tensor]:
    """Scales gradients so that the norm of each unit is at most `ratio` of that of its weights, or of LEAST_NORM.

    Adaptive gradient clipping (Brock et al., arXiv:2102.06171). A unit is what makes one output: a column of a matrix,
    a filter of a convolution, of a depthwise one a channel. A vector is one unit.

    Args:
      grads: reduced gradients.
      variables: of the gradients, in a replica context.
      ratio: > 0.
      unclipped: variables whose gradients stay as they are.
    """
    left_out, clipped = {id(variable) for variable in unclipped}, []
    for gradient, variable in zip(grads, variables, strict=True):
        if id(variable) not in left_out:
            axes = _inputs(variable.shape)
            longest = ratio * tf.maximum(_norm(tf.convert_to_tensor(variable.value), axes), LEAST_NORM)
            gradient *= longest / tf.maximum(_norm(gradient, axes), longest)
        clipped.append(gradient)
    return clipped


def _inputs(shape):
    """Returns the axes over which a unit extends."""
    if len(shape) < 2:
        return None
    depthwise = len(shape) == 4 and shape[-1] == 1
    return tuple(range(len(shape) - (2 if depthwise else 1)))


def _norm(values, axes):
    return tf.sqrt(tf.reduce_sum(tf.square(values), axes, keepdims=True))


def is_finite(norm: tf.Tensor, loss: tf.Tensor) -> tf.Tensor:
    """Tells whether a step may be applied: a non-finite value of any replica makes the reduced ones non-finite.

    Args:
      norm: global norm of the reduced gradients.
      loss: reduced loss.
    """
    return tf.math.is_finite(norm) & tf.math.is_finite(loss)
