"""Building blocks of augmentations: parts of a batch, shifts and tables of uint8 images.

On CPUs each is a copy of whole rows or images, or a pass over pixels. GPUs have no uint8 kernels of GatherV2,
DynamicStitch, Pack, Tile and TensorListSplit, and read much of int32 in host memory: there images are gathered as
float32 words, looked up in float32 tables at int64 places, and shifted by ImageProjectiveTransformV3.
`mirrorline doctor --placement` shows what is copied to the host.
"""
from collections.abc import Callable, Sequence

import tensorflow as tf

from pipeline.device_scope import on_gpu, on_host

_PACKET = 64  # A multiple of the values that a kernel computes at once.


def change_some(images: tf.Tensor, chosen: tf.Tensor, changes: Sequence[Callable]) -> tf.Tensor:
    """Changes each image by the function that was chosen for it; a function sees only its own images.

    Args:
      images: uint8 [B, H, W, C].
      chosen: int32 or int64 [B], index into `changes`; images with -1 stay as they are.
      changes: functions of (uint8 [n, H, W, C], int32 [n], the rows that these are) to uint8 [n, H, W, C]; n may be 0.

    Returns:
      uint8 [B, H, W, C].
    """
    part_of = tf.cast(tf.cast(chosen, tf.int64) + 1, tf.int32)
    rows = tf.dynamic_partition(tf.range(tf.size(chosen)), part_of, len(changes) + 1)
    changed = [change(take(images, own), own) for own, change in zip(rows[1:], changes, strict=True)]
    parts = [take(images, rows[0]), *changed]
    stitched = _stitch(rows, [_to_words(part) for part in parts], images.shape[0])
    return tf.ensure_shape(_from_words(stitched, images.shape), images.shape)


def _stitch(rows, parts, count):
    """Puts rows back where they were: row rows[i][j] of the result, of `count`, is row j of parts[i]."""
    if not on_gpu():
        return tf.dynamic_stitch(rows, parts)
    order = tf.concat([tf.cast(own, tf.int64) for own in rows], axis=0)
    place = tf.scatter_nd(order[:, None], tf.range(count, dtype=tf.int64), tf.constant([count], tf.int64))
    return tf.gather(tf.concat(parts, axis=0), place)


def select(box: tuple[tf.Tensor, tf.Tensor], inside: tf.Tensor, outside: tf.Tensor) -> tf.Tensor:
    """Returns images with the pixels of `inside` in a box and those of `outside` around it.

    Args:
      box: which rows and columns are in it, bool [n, H] and [n, W].
      inside, outside: uint8 [n, H, W, C].

    Returns:
      uint8 [n, H, W, C].
    """
    height, width, channels = outside.shape[1:]
    # As bits: TensorFlow's SelectV2 takes ten times as long.
    rows, columns = (tf.cast(part, tf.uint8) * 255 for part in (box[0], tf.repeat(box[1], channels, axis=1)))
    mask = tf.bitwise.bitwise_and(rows[:, :, None], columns[:, None])
    inside, outside = (tf.reshape(part, [-1, height, width * channels]) for part in (inside, outside))
    change = tf.bitwise.bitwise_and(tf.bitwise.bitwise_xor(inside, outside), mask)
    return tf.reshape(tf.bitwise.bitwise_xor(outside, change), [-1, height, width, channels])


def shift(images: tf.Tensor, down: tf.Tensor, across: tf.Tensor, reach: tuple[int, int]) -> tf.Tensor:
    """Takes pixel (y, x) from (y + down, x + across), black from outside.

    Args:
      images: uint8 [n, H, W, C].
      down, across: float32 [n], whole pixels.
      reach: largest absolute values of `down` and `across`.

    Returns:
      uint8 [n, H, W, C].
    """
    if on_gpu():
        one, zero = tf.ones_like(down), tf.zeros_like(down)
        return project(images, tf.stack([one, zero, across, zero, one, down, zero, zero], axis=1), "NEAREST")
    height, width, channels = images.shape[1:]
    count, stride = tf.shape(images)[0], (width + reach[1]) * channels
    # In memory an image whose rows end with black pixels is shifted by reading from another place.
    rows = tf.reshape(images, [-1, width * channels])
    rows = tf.concat([rows, tf.zeros([tf.shape(rows)[0], reach[1] * channels], tf.uint8)], axis=1)
    margin = tf.zeros([count, reach[0] * stride + reach[1] * channels], tf.uint8)
    memory = tf.concat([margin, tf.reshape(rows, [-1, height * stride]), margin], axis=1)
    before = margin.shape[1] + tf.cast(down, tf.int64) * stride + tf.cast(across, tf.int64) * channels
    lengths = tf.stack([before, tf.fill(tf.shape(before), tf.constant(height * stride, tf.int64)),
                        2 * margin.shape[1] - before], axis=1)
    pieces = tf.raw_ops.TensorListSplit(tensor=tf.reshape(memory, [-1]), element_shape=tf.constant([-1]),
                                        lengths=tf.reshape(lengths, [-1]))
    found = tf.raw_ops.TensorListGather(input_handle=pieces, indices=tf.range(count) * 3 + 1,
                                        element_shape=tf.constant([height * stride]), element_dtype=tf.uint8)
    return tf.reshape(found, [-1, height, width + reach[1], channels])[:, :, :width]


