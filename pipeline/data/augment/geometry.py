"""Augmentations that move or erase pixels."""
import math
from collections.abc import Sequence

import tensorflow as tf

from pipeline.choices import AUGMENTATIONS
from pipeline.data.augment.kernels import by_value, change_some, project, select, shift
from pipeline.data.stateless_random import uniform


@AUGMENTATIONS.built_in("flip", unit="probability", low=0.001, high=1.0, default=0.5)
def flip(images: tf.Tensor, seeds: tf.Tensor, strength: float) -> tf.Tensor:
    """Mirrors left and right with the probability `strength`."""
    height, width, channels = images.shape[1:]

    def mirror(some, rows):
        # In three dimensions TensorFlow reverses whole pixels, a third of the time.
        return tf.reshape(tf.reverse(tf.reshape(some, [-1, width, channels]), [1]), [-1, height, width, channels])

    return change_some(images, tf.where(mirrored(seeds, strength), 0, -1), [mirror])


def mirrored(seeds: tf.Tensor, strength: float) -> tf.Tensor:
    """Draws which images are mirrored with the probability `strength`: bool [n] of seeds int64 [n, 2]."""
    return uniform(seeds, 0) < strength


@AUGMENTATIONS.built_in("crop", unit="pixels of shift each way", low=1, high=32768, default_part=0.125, most_part=0.5,
                        whole=True)
def crop(images: tf.Tensor, seeds: tf.Tensor, strength: float) -> tf.Tensor:
    """Shifts by whole pixels, up to `strength` each way, and fills with black: a random crop after zero padding."""
    reach = int(strength)
    across, down = tf.unstack(tf.floor(uniform(seeds, (0, 1)) * (2 * reach + 1)) - reach, axis=1)
    return shift(images, down, across, (reach, reach))


@AUGMENTATIONS.built_in("rotate", unit="degrees each way", low=0.01, high=180.0, default=15.0)
def rotate(images: tf.Tensor, seeds: tf.Tensor, strength: float) -> tf.Tensor:
    """Rotates about the centre by an angle up to `strength` degrees each way, bilinear, filled with black."""
    angle = (uniform(seeds, 0) * 2 - 1) * (strength * math.pi / 180)
    cos, sin = by_value(tf.cos, angle), by_value(tf.sin, angle)
    return project(images, about_centre(tf.stack([cos, -sin, sin, cos], axis=1), images.shape), "BILINEAR")


@AUGMENTATIONS.built_in("cutout", unit="pixels of a square's side", low=1, high=32768, default_part=0.5,
                        most_part=1.0, whole=True)
def cutout(images: tf.Tensor, seeds: tf.Tensor, strength: float) -> tf.Tensor:
    """Blackens a square of `strength` pixels a side (DeVries and Taylor, https://arxiv.org/abs/1708.04552).

    Its centre is uniform over the image, so part of it may be outside.
    """
    height, width = images.shape[1:3]
    sides = tf.fill([images.shape[0]], float(strength))
    return select(box(seeds, height, width, sides, sides), tf.zeros_like(images), images)


def box(seeds: tf.Tensor, height: int, width: int, tall: tf.Tensor, wide: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Draws a box whose centre is uniform in the image.

    Args:
      seeds: int64 [B, 2]; draws 0 and 1 are used.
      height, width: of the image.
      tall, wide: float32 [B], of the box in pixels; it is clipped at the border of the image.

    Returns:
      Which rows and columns are inside: bool [B, H] and [B, W].
    """
    def inside(draw, size, extent):
        return within(size, tf.round(tf.floor(uniform(seeds, draw) * size) - extent / 2), tf.round(extent))
    return inside(0, height, tall), inside(1, width, wide)


def within(size: int, first: tf.Tensor, extent: tf.Tensor) -> tf.Tensor:
    """Returns which of `size` places are among the `extent` from `first` on, float32 [B] both: bool [B, size]."""
    places = tf.range(size, dtype=tf.float32)
    return (places >= first[:, None]) & (places < (first + extent)[:, None])


def about_centre(linear: tf.Tensor, shape: Sequence[int]) -> tf.Tensor:
    """Returns projective transforms that apply linear maps about the centre of the image.

    Args:
      linear: float32 [B, 4], row by row, from (x, y) of the output to (x, y) of the input.
      shape: the images' shape [B, H, W, C].

    Returns:
      float32 [B, 8], as tf.raw_ops.ImageProjectiveTransformV3 takes them.
    """
    centre = tf.constant([(shape[2] - 1) / 2, (shape[1] - 1) / 2])
    linear = tf.reshape(linear, [-1, 2, 2])
    # Not written out as a x + b y: a graph is rewritten to (a + b) x where x is y, which rounds differently.
    moved = centre - tf.reduce_sum(linear * centre, axis=2)
    rows = tf.reshape(tf.concat([linear, moved[:, :, None]], axis=2), [-1, 6])
    return tf.pad(rows, [[0, 0], [0, 2]])
