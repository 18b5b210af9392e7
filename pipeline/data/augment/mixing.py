"""Augmentations that mix two images: rows 2i and 2i + 1 of a batch, with draws from the seed of row 2i."""
import functools

import numpy as np
import scipy.special
import tensorflow as tf

from pipeline.choices import AUGMENTATIONS
from pipeline.data.augment.geometry import box
from pipeline.data.augment.kernels import select, take, to_uint8
from pipeline.data.stateless_random import uniform

_QUANTILES = 4097


@AUGMENTATIONS.built_in("mixup", unit="both parameters of a Beta distribution", low=0.01, high=100.0, default=0.2,
                        mixes=True)
def mixup(images: tf.Tensor, seeds: tf.Tensor, strength: float) -> tuple[tf.Tensor, tf.Tensor]:
    """Adds two images in shares drawn from Beta(strength, strength) (Zhang et al., https://arxiv.org/abs/1710.09412).

    Returns:
      (images, mix): uint8 [B, H, W, C] and float32 [B], the share of the own image.
    """
    seeds = of_pairs(seeds)
    share = beta(seeds, 0, strength)
    weight = tf.reshape(share, [-1, 1, 1, 1])
    own, partner = tf.cast(images, tf.float32), tf.cast(_partners(images), tf.float32)
    return to_uint8(own * weight + partner * (1 - weight)), share


@AUGMENTATIONS.built_in("cutmix", unit="both parameters of a Beta distribution", low=0.01, high=100.0, default=1.0,
                        mixes=True)
def cutmix(images: tf.Tensor, seeds: tf.Tensor, strength: float) -> tuple[tf.Tensor, tf.Tensor]:
    """Swaps a box between two images (Yun et al., https://arxiv.org/abs/1905.04899).

    Its share of the area is drawn from Beta(strength, strength), its centre uniformly; it is clipped at the border.

    Returns:
      (images, mix): uint8 [B, H, W, C] and float32 [B], the share of the area of the own image.
    """
    height, width = images.shape[1:3]
    seeds = of_pairs(seeds)
    side = tf.sqrt(1 - beta(seeds, 2, strength))
    rows, columns = box(seeds, height, width, side * height, side * width)
    taken = tf.reduce_prod([tf.reduce_sum(tf.cast(part, tf.float32), axis=1) for part in (rows, columns)], axis=0)
    return select((rows, columns), _partners(images), images), 1 - taken * (1 / (height * width))


def beta(seeds: tf.Tensor, draw: int, concentration: float) -> tf.Tensor:
    """Draws from Beta(concentration, concentration): float32 [B] in [0, 1].

    Inverts the distribution at one uniform number for each example, by linear interpolation in a table of quantiles;
    rejection sampling would need a number of draws that is not known.
    """
    table = tf.constant(_beta_quantiles(float(concentration)))
    place = uniform(seeds, draw) * (_QUANTILES - 1)
    below = tf.cast(tf.floor(place), tf.int64)
    part = place - tf.floor(place)
    return tf.gather(table, below) * (1 - part) + tf.gather(table, below + 1) * part


@functools.lru_cache
def _beta_quantiles(concentration):
    quantiles = scipy.special.betaincinv(concentration, concentration, np.linspace(0, 1, _QUANTILES))
    return quantiles.astype(np.float32)


def of_pairs(seeds: tf.Tensor) -> tf.Tensor:
    """Returns seeds, int64 [B, 2], with each odd row's replaced by those of the even row before it."""
    return tf.repeat(seeds[::2], 2, axis=0)


def _partners(images):
    """Returns the images with the rows 2i and 2i + 1 exchanged."""
    return take(images, tf.bitwise.bitwise_xor(tf.range(images.shape[0]), 1))
