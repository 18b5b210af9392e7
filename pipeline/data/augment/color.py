"""Augmentations of brightness, contrast and colours."""
from collections.abc import Sequence

import tensorflow as tf

from pipeline.choices import AUGMENTATIONS
from pipeline.data.augment.kernels import change_some, clip, to_uint8
from pipeline.data.stateless_random import uniform


@AUGMENTATIONS.built_in("color", unit="share of change of brightness, contrast and saturation", low=0.001, high=1.0,
                        default=0.4)
def color(images: tf.Tensor, seeds: tf.Tensor, strength: float) -> tf.Tensor:
    """Multiplies brightness, contrast and saturation, in this order, by factors in [1 - strength, 1 + strength].

    Saturation is left alone unless images have three channels.
    """
    low, high = max(0.0, 1.0 - strength), 1.0 + strength
    brightness, contrast, saturation = tf.split(low + uniform(seeds, (0, 1, 2)) * (high - low), 3, axis=1)
    height, width, channels = images.shape[1:]
    planes = [tf.minimum(plane * brightness, 255.0) for plane in to_planes(images)]
    rows = [tf.reduce_sum(tf.reshape(tf.round(plane), [-1, height, width]), axis=2) for plane in planes]
    average = mean_luma(tf.stack(rows, axis=1), height * width)[:, None]
    planes = [clip((plane - average) * contrast + average) for plane in planes]
    if channels == 3:
        planes = saturate(planes, saturation)
    return from_planes([to_uint8(plane) for plane in planes], images.shape)


@AUGMENTATIONS.built_in("grayscale", unit="probability", low=0.001, high=1.0, default=0.5)
def grayscale(images: tf.Tensor, seeds: tf.Tensor, strength: float) -> tf.Tensor:
    """Replaces colours by their grey with the probability `strength`; images of other than three channels stay.

    SimCLR (Chen et al., https://arxiv.org/abs/2002.05709) does so with probability 0.2.
    """
    def to_grey(some, rows):
        return from_planes([to_uint8(mix_grey(to_planes(some)))] * 3, some.shape)

    drawn = uniform(seeds, 0) < strength
    return change_some(images, tf.where(drawn, 0, -1), [to_grey]) if images.shape[-1] == 3 else images


def to_planes(images: tf.Tensor) -> list[tf.Tensor]:
    """Returns the channels of uint8 images [n, H, W, C], each float32 [n, H * W].

    TensorFlow is slow where the last axis is short, and the cache holds one channel longer than all.
    """
    height, width, channels = images.shape[1:]
    planes = tf.unstack(tf.transpose(tf.reshape(images, [-1, channels])), num=channels)
    return [tf.cast(tf.reshape(plane, [-1, height * width]), tf.float32) for plane in planes]


def from_planes(planes: Sequence[tf.Tensor], shape: tf.TensorShape) -> tf.Tensor:
    """Returns channels, each uint8 [n, H * W], as images of the shape [n, H, W, C]."""
    joined = tf.transpose(tf.concat([tf.reshape(plane, [1, -1]) for plane in planes], axis=0))
    return tf.ensure_shape(tf.reshape(joined, [-1, *shape[1:]]), shape)


def saturate(planes: Sequence[tf.Tensor], factor: tf.Tensor) -> list[tf.Tensor]:
    """Moves colours away from (factor above 1) or towards (below 1) their own grey.

    Args:
      planes: red, green and blue, float32 [n, H * W].
      factor: float32 [n, 1].

    Returns:
      The same form.
    """
    grey = mix_grey(planes)
    return [(plane - grey) * factor + grey for plane in planes]


def mix_grey(planes: Sequence[tf.Tensor]) -> tf.Tensor:
    """Returns the grey of red, green and blue, float of any one shape."""
    red, green, blue = planes
    return 0.299 * red + 0.587 * green + 0.114 * blue


def mean_luma(sums: tf.Tensor, size: int) -> tf.Tensor:
    """Returns the mean grey of images, float32 [n].

    Sums are integers, so the value of an image does not depend on its batch.

    Args:
      sums: float32 [n, C, parts], sums of each channel over parts of an image, whole numbers below 2^24.
      size: pixels of an image.
    """
    channels = sums.shape[1]
    weights = [299, 587, 114] if channels == 3 else [1] * channels
    total = tf.reduce_sum(tf.cast(sums, tf.int64) * tf.constant(weights, tf.int64)[:, None], axis=[1, 2])
    return tf.cast(total, tf.float32) * (1 / (sum(weights) * size))
