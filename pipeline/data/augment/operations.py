"""The fourteen operations of RandAugment and TrivialAugment, each computed for the images for which it was drawn.

Operations of one kind share their work, with parameters of each image.
"""
import dataclasses

import tensorflow as tf

from pipeline.data.augment.color import from_planes, mean_luma, saturate, to_planes
from pipeline.data.augment.geometry import about_centre
from pipeline.data.augment.kernels import by_value, change_some, histograms, look_up, project, shift, to_uint8

OPERATIONS = ("identity", "shear_x", "shear_y", "translate_x", "translate_y", "rotate", "brightness", "contrast",
              "solarize", "posterize", "autocontrast", "equalize", "saturation", "sharpness")


@dataclasses.dataclass(frozen=True)
class Magnitudes:
    """How strongly each operation acts on an image for which it was drawn: float32 [B].

    Attributes:
      shear: tangent of the angle.
      down, across: translation in whole pixels.
      angle: of the rotation in radians.
      factor: of brightness, contrast, saturation and sharpness; 1 changes nothing.
      threshold: solarize inverts values from it on; in [0, 255].
      step: a power of 2; posterize rounds down to its multiples.
      reach: whole numbers, bounds on the absolute values of `down` and `across` in any batch.
    """

    shear: tf.Tensor
    down: tf.Tensor
    across: tf.Tensor
    angle: tf.Tensor
    factor: tf.Tensor
    threshold: tf.Tensor
    step: tf.Tensor
    reach: tuple[int, int]

    def of(self, rows: tf.Tensor) -> "Magnitudes":
        """Returns those of some images, int32 [n]."""
        values = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        return Magnitudes(**{name: value if name == "reach" else tf.gather(value, rows)
                             for name, value in values.items()})


def operate(images: tf.Tensor, chosen: tf.Tensor, magnitudes: Magnitudes) -> tf.Tensor:
    """Applies to each image the operation that was drawn for it.

    Args:
      images: uint8 [B, H, W, C].
      chosen: int64 [B], index into OPERATIONS. Saturation leaves images alone unless they have three channels.
      magnitudes: of each image.

    Returns:
      uint8 [B, H, W, C].
    """
    def some(change):
        return lambda part, rows: change(part, tf.gather(chosen, rows), magnitudes.of(rows))

    kinds = [next((kind for kind, (names, _) in enumerate(_KINDS) if name in names), -1) for name in OPERATIONS]
    return change_some(images, tf.gather(tf.constant(kinds, tf.int64), chosen), [some(change) for _, change in _KINDS])


def _is(chosen, name):
    """Returns for which images an operation was drawn, bool [n]."""
    return chosen == OPERATIONS.index(name)


def _transform(images, chosen, magnitudes):
    """Shears or rotates about the centre."""
    shear_x, shear_y, angle = (tf.where(_is(chosen, name), value, 0.0) for name, value in (
        ("shear_x", magnitudes.shear), ("shear_y", magnitudes.shear), ("rotate", magnitudes.angle)))
    cos, sin = by_value(tf.cos, angle), by_value(tf.sin, angle)
    linear = tf.stack([cos, shear_x - sin, shear_y + sin, cos], axis=1)
    return project(images, about_centre(linear, images.shape), "BILINEAR")


def _translate(images, chosen, magnitudes):
    return shift(images, tf.where(_is(chosen, "translate_y"), magnitudes.down, 0.0),
                 tf.where(_is(chosen, "translate_x"), magnitudes.across, 0.0), magnitudes.reach)


def _blend(images, chosen, magnitudes):
    """Moves values away from or towards black (brightness) or the mean grey of their image (contrast)."""
    height, width, channels = images.shape[1:]
    # As rows of all values of an image, since TensorFlow is slow where the last axis is short.
    values = tf.cast(tf.reshape(images, [-1, height * width * channels]), tf.float32)
    columns = tf.reduce_sum(tf.reshape(values, [-1, height, width * channels]), axis=1)
    columns = tf.transpose(tf.reshape(columns, [-1, width, channels]), [0, 2, 1])
    centre = tf.where(_is(chosen, "contrast"), mean_luma(columns, height * width), 0.0)[:, None]
    blended = to_uint8((values - centre) * magnitudes.factor[:, None] + centre)
    return tf.reshape(blended, [-1, height, width, channels])


