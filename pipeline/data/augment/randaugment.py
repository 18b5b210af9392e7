"""RandAugment (Cubuk et al., https://arxiv.org/abs/1909.13719), without a loop over examples.

Each example gets two operations, drawn from a table of fourteen. An operation is one of three kinds, and each kind is
computed for the whole batch with the parameters of each example: a projective transform, a table of 256 values a
channel, or a blend with a filtered copy. Examples for which another kind was drawn get the identity.
"""
import math

import tensorflow as tf

from pipeline.choices import AUGMENTATIONS
from pipeline.data.augment.color import mean_luma, saturate
from pipeline.data.augment.geometry import about_centre, project, to_uint8
from pipeline.data.stateless_random import uniform

OPERATIONS = ("identity", "shear_x", "shear_y", "translate_x", "translate_y", "rotate", "brightness", "contrast",
              "solarize", "posterize", "autocontrast", "equalize", "saturation", "sharpness")
_LAYERS = 2
_GEOMETRIC = OPERATIONS[1:6]
_TABULAR = OPERATIONS[6:12]


@AUGMENTATIONS.built_in("randaugment", unit="magnitude", low=0.1, high=10.0, default=9.0)
def randaugment(images: tf.Tensor, seeds: tf.Tensor, strength: float) -> tf.Tensor:
    """Applies two operations, drawn with replacement, at magnitude `strength` of 10."""
    level = min(float(strength), 10.0) / 10
    for layer in range(_LAYERS):
        chosen = tf.cast(uniform(seeds, 2 * layer) * len(OPERATIONS), tf.int32)
        positive = uniform(seeds, 2 * layer + 1) < 0.5
        images = operate(images, chosen, level, tf.where(positive, 1.0, -1.0))
    return images


def operate(images: tf.Tensor, chosen: tf.Tensor, level: float, sign: tf.Tensor) -> tf.Tensor:
    """Applies to each image the operation chosen for it.

    Args:
      images: uint8 [B, H, W, C].
      chosen: int32 [B], index into OPERATIONS.
      level: in [0, 1].
      sign: float32 [B], 1 or -1: direction of a symmetric operation.

    Returns:
      uint8 [B, H, W, C].
    """
    def among(names):
        indices = tf.constant([OPERATIONS.index(name) for name in names])
        return tf.reshape(tf.reduce_any(chosen[:, None] == indices, axis=1), [-1, 1, 1, 1])

    factor = tf.reshape(1 + 0.9 * level * sign, [-1, 1, 1, 1])
    result = tf.where(among(_GEOMETRIC), _geometric(images, chosen, level * sign), images)
    result = tf.where(among(_TABULAR), _tabular(images, chosen, level, factor), result)
    result = tf.where(among(["sharpness"]), _sharpen(images, factor), result)
    if images.shape[-1] == 3:
        saturated = to_uint8(saturate(tf.cast(images, tf.float32), factor))
        result = tf.where(among(["saturation"]), saturated, result)
    return result


def _geometric(images, chosen, amount):
    """Shears by up to 0.3, translates by up to 0.45 of the side, rotates by up to 30 degrees."""
    height, width = images.shape[1:3]

    def of(name):
        return tf.where(chosen == OPERATIONS.index(name), amount, 0.0)

    angle = of("rotate") * (math.pi / 6)
    linear = tf.stack([tf.cos(angle), of("shear_x") * 0.3 - tf.sin(angle), of("shear_y") * 0.3 + tf.sin(angle),
                       tf.cos(angle)], axis=1)
    transforms = about_centre(linear, images.shape)
    zero = tf.zeros_like(amount)
    shift = tf.stack([zero, zero, tf.round(of("translate_x") * 0.45 * width), zero, zero,
                      tf.round(of("translate_y") * 0.45 * height), zero, zero], axis=1)
    return project(images, transforms + shift, "BILINEAR")


def _tabular(images, chosen, level, factor):
    """Operations that map each value of a channel by a table, float32 [B, C, 256]."""
    batch, height, width, channels = images.shape
    values = tf.range(256, dtype=tf.float32)[None, None, :]
    rows = tf.range(batch * channels)
    rows = tf.reshape(rows, [batch, 1, 1, channels]) * 256
    counts = tf.math.bincount(tf.reshape(tf.cast(images, tf.int32) + rows, [-1]), minlength=batch * channels * 256,
                              maxlength=batch * channels * 256)
    counts = tf.reshape(counts, [batch, channels, 256])
    factor, average = factor[:, :, :, 0], mean_luma(images)[:, :, :, 0]
    step = 2.0 ** round(4 * level)
    tables = {
        "brightness": values * factor,
        "contrast": (values - average) * factor + average,
        "solarize": tf.where(values < 256 * (1 - level), values, 255 - values),
        "posterize": tf.floor(values / step) * step,
        "autocontrast": _stretch(counts, values),
        "equalize": _equalize(counts, values),
    }
    table = tf.broadcast_to(values, [batch, channels, 256])
    for name, candidate in tables.items():
        table = tf.where(tf.reshape(chosen == OPERATIONS.index(name), [-1, 1, 1]), candidate, table)
    return tf.gather(tf.reshape(to_uint8(table), [-1]), tf.cast(images, tf.int32) + rows)


def _stretch(counts, values):
    """Maps the darkest value of each channel to 0 and the brightest to 255; a channel of one value stays."""
    present = counts > 0
    darkest = tf.reduce_min(tf.where(present, values, 255.0), axis=2, keepdims=True)
    brightest = tf.reduce_max(tf.where(present, values, 0.0), axis=2, keepdims=True)
    spread = brightest - darkest
    return tf.where(spread > 0, (values - darkest) * 255 / tf.maximum(spread, 1.0), values)


def _equalize(counts, values):
    """Makes the values of each channel equally frequent, as Pillow's ImageOps.equalize does."""
    brightest = tf.argmax(tf.where(counts > 0, tf.range(256)[None, None, :], -1), axis=2)
    last = tf.gather(counts, brightest, batch_dims=2)[..., None]
    step = (tf.reduce_sum(counts, axis=2, keepdims=True) - last) // 255
    below = tf.cumsum(counts, axis=2, exclusive=True)
    table = tf.cast((below + step // 2) // tf.maximum(step, 1), tf.float32)
    return tf.where(step > 0, table, values)


def _sharpen(images, factor):
    """Moves images away from (above 1) or towards (below 1) a smoothed copy; the border is kept."""
    batch, height, width, channels = images.shape
    if height < 3 or width < 3:
        return images
    whole = tf.cast(images, tf.int32)
    neighbours = sum(whole[:, y:height - 2 + y, x:width - 2 + x] for y in range(3) for x in range(3))
    inner = whole[:, 1:-1, 1:-1]
    # Times the reciprocal: a graph is rewritten to that, and would differ from eager execution in the last bit.
    smooth = tf.cast(neighbours + 4 * inner, tf.float32) * (1 / 13)
    changed = to_uint8((tf.cast(inner, tf.float32) - smooth) * factor + smooth)
    ring = [[0, 0], [1, 1], [1, 1], [0, 0]]
    border = tf.pad(tf.zeros_like(inner, tf.bool), ring, constant_values=True)
    return tf.where(border, images, tf.pad(changed, ring))
