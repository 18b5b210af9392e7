"""Gaussian blur, as in SimCLR (Chen et al., https://arxiv.org/abs/2002.05709)."""
from collections.abc import Sequence

import tensorflow as tf

from pipeline.choices import AUGMENTATIONS
from pipeline.data.augment.kernels import by_value, change_some, to_uint8
from pipeline.data.stateless_random import uniform

SIGMAS = 0.1, 2.0  # Pixels.
# Weights are whole numbers of 1 / _WEIGHT, and values between the two passes of 1 / _VALUE: then sums are exact in
# float32, and products in TensorFloat-32, so that all kernels round alike.
_WEIGHT, _VALUE = 2048, 8
_FARTHEST = 8  # Pixels: from 9 on the weights of the largest sigma are less than half of 1 / _WEIGHT.


@AUGMENTATIONS.built_in("blur", unit="probability", low=0.001, high=1.0, default=0.5)
def blur(images: tf.Tensor, seeds: tf.Tensor, strength: float) -> tf.Tensor:
    """Blurs with the probability `strength`, by a Gaussian whose sigma is uniform in 0.1 to 2 pixels.

    The kernel is a tenth of the smaller side wide, at least 3 pixels; images are mirrored at their borders.
    """
    radius = kernel_radius(images.shape[1:3])
    sigmas = draw_sigmas(seeds)

    def blur_some(some, rows):
        # A convolution without channels is refused.
        own = tf.gather(sigmas, rows)
        return tf.cond(tf.size(own) > 0, lambda: _blur(some, own, radius), lambda: some)

    return change_some(images, tf.where(uniform(seeds, 0) < strength, 0, -1), [blur_some]) if radius else images


def kernel_radius(sides: Sequence[int]) -> int:
    """Returns the pixels on each side of the centre of the kernel for images of (H, W) pixels."""
    smaller = min(sides)
    return min(max(1, smaller // 10 // 2), smaller - 1, _FARTHEST)


def draw_sigmas(seeds: tf.Tensor) -> tf.Tensor:
    """Returns the standard deviations of the kernels in pixels: float32 [B] in SIGMAS."""
    return SIGMAS[0] + (SIGMAS[1] - SIGMAS[0]) * uniform(seeds, 1)


def weights(sigmas: tf.Tensor, radius: int) -> tf.Tensor:
    """Returns the weights of kernels in 1 / 2048, whole numbers that add up to 2048: float32 [n, 2 * radius + 1]."""
    distance = tf.range(-radius, radius + 1, dtype=tf.float32)
    exponent = -distance * distance / (2 * tf.square(sigmas)[:, None])
    heights = tf.reshape(by_value(tf.exp, tf.reshape(exponent, [-1])), tf.shape(exponent))
    heights = tf.round(heights * 2**16)  # Whole numbers: their sum does not depend on its order.
    found = tf.round(heights * (_WEIGHT / tf.reduce_sum(heights, axis=1, keepdims=True)))
    return found + (_WEIGHT - tf.reduce_sum(found, axis=1, keepdims=True)) * tf.cast(distance == 0, tf.float32)


def _blur(images, sigmas, radius):
    """Convolves down, then across, each image with its own kernel: images are channels of one."""
    height, width, channels = images.shape[1:]
    whole = tf.cast(tf.reshape(tf.transpose(images, [1, 2, 0, 3]), [1, height, width, -1]), tf.float32)
    whole = tf.pad(whole, [[0, 0], [radius, radius], [radius, radius], [0, 0]], "REFLECT")
    kernels = tf.repeat(tf.transpose(weights(sigmas, radius)), channels, axis=1)
    down = tf.nn.depthwise_conv2d(whole, kernels[:, None, :, None], [1, 1, 1, 1], "VALID")
    down = tf.round(down * (_VALUE / _WEIGHT))
    across = tf.nn.depthwise_conv2d(down, kernels[None, :, :, None], [1, 1, 1, 1], "VALID")
    blurred = to_uint8(across * (1 / (_VALUE * _WEIGHT)))
    return tf.transpose(tf.reshape(blurred, [height, width, -1, channels]), [2, 0, 1, 3])