def _change_bits(images, chosen, magnitudes):
    """Solarizes or posterizes."""
    height, width, channels = images.shape[1:]
    values = tf.reshape(images, [-1, height * width * channels])
    threshold, inverted, kept = (tf.cast(value, tf.uint8)[:, None] for value in (
        tf.math.ceil(magnitudes.threshold), tf.where(_is(chosen, "solarize"), 255, 0),
        tf.where(_is(chosen, "posterize"), 256 - magnitudes.step, 255.0)))
    changed = tf.bitwise.bitwise_xor(values, tf.cast(values >= threshold, tf.uint8) * inverted)
    return tf.reshape(tf.bitwise.bitwise_and(changed, kept), [-1, height, width, channels])


def _spread_values(images, chosen, magnitudes):
    """Spreads the values of each channel: autocontrast or equalize."""
    values, counts = tf.range(256, dtype=tf.float32)[None, None], histograms(images)
    table = tf.where(_is(chosen, "equalize")[:, None, None], _equalize(counts, values), _stretch(counts, values))
    return look_up(images, to_uint8(table))


def _stretch(counts, values):
    """Maps the darkest value of each channel to 0 and the brightest to 255; a channel of one value stays."""
    darkest = tf.reduce_min(tf.where(counts > 0, values, 255.0), axis=2, keepdims=True)
    brightest = _brightest(counts, values)
    spread = brightest - darkest
    return tf.where(spread > 0, (values - darkest) * 255 / tf.maximum(spread, 1.0), values)


def _equalize(counts, values):
    """Makes the values of each channel equally frequent, as Pillow's ImageOps.equalize does."""
    last = tf.reduce_sum(tf.where(values == _brightest(counts, values), counts, 0), axis=2, keepdims=True)
    step = (tf.reduce_sum(counts, axis=2, keepdims=True) - last) // 255
    below = tf.cumsum(counts, axis=2, exclusive=True)
    table = tf.cast((below + step // 2) // tf.maximum(step, 1), tf.float32)
    return tf.where(step > 0, table, values)


def _brightest(counts, values):
    return tf.reduce_max(tf.where(counts > 0, values, 0.0), axis=2, keepdims=True)


def _saturate(images, chosen, magnitudes):
    """Moves colours away from or towards their own grey."""
    if images.shape[-1] != 3:
        return images
    planes = saturate(to_planes(images), magnitudes.factor[:, None])
    return from_planes([to_uint8(plane) for plane in planes], images.shape)


def _sharpen(images, chosen, magnitudes):
    """Moves images away from (factor above 1) or towards (below 1) a smoothed copy; the border is kept."""
    height, width, channels = images.shape[1:]
    if height < 3 or width < 3:
        return images
    # Whole numbers in float32. As rows of W * C values, since TensorFlow is slow where the last axis is short.
    rows = tf.cast(tf.reshape(images, [-1, height, width * channels]), tf.float32)
    down = rows[:, :-2] + rows[:, 1:-1] + rows[:, 2:]
    around = down[:, :, :-2 * channels] + down[:, :, channels:-channels] + down[:, :, 2 * channels:]
    inner = rows[:, 1:-1, channels:-channels]
    # Times the reciprocal: a graph is rewritten to that, and would differ from eager execution in the last bit.
    smooth = (around + 4 * inner) * (1 / 13)
    changed = to_uint8((inner - smooth) * magnitudes.factor[:, None, None] + smooth)
    kept = tf.reshape(images, [-1, height, width * channels])
    changed = tf.concat([kept[:, 1:-1, :channels], changed, kept[:, 1:-1, -channels:]], axis=2)
    return tf.reshape(tf.concat([kept[:, :1], changed, kept[:, -1:]], axis=1), [-1, height, width, channels])


_KINDS = ((("shear_x", "shear_y", "rotate"), _transform), (("translate_x", "translate_y"), _translate),
          (("brightness", "contrast"), _blend), (("solarize", "posterize"), _change_bits),
          (("autocontrast", "equalize"), _spread_values), (("saturation",), _saturate), (("sharpness",), _sharpen))
