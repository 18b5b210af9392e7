"""RandAugment (Cubuk et al., https://arxiv.org/abs/1909.13719)."""
import math

import tensorflow as tf

from pipeline.choices import AUGMENTATIONS
from pipeline.data.augment.operations import OPERATIONS, Magnitudes, operate
from pipeline.data.stateless_random import uniform

LAYERS = 2


@AUGMENTATIONS.built_in("randaugment", unit="magnitude", low=0.1, high=10.0, default=9.0)
def randaugment(images: tf.Tensor, seeds: tf.Tensor, strength: float) -> tf.Tensor:
    """Applies two operations, drawn with replacement, at magnitude `strength` of 10."""
    level = min(float(strength), 10.0) / 10
    for chosen, sign in draw_operations(seeds):
        images = operate(images, chosen, magnitudes(level, sign, images.shape))
    return images


def draw_operations(seeds: tf.Tensor) -> list[tuple[tf.Tensor, tf.Tensor]]:
    """Returns (operation int64 [B], index into OPERATIONS; sign float32 [B], 1 or -1) of each layer."""
    draws = tf.unstack(uniform(seeds, range(2 * LAYERS)), axis=1)
    return [(tf.cast(draws[2 * layer] * len(OPERATIONS), tf.int64), tf.where(draws[2 * layer + 1] < 0.5, 1.0, -1.0))
            for layer in range(LAYERS)]


def magnitudes(level: float, sign: tf.Tensor, shape: tf.TensorShape) -> Magnitudes:
    """Returns what a level means: shears up to 0.3, translations up to 0.45 of the side, rotations up to 30 degrees.

    Args:
      level: in [0, 1].
      sign: float32 [B], 1 or -1: the direction of a symmetric operation.
      shape: [B, H, W, C] of the images.
    """
    amount = level * sign
    height, width = shape[1:3]
    ones = tf.ones_like(sign)
    return Magnitudes(
        shear=amount * 0.3, down=tf.round(amount * 0.45 * height), across=tf.round(amount * 0.45 * width),
        angle=amount * (math.pi / 6), factor=1 + 0.9 * level * sign, threshold=256 * (1 - level) * ones,
        step=2.0 ** round(4 * level) * ones, reach=(math.ceil(0.45 * height), math.ceil(0.45 * width)))
