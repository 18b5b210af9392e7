"""From the pixels of an image to what a model's layers see, the same in training and in every exported form."""
import tensorflow as tf


def normalize(images, channels, mean=None, deviation=None):
    """Brings images in [0, 1] to what the layers of a model see.

    Args:
      images: [B, H, W, C], a float dtype.
      channels: channels the model wants; images of one channel are repeated.
      mean, deviation: C numbers each that normalize the images, or None.

    Returns:
      [B, H, W, channels] of the same dtype.
    """
    if mean is not None:
        images = (images - tf.constant(mean, images.dtype)) / tf.constant(deviation, images.dtype)
    if images.shape[-1] == 1 and channels > 1:
        images = tf.repeat(images, channels, axis=-1)
    return images
