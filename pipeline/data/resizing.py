"""Which part of an image a model sees, and how it gets the model's size: inside the graph."""
from typing import Any

import tensorflow as tf

from pipeline.preprocessing import Preprocessing

RATIOS = (1, 2, 4, 8)  # At which the transform of a JPEG decoder can reduce.
LYING = (5, 6, 7, 8)  # Orientations that exchange height and width.
MOST_PASSED = 3  # Ratio of sizes above which interpolation is antialiased.
# Pillow's weights of red, green and blue (ITU-R 601-2), in 1/65536.
_LUMA, _LUMA_BITS = (19_595, 38_470, 7_471), 16


def box_of(height: tf.Tensor, width: tf.Tensor, preprocessing: Preprocessing) -> tf.Tensor:
    """Returns the parts of images that evaluation sees: int32 [..., 4] (top, left, height, width).

    Args:
      height, width: int32 [...], of the upright images.
      preprocessing: its policy decides.
    """
    if preprocessing.policy != "crop":
        return tf.stack([tf.zeros_like(height), tf.zeros_like(width), height, width], axis=-1)
    to_height, to_width, _ = preprocessing.image_shape
    tall, wide = tf.cast(height, tf.float32), tf.cast(width, tf.float32)
    scale = tf.minimum(tall / to_height, wide / to_width) * preprocessing.part
    box_height = tf.clip_by_value(tf.cast(tf.round(scale * to_height), tf.int32), 1, height)
    box_width = tf.clip_by_value(tf.cast(tf.round(scale * to_width), tf.int32), 1, width)
    return tf.stack([(height - box_height) // 2, (width - box_width) // 2, box_height, box_width], axis=-1)


def size_of(box: tf.Tensor, preprocessing: Preprocessing) -> tuple[Any, Any]:
    """Returns (height, width) to which a part is resized: of the image, or for `pad` of what fits into it.

    Args:
      box: int32 [..., 4] (top, left, height, width).
    """
    height, width, _ = preprocessing.image_shape
    if preprocessing.policy != "pad":
        return height, width
    tall, wide = tf.cast(box[..., 2], tf.float32), tf.cast(box[..., 3], tf.float32)
    scale = tf.maximum(tall / height, wide / width)
    return (tf.clip_by_value(tf.cast(tf.round(tall / scale), tf.int32), 1, height),
            tf.clip_by_value(tf.cast(tf.round(wide / scale), tf.int32), 1, width))


def cut(pixels: tf.Tensor, box: tf.Tensor) -> tf.Tensor:
    """Returns the part (top, left, height, width) of an image [h, w, c]."""
    top, left, height, width = tf.unstack(box)
    return pixels[top:top + height, left:left + width]


def ratio_of(box: tf.Tensor, size: tuple[Any, Any]) -> tf.Tensor:
    """Returns the index into RATIOS of the largest reduction after which a part is not smaller than `size`.

    Args:
      box: int32 [..., 4] (top, left, height, width).
      size: (height, width), see size_of.
    """
    return tf.add_n([tf.cast((box[..., 2] >= ratio * size[0]) & (box[..., 3] >= ratio * size[1]), tf.int32)
                     for ratio in RATIOS[1:]])


def window_of(box: tf.Tensor, ratio: tf.Tensor, header: Any) -> tf.Tensor:
    """Returns the part of the reduced image, as its file has it, that is a part of the upright image.

    Args:
      box: int32 [..., 4] (top, left, height, width), upright.
      ratio: int32 [...], index into RATIOS.
      header: Header of int32 [...].

    Returns:
      int32 [..., 4], at least one pixel.
    """
    top, left, height, width = tf.unstack(box, axis=-1)
    number = header.orientation
    top = tf.where(_is(number, 3, 4, 7, 8), header.height - top - height, top)
    left = tf.where(_is(number, 2, 3, 6, 7), header.width - left - width, left)
    lies = _is(number, *LYING)
    top, left, height, width = (tf.where(lies, *pair) for pair in ((left, top), (top, left), (width, height),
                                                                   (height, width)))
    divisor = tf.gather(RATIOS, ratio)
    least = tf.ones_like(height)
    return tf.stack([top // divisor, left // divisor, tf.maximum(height // divisor, least),
                     tf.maximum(width // divisor, least)], axis=-1)


def passes_over(height: tf.Tensor, width: tf.Tensor, size: tuple[Any, Any]) -> tf.Tensor:
    """Returns whether interpolation alone would pass over many pixels of parts of this height and width."""
    return (height > MOST_PASSED * size[0]) | (width > MOST_PASSED * size[1])


def turned(pixels: tf.Tensor, number: tf.Tensor) -> tf.Tensor:
    """Applies an EXIF orientation, int32 scalar from 1 to 8, to pixels [h, w, c]."""
    def turn():
        found = tf.cond(_is(number, *LYING), lambda: tf.transpose(pixels, [1, 0, 2]), lambda: pixels)
        found = tf.cond(_is(number, 2, 3, 6, 7), lambda: tf.reverse(found, [1]), lambda: found)
        return tf.cond(_is(number, 3, 4, 7, 8), lambda: tf.reverse(found, [0]), lambda: found)

    return tf.cond(tf.equal(number, 1), lambda: pixels, turn)


def to_size(pixels: tf.Tensor, preprocessing: Preprocessing) -> tf.Tensor:
    """Resizes a part of an image, uint8 [h, w, 3], to a model's: uint8 [H, W, 3].

    Interpolation takes two (bicubic: four) pixels an axis. Where that would pass over more than a third of them, its
    kernel is widened by the ratio (antialiasing); a JPEG file has mostly been reduced to less by its decoder.
    """
    height, width, _ = preprocessing.image_shape
    shape = tf.shape(pixels)
    size = size_of(tf.stack([0, 0, shape[0], shape[1]]), preprocessing)
    found = tf.cond(passes_over(shape[0], shape[1], size),
                    lambda: interpolated(pixels, size, preprocessing, antialias=True),
                    lambda: interpolated(pixels, size, preprocessing))
    if preprocessing.policy == "pad":
        found = tf.image.pad_to_bounding_box(found, (height - size[0]) // 2, (width - size[1]) // 2, height, width)
    return tf.ensure_shape(found, [height, width, 3])


def interpolated(pixels: tf.Tensor, size: tuple[Any, Any], preprocessing: Preprocessing, antialias: bool = False
                 ) -> tf.Tensor:
    """Resizes uint8 [h, w, 3] to (height, width) by interpolation, rounded: uint8."""
    values = tf.image.resize(pixels, size, method=preprocessing.interpolation, antialias=antialias)
    if preprocessing.interpolation != "bilinear":  # Overshoots.
        values = tf.clip_by_value(values, 0.0, 255.0)
    return tf.ensure_shape(tf.cast(values + 0.5, tf.uint8), [None, None, 3])


def with_channels(colors: tf.Tensor, channels: int) -> tf.Tensor:
    """Returns colors, uint8 [h, w, 3], or for one channel their gray values [h, w, 1], rounded as Pillow does."""
    if channels == 3:
        return colors
    weighted = tf.reduce_sum(tf.cast(colors, tf.int32) * _LUMA, axis=-1, keepdims=True)
    return tf.cast(tf.bitwise.right_shift(weighted + 2**(_LUMA_BITS - 1), _LUMA_BITS), tf.uint8)


def _is(number, *values):
    return tf.reduce_any(tf.equal(number[..., None], list(values)), axis=-1)