def project(images: tf.Tensor, transforms: tf.Tensor, interpolation: str) -> tf.Tensor:
    """Returns uint8 images with pixels taken from where `transforms` [n, 8] send them, black from outside."""
    smooth = interpolation == "BILINEAR"
    # The kernel truncates fractions when it writes integers, which would darken images; so rounding is done here.
    moved = tf.raw_ops.ImageProjectiveTransformV3(
        images=tf.cast(images, tf.float32) if smooth else images, transforms=transforms,
        output_shape=tf.constant(list(images.shape[1:3]), tf.int32), interpolation=interpolation, fill_mode="CONSTANT",
        fill_value=0.0)
    moved = to_uint8(moved) if smooth else moved
    return tf.ensure_shape(moved, images.shape)


def look_up(images: tf.Tensor, tables: tf.Tensor) -> tf.Tensor:
    """Replaces each value of a channel by its entry in a table.

    Args:
      images: uint8 [n, H, W, C].
      tables: uint8 [n, C, 256].

    Returns:
      uint8 [n, H, W, C].
    """
    places, tables = _in_own_table(images), tf.reshape(tables, [-1])
    if on_gpu():
        return tf.cast(tf.gather(tf.cast(tables, tf.float32), places), tf.uint8)
    return tf.gather(tables, places)


def histograms(images: tf.Tensor) -> tf.Tensor:
    """Returns how often each value is in each channel of uint8 images [n, H, W, C]: int64 [n, C, 256]."""
    channels, places = images.shape[-1], tf.reshape(_in_own_table(images), [-1])
    size = tf.shape(images)[0] * channels * 256
    with on_host():  # Where the kernel wants it.
        size = tf.cast(size, places.dtype)
    found = tf.raw_ops.DenseBincount(input=places, size=size, weights=tf.constant([], tf.int32))
    return tf.reshape(tf.cast(found, tf.int64), [-1, channels, 256])


def _in_own_table(images):
    """Returns for each value its place in a list of 256 values for each channel of each image: [n, H, W, C]."""
    dtype, channels = tf.int64 if on_gpu() else tf.int32, images.shape[-1]
    count = tf.shape(images)[0] * channels
    with on_host():  # A number is nearer to there than to a GPU.
        first = tf.range(tf.cast(count, dtype)) * 256
    return tf.cast(images, dtype) + tf.reshape(first, [-1, 1, 1, channels])


def by_value(function: Callable, values: tf.Tensor) -> tf.Tensor:
    """Applies a function such as tf.cos to float32 [n] so that a result depends on its value alone.

    Kernels compute the last few values of a vector otherwise, with other last bits; so none is among the last.
    """
    count = tf.size(values)
    return function(tf.pad(values, [[0, -count % _PACKET]]))[:count]


def clip(values: tf.Tensor) -> tf.Tensor:
    """Returns float values clipped to 0 to 255."""
    return tf.clip_by_value(values, 0.0, 255.0)  # Faster than the kernel ClipByValue.


def to_uint8(values: tf.Tensor) -> tf.Tensor:
    """Returns float values rounded and clipped to 0 to 255."""
    return tf.cast(clip(tf.round(values)), tf.uint8)


def take(images: tf.Tensor, rows: tf.Tensor) -> tf.Tensor:
    """Returns images uint8 [n, H, W, C] by their numbers, int32 [n]."""
    return _from_words(tf.gather(_to_words(images), rows), images.shape)


def _to_words(images):
    """Returns images [n, H, W, C] as words [n, words] of four values each; of one where 4 does not divide."""
    height, width, channels = images.shape[1:]
    size = height * width * channels
    if size % 4 == 0:
        return tf.bitcast(tf.reshape(images, [-1, size // 4, 4]), tf.float32 if on_gpu() else tf.int32)
    images = tf.reshape(images, [-1, size])
    return tf.cast(images, tf.float32) if on_gpu() else images


def _from_words(words, shape):
    """Returns the images of words, uint8 [n, H, W, C]; their shape is [any, H, W, C]."""
    height, width, channels = shape[1:]
    values = tf.cast(words, tf.uint8) if height * width * channels % 4 else tf.bitcast(words, tf.uint8)
    return tf.reshape(values, [-1, height, width, channels])
