"""From images in [0, 1] to the input of a model's layers, the same in training and in every exported format."""
from collections.abc import Sequence

import tensorflow as tf

from pipeline.preprocessing import UNIT

# Of red, green and blue, over the training images of ImageNet: https://keras.io/api/applications/.
CAFFE_MEAN = (123.68, 116.779, 103.939)
TORCH_MEAN, TORCH_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def normalize(images: tf.Tensor, channels: int, mean: Sequence[float] | None = None,
              deviation: Sequence[float] | None = None, input_range: str = UNIT) -> tf.Tensor:
    """Maps images in [0, 1] to the input of a model's layers.

    Args:
      images: [B, H, W, C], a float dtype.
      channels: channels of the model's input; images of one channel are repeated.
      mean, deviation: mean and std of C numbers each that normalize the images, or None.

      input_range: of the model, one of pipeline.preprocessing.INPUT_RANGES.

    Returns:
      [B, H, W, channels] of the same dtype.
    """
    if mean is not None:
        images = (images - tf.constant(mean, images.dtype)) / tf.constant(deviation, images.dtype)
    if images.shape[-1] == 1 and channels > 1:
        images = tf.repeat(images, channels, axis=-1)
    return to_range(images, input_range)


def to_range(images: tf.Tensor, input_range: str) -> tf.Tensor:
    """Brings images in [0, 1] into the input range of a model.

    Of values k / 255 the results are, bit for bit, those of keras.applications' functions preprocess_input of k.

    Args:
      images: [B, H, W, channels], a float dtype; 3 channels for "caffe" and "torch".
      input_range: one of pipeline.preprocessing.INPUT_RANGES.
    """
    match input_range:
        case "0..1":
            return images
        case "0..255":
            return images * 255.0
        case "-1..1":
            return images * 2.0 - 1.0
        case "caffe":
            return tf.reverse(images * 255.0 - tf.constant(CAFFE_MEAN, images.dtype), [-1])
        case "torch":
            return (images - tf.constant(TORCH_MEAN, images.dtype)) / tf.constant(TORCH_STD, images.dtype)
    raise ValueError(f"unknown input range '{input_range}'")
