"""From images in [0, 1] to the input of a model's layers, the same in training and in every exported format."""
from collections.abc import Sequence

import tensorflow as tf


def normalize(images: tf.Tensor, channels: int, mean: Sequence[float] | None = None,
              deviation: Sequence[float] | None = None) -> tf.Tensor:
    """Maps images in [0, 1] to the input of a model's layers.

    Args:
      images: [B, H, W, C], a float dtype.
      channels: channels of the model's input; images of one channel are repeated.
      mean, deviation: mean and std of C numbers each that normalize the images, or None.

    Returns:
      [B, H, W, channels] of the same dtype.
    """
    if mean is not None:
        images = (images - tf.constant(mean, images.dtype)) / tf.constant(deviation, images.dtype)
    if images.shape[-1] == 1 and channels > 1:
        images = tf.repeat(images, channels, axis=-1)
    return images
