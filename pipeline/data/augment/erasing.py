"""Random erasing (Zhong et al., https://arxiv.org/abs/1708.04896)."""
import math

import tensorflow as tf

from pipeline.choices import AUGMENTATIONS
from pipeline.data.augment.geometry import within
from pipeline.data.augment.kernels import by_value, change_some, select
from pipeline.data.stateless_random import random_bytes, uniform

AREAS = 0.02, 1 / 3  # Least and largest part of the image.
RATIOS = 0.3, 3.3  # Least and largest height / width.
ATTEMPTS = 10
_NOISE = 2 * ATTEMPTS + 3  # Index of the draw.


@AUGMENTATIONS.built_in("erasing", unit="probability", low=0.001, high=1.0, default=0.5)
def erasing(images: tf.Tensor, seeds: tf.Tensor, strength: float) -> tf.Tensor:
    """Overwrites a rectangle with random values, one for each pixel and channel, with the probability `strength`.

    As the paper's RE-R and timm's training with its default `--remode=pixel`, whose values are normal where these are
    uniform; torchvision fills with zeros.
    """
    height, width, channels = images.shape[1:]
    rectangles = draw_rectangles(seeds, height, width)

    def erase(some, rows):
        top, left, tall, wide = tf.unstack(tf.gather(rectangles, rows), axis=1)
        noise = random_bytes(tf.gather(seeds, rows), _NOISE, height * width * channels)
        return select((within(height, top, tall), within(width, left, wide)), tf.reshape(noise, tf.shape(some)), some)

    drawn = (uniform(seeds, 0) < strength) & (rectangles[:, 2] > 0)
    return change_some(images, tf.where(drawn, 0, -1), [erase])


def draw_rectangles(seeds: tf.Tensor, height: int, width: int) -> tf.Tensor:
    """Draws rectangles inside of images.

    An attempt draws an area, uniform in AREAS, and a ratio, uniform in its logarithm in RATIOS; the first of ten that
    is lower and narrower than the image is taken, at a uniform place.

    Args:
      seeds: int64 [B, 2]; draws 1 to 22 are used.
      height, width: of the images.

    Returns:
      float32 [B, 4]: top, left, height and width in pixels; all 0 where none fits.
    """
    numbers = uniform(seeds, range(1, 2 * ATTEMPTS + 3))
    area = (AREAS[0] + (AREAS[1] - AREAS[0]) * numbers[:, :ATTEMPTS]) * (height * width)
    low, high = (math.log(ratio) for ratio in RATIOS)
    ratio = low + (high - low) * numbers[:, ATTEMPTS:2 * ATTEMPTS]
    ratio = tf.reshape(by_value(tf.exp, tf.reshape(ratio, [-1])), [-1, ATTEMPTS])
    tall, wide = tf.round(tf.sqrt(area * ratio)), tf.round(tf.sqrt(area / ratio))
    fits = tf.cast((tall >= 1) & (wide >= 1) & (tall < height) & (wide < width), tf.float32)
    first = fits * tf.cast(tf.cumsum(fits, axis=1) == 1, tf.float32)
    tall, wide, some = (tf.reduce_sum(first * value, axis=1) for value in (tall, wide, tf.ones_like(tall)))
    top, left = (tf.floor(numbers[:, 2 * ATTEMPTS + place] * (size - side + 1)) * some
                 for place, (size, side) in enumerate(((height, tall), (width, wide))))
    return tf.stack([top, left, tall, wide], axis=1)
