"""Random resized crop: a part of the image, drawn by its area and aspect ratio, resized to the whole.

As Inception was trained (Szegedy et al., https://arxiv.org/abs/1409.4842) and every ImageNet recipe since. Where images
are decoded from files for training, only that part of the file is decoded, see pipeline.data.file_stream.
"""
import dataclasses
import math

import tensorflow as tf

from pipeline.choices import AUGMENTATIONS
from pipeline.data.augment.geometry import mirrored
from pipeline.data.augment.kernels import to_uint8
from pipeline.data.stateless_random import example_seeds, fold_in, uniform

ATTEMPTS = 10
RATIOS = 3 / 4, 4 / 3  # Least and largest width / height.
_KNOTS = 1024


@AUGMENTATIONS.built_in("resized_crop", unit="least part of the image's area", low=0.01, high=1.0, default=0.08)
def resized_crop(images: tf.Tensor, seeds: tf.Tensor, strength: float, to_size: tuple[int, int] | None = None
                 ) -> tf.Tensor:
    """Crops and resizes images in memory, bilinear; between the border pixel's centre and the border it repeats it.

    `to_size`: (height, width) of the result; default those of the images.
    """
    batch, height, width, channels = images.shape
    to_height, to_width = to_size or (height, width)
    size = tf.fill([batch], height), tf.fill([batch], width)
    top, left, tall, wide = tf.unstack(tf.cast(boxes(*size, seeds, strength), tf.float32), axis=1)
    zero, across, down = tf.zeros_like(top), wide / to_width, tall / to_height
    if to_size:  # In a step's graph TensorFlow turns a division by a constant into this, in a stream's it does not.
        across, down = wide * (1 / to_width), tall * (1 / to_height)
    # From the centre of a pixel of the result to that of the image.
    transforms = tf.stack([across, zero, left + (across - 1) / 2, zero, down, top + (down - 1) / 2, zero, zero], axis=1)
    moved = tf.raw_ops.ImageProjectiveTransformV3(
        images=tf.cast(images, tf.float32), transforms=transforms, output_shape=tf.constant([to_height, to_width]),
        interpolation="BILINEAR", fill_mode="NEAREST", fill_value=0.0)
    return tf.ensure_shape(to_uint8(moved), [batch, to_height, to_width, channels])


@dataclasses.dataclass(frozen=True)
class DecodedCrop:
    """A random resized crop, and the flip that follows it, where decoding does both.

    Attributes:
      least_area: in (0, 1].
      flip: probability with which the part is mirrored; 0 without a flip.
    """

    least_area: float
    flip: float = 0.0

    def draw(self, seed: int, positions: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """Returns what `boxes` takes, int32 [n, 2], and which parts are mirrored, bool [n], of positions int64 [n].

        As augment.apply draws both for the first two augmentations of a list.
        """
        seeds = fold_in(example_seeds(seed, positions), [0, 1])
        return seeds[:, 0], mirrored(seeds[:, 1], self.flip)

    def mirror(self, image: tf.Tensor, mirrors: tf.Tensor) -> tf.Tensor:
        """Returns an image [H, W, C], mirrored left and right if `mirrors`, bool scalar."""
        if not self.flip:
            return image
        # The kernel would copy an image that it leaves as it is.
        return tf.ensure_shape(tf.cond(mirrors, lambda: tf.reverse(image, [1]), lambda: image), image.shape)


def boxes(height: tf.Tensor, width: tf.Tensor, seeds: tf.Tensor, least_area: float) -> tf.Tensor:
    """Draws the parts of images that become the whole.

    An attempt draws an area, uniform in [least_area, 1] of the image's, and a ratio, uniform in its logarithm; the
    first of ten that fits into the image is taken, at a uniform place. If none fits, it is the largest part in the
    centre whose ratio is in range, as torchvision's RandomResizedCrop does.

    Args:
      height, width: int32 [n], of the images.
      seeds: int64 [n, 2]; draws 0 to 21 are used.
      least_area: in (0, 1].

    Returns:
      int32 [n, 4]: top, left, height, width, each part at least one pixel.
    """
    tall, wide = tf.cast(height, tf.float32)[:, None], tf.cast(width, tf.float32)[:, None]
    numbers = uniform(seeds, range(2 * ATTEMPTS + 2))
    area = tall * wide * (least_area + (1 - least_area) * numbers[:, :ATTEMPTS])
    ratio = _ratio(numbers[:, ATTEMPTS:2 * ATTEMPTS])
    box_tall, box_wide = tf.round(tf.sqrt(area / ratio)), tf.round(tf.sqrt(area * ratio))
    fits = (box_tall <= tall) & (box_wide <= wide) & (box_tall >= 1) & (box_wide >= 1)
    some, first = tf.reduce_any(fits, 1), tf.argmax(tf.cast(fits, tf.float32), 1)
    box_tall, box_wide = (tf.gather(sides, first, batch_dims=1) for sides in (box_tall, box_wide))
    tall, wide = tall[:, 0], wide[:, 0]
    centre_tall = tf.maximum(tf.minimum(tall, tf.round(wide / RATIOS[0])), 1)
    centre_wide = tf.maximum(tf.minimum(wide, tf.round(tall * RATIOS[1])), 1)
    box_tall, box_wide = tf.where(some, box_tall, centre_tall), tf.where(some, box_wide, centre_wide)
    top = tf.where(some, tf.floor(numbers[:, -2] * (tall - box_tall + 1)), tf.floor((tall - box_tall) / 2))
    left = tf.where(some, tf.floor(numbers[:, -1] * (wide - box_wide + 1)), tf.floor((wide - box_wide) / 2))
    return tf.cast(tf.stack([top, left, box_tall, box_wide], 1), tf.int32)


def _ratio(numbers):
    """Maps [0, 1) to ratios, uniform in the logarithm.

    By linear interpolation in a table: a vectorized exponential rounds differently at the end of a batch.
    """
    low, high = (math.log(ratio) for ratio in RATIOS)
    table = tf.constant([math.exp(low + (high - low) * knot / _KNOTS) for knot in range(_KNOTS + 1)])
    place = numbers * _KNOTS
    below = tf.floor(place)
    index, part = tf.cast(below, tf.int64), place - below
    return tf.gather(table, index) * (1 - part) + tf.gather(table, index + 1) * part
