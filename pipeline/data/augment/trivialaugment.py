"""TrivialAugment (Müller and Hutter, https://arxiv.org/abs/2103.10158)."""
import math

import tensorflow as tf

from pipeline.choices import AUGMENTATIONS
from pipeline.data.augment.operations import OPERATIONS, Magnitudes, operate
from pipeline.data.stateless_random import uniform

LEVELS = 31
_MOST_PIXELS, _MOST_PART = 32, 0.45  # Of a translation.


@AUGMENTATIONS.built_in("trivialaugment", unit="share of the paper's wide ranges of magnitudes", low=0.01, high=1.0,
                        default=1.0)
def trivialaugment(images: tf.Tensor, seeds: tf.Tensor, strength: float) -> tf.Tensor:
    """Applies one operation at one of 31 magnitudes, both drawn uniformly, with the ranges of "TA (Wide)"."""
    chosen, level, sign = draw_operation(seeds)
    return operate(images, chosen, magnitudes(level, sign, strength, images.shape))


def draw_operation(seeds: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    """Returns (operation int64 [B], index into OPERATIONS; level float32 [B], 0 to 30; sign float32 [B], 1 or -1)."""
    operation, level, sign = tf.unstack(uniform(seeds, range(3)), axis=1)
    return (tf.cast(operation * len(OPERATIONS), tf.int64), tf.floor(level * LEVELS),
            tf.where(sign < 0.5, 1.0, -1.0))


def magnitudes(level: tf.Tensor, sign: tf.Tensor, strength: float, shape: tf.TensorShape) -> Magnitudes:
    """Returns what levels mean, as in torchvision's TrivialAugmentWide.

    Translations end at 32 pixels as in the paper, and at 0.45 of the side, so that no image is moved out of itself.

    Args:
      level: float32 [B], 0 to 30.
      sign: float32 [B], 1 or -1: the direction of a symmetric operation.
      strength: share of the ranges, in (0, 1].
      shape: [B, H, W, C] of the images.
    """
    share = level * (strength / (LEVELS - 1))
    amount = share * sign
    most_down, most_across = (min(float(_MOST_PIXELS), math.floor(_MOST_PART * side)) for side in shape[1:3])
    steps = tf.constant([2.0 ** bits for bits in range(7)])
    return Magnitudes(
        shear=amount * 0.99, down=tf.floor(share * most_down) * sign, across=tf.floor(share * most_across) * sign,
        angle=amount * (135 * math.pi / 180), factor=1 + amount * 0.99, threshold=255 * (1 - share),
        step=tf.gather(steps, tf.cast(tf.round(share * 6), tf.int32)), reach=(int(most_down), int(most_across)))
