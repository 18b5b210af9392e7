"""Augmentations of brightness, contrast and saturation."""
import tensorflow as tf

from pipeline.choices import AUGMENTATIONS
from pipeline.data.augment.geometry import to_uint8
from pipeline.data.stateless_random import uniform


@AUGMENTATIONS.built_in("color", unit="share of change of brightness, contrast and saturation", low=0.001, high=1.0,
                        default=0.4)
def color(images: tf.Tensor, seeds: tf.Tensor, strength: float) -> tf.Tensor:
    """Multiplies brightness, contrast and saturation, in this order, by factors in [1 - strength, 1 + strength].

    Saturation is left alone unless images have three channels.
    """
    low, high = max(0.0, 1.0 - strength), 1.0 + strength
    brightness, contrast, saturation = (tf.reshape(low + uniform(seeds, draw) * (high - low), [-1, 1, 1, 1])
                                        for draw in range(3))
    values = tf.clip_by_value(tf.cast(images, tf.float32) * brightness, 0.0, 255.0)
    average = mean_luma(to_uint8(values))
    values = tf.clip_by_value((values - average) * contrast + average, 0.0, 255.0)
    if images.shape[-1] == 3:
        values = saturate(values, saturation)
    return to_uint8(values)


def saturate(values: tf.Tensor, factor: tf.Tensor) -> tf.Tensor:
    """Returns float images [B, H, W, 3] moved away from (above 1) or towards (below 1) their own grey."""
    red, green, blue = tf.split(values, 3, axis=-1)
    grey = 0.299 * red + 0.587 * green + 0.114 * blue
    return (values - grey) * factor + grey


def mean_luma(images: tf.Tensor) -> tf.Tensor:
    """Returns the mean grey of each uint8 image: float32 [B, 1, 1, 1] in [0, 255].

    Sums are integers, so the value of an image does not depend on its batch.
    """
    shape = images.shape
    weights = [299, 587, 114] if shape[-1] == 3 else [1] * shape[-1]
    sums = tf.reduce_sum(tf.cast(images, tf.int64), axis=[1, 2])
    total = tf.reduce_sum(sums * tf.constant(weights, tf.int64), axis=1)
    return tf.reshape(tf.cast(total, tf.float32) * (1 / (sum(weights) * shape[1] * shape[2])), [-1, 1, 1, 1])
