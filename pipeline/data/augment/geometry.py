"""Augmentations that move or erase pixels."""
import math
from collections.abc import Sequence

import tensorflow as tf

from pipeline.choices import AUGMENTATIONS
from pipeline.data.stateless_random import uniform


@AUGMENTATIONS.built_in("flip", unit="probability", low=0.001, high=1.0, default=0.5)
def flip(images: tf.Tensor, seeds: tf.Tensor, strength: float) -> tf.Tensor:
    """Mirrors left and right with the probability `strength`."""
    return tf.where(_per_image(uniform(seeds, 0) < strength), tf.reverse(images, [2]), images)


@AUGMENTATIONS.built_in("crop", unit="pixels of shift each way", low=1, high=32768, default_part=0.125, most_part=0.5,
                        whole=True)
def crop(images: tf.Tensor, seeds: tf.Tensor, strength: float) -> tf.Tensor:
    """Shifts by whole pixels, up to `strength` each way, and fills with black: a random crop after zero padding."""
    reach = int(strength)
    across, down = (tf.floor(uniform(seeds, draw) * (2 * reach + 1)) - reach for draw in (0, 1))
    one, zero = tf.ones_like(across), tf.zeros_like(across)
    transform = tf.stack([one, zero, across, zero, one, down, zero, zero], axis=1)
    return project(images, transform, "NEAREST")


@AUGMENTATIONS.built_in("rotate", unit="degrees each way", low=0.01, high=180.0, default=15.0)
def rotate(images: tf.Tensor, seeds: tf.Tensor, strength: float) -> tf.Tensor:
    """Rotates about the centre by an angle up to `strength` degrees each way, bilinear, filled with black."""
    angle = (uniform(seeds, 0) * 2 - 1) * (strength * math.pi / 180)
    linear = tf.stack([tf.cos(angle), -tf.sin(angle), tf.sin(angle), tf.cos(angle)], axis=1)
    return project(images, about_centre(linear, images.shape), "BILINEAR")


@AUGMENTATIONS.built_in("cutout", unit="pixels of a square's side", low=1, high=32768, default_part=0.5,
                        most_part=1.0, whole=True)
def cutout(images: tf.Tensor, seeds: tf.Tensor, strength: float) -> tf.Tensor:
    """Blackens a square of `strength` pixels a side (DeVries and Taylor, https://arxiv.org/abs/1708.04552).

    Its centre is uniform over the image, so part of it may be outside.
    """
    height, width = images.shape[1:3]
    return tf.where(box(seeds, height, width, tf.fill([images.shape[0]], float(strength)),
                        tf.fill([images.shape[0]], float(strength))), tf.zeros_like(images), images)


def box(seeds: tf.Tensor, height: int, width: int, tall: tf.Tensor, wide: tf.Tensor) -> tf.Tensor:
    """Returns the mask of a box whose centre is drawn uniformly: bool [B, H, W, 1].

    Args:
      seeds: int32 [B, 2]; draws 0 and 1 are used.
      height, width: of the image.
      tall, wide: float32 [B], of the box in pixels; it is clipped at the border of the image.
    """
    def inside(draw, size, extent):
        first = tf.round(tf.floor(uniform(seeds, draw) * size) - extent / 2)
        places = tf.range(size, dtype=tf.float32)
        return (places >= first[:, None]) & (places < (first + tf.round(extent))[:, None])
    return (inside(0, height, tall)[:, :, None] & inside(1, width, wide)[:, None, :])[..., None]


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
    # Not written out as a x + b y: a graph is rewritten to (a + b) x where x is y, which rounds otherwise.
    shift = centre - tf.reduce_sum(linear * centre, axis=2)
    rows = tf.reshape(tf.concat([linear, shift[:, :, None]], axis=2), [-1, 6])
    return tf.pad(rows, [[0, 0], [0, 2]])


def project(images: tf.Tensor, transforms: tf.Tensor, interpolation: str) -> tf.Tensor:
    """Returns uint8 images with pixels taken from where `transforms` [B, 8] send them, black from outside."""
    smooth = interpolation == "BILINEAR"
    # The kernel truncates fractions when it writes integers, which would darken images; so rounding is done here.
    moved = tf.raw_ops.ImageProjectiveTransformV3(
        images=tf.cast(images, tf.float32) if smooth else images, transforms=transforms,
        output_shape=tf.constant(list(images.shape[1:3]), tf.int32), interpolation=interpolation, fill_mode="CONSTANT",
        fill_value=0.0)
    moved = to_uint8(moved) if smooth else moved
    return tf.ensure_shape(moved, images.shape)


def to_uint8(values: tf.Tensor) -> tf.Tensor:
    """Returns float values rounded and clipped to 0 to 255."""
    return tf.cast(tf.clip_by_value(tf.round(values), 0.0, 255.0), tf.uint8)


def _per_image(values):
    """Returns values [B] as [B, 1, 1, 1]."""
    return tf.reshape(values, [-1, 1, 1, 1])
