"""Decodes image files inside the graph, with TensorFlow's operations alone.

Pixels are those that pipeline.data.decode reads with Pillow. Differences: TensorFlow decodes no TIFF files and no BMP
files of 1 or 4 bits per pixel, gives transparent pixels of GIF files no color of their own, and the EXIF orientation is
read from JPEG files alone; where Python can be called, such files are known before (image_index.PILLOW).
"""
import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import tensorflow as tf

from pipeline.data import resizing
from pipeline.data.encoded_header import PNG, Header, declared_size, first_bytes, read_header, starts_with, upright_size
from pipeline.data.image_index import JPEG
from pipeline.preprocessing import EARLIER, Preprocessing

STARTS = 64  # Bytes of a file that tell what has to be known of it, mostly.
CHANNELS = (1, 3)  # Grayscale, or red, green and blue.
DEPTH, COLORS = 24, 25  # Positions in a PNG file of the bits per value, and of the color type.
GRAY, RGB = 0, 2  # Color types without a palette and without a channel for transparency.
# In a WebP file with an extended header: the position of its flags, and those for animation and transparency.
WEBP_FLAGS, ANIMATED, HAS_ALPHA = 20, 0x02, 0x10
# As in pipeline.data.decode, and for sizes in Pillow, which a SavedModel cannot call.
LEAST_OF_16_BITS, ONE_COLOR, MOST_PIXELS = 2**14, 8, 178_956_970


def decode(contents: tf.Tensor, preprocessing: Preprocessing) -> tf.Tensor:
    """Decodes encoded images and makes a model's images of them.

    Args:
      contents: string [n], each a JPEG, PNG, BMP, GIF or WebP file; the first frame of an animation.
        Transparency is dropped; but a PNG or WebP image of one color, drawn by its transparency alone, is composited
        over white, and over black where it is light.
      preprocessing: its image_shape (H, W, C) has a C of CHANNELS.

    Returns:
      uint8 [n, H, W, C].

    Raises:
      tf.errors.InvalidArgumentError: one is no image, is truncated, declares more than MOST_PIXELS, or is a grayscale
        PNG file of 16 bits whose white level is unknown; nothing of the batch is computed then.
    """
    return tf.map_fn(lambda content: decode_one(content, preprocessing), contents,
                     fn_output_signature=tf.TensorSpec(preprocessing.image_shape, tf.uint8))


def decode_alike(contents: tf.Tensor, height: int, width: int, preprocessing: Preprocessing) -> tf.Tensor:
    """Returns what `decode` does, in a fifth of the time if all are opaque PNG files of one size, of 8 bits a value.

    Small images are mostly such files, and the hundreds of operations that find out what a file is cost more than
    decoding it.

    Args:
      contents: string [n].
      height, width: that size.
      preprocessing: not of an EARLIER version.
    """
    start = PNG + b"\r\n\x1a\n\0\0\0\rIHDR" + width.to_bytes(4, "big") + height.to_bytes(4, "big") + b"\x08"
    header = tf.io.decode_raw(contents, tf.uint8, fixed_length=STARTS)
    are_alike = tf.reduce_all(header[:, :COLORS] == list(start)) & tf.reduce_all(
        (header[:, COLORS] == GRAY) | (header[:, COLORS] == RGB))

    def image(content):
        pixels = tf.ensure_shape(tf.io.decode_png(content, channels=4), [height, width, 4])
        part = resizing.cut(pixels[..., :3], resizing.box_of(tf.constant(height), tf.constant(width), preprocessing))
        found = resizing.with_channels(resizing.to_size(part, preprocessing), preprocessing.image_shape[2])
        return found, tf.reduce_min(pixels[..., 3])

    def together():
        signature = tf.TensorSpec(preprocessing.image_shape, tf.uint8), tf.TensorSpec([], tf.uint8)
        images, cover = tf.map_fn(image, contents, fn_output_signature=signature)
        return tf.cond(tf.reduce_all(cover == 255), lambda: images, lambda: decode(contents, preprocessing))

    found = tf.cond(are_alike, together, lambda: decode(contents, preprocessing))
    return tf.ensure_shape(found, [None, *preprocessing.image_shape])


def decode_one(content: tf.Tensor, preprocessing: Preprocessing, header: Header | None = None,
               box: tf.Tensor | None = None, read_otherwise: Callable[[], tf.Tensor] | None = None) -> tf.Tensor:
    """Decodes one image; of a JPEG file only the part that is wanted, at 1/2, 1/4 or 1/8 where that is enough.

    Args:
      content: string scalar, see `decode`.
      preprocessing: size, channels and method.
      header: known facts of the file; default: read from its content.
      box: int32 [4] (top, left, height, width), the part that becomes the image; default: that of the preprocessing.
      read_otherwise: returns uint8 [h, w, 3], for files whose header says image_index.PILLOW.

    Returns:
      uint8 [H, W, C].
    """
    header = read_header(content) if header is None else header
    is_jpeg = tf.equal(header.decoder, JPEG)
    if preprocessing.version == EARLIER:
        pixels = tf.cond(is_jpeg, lambda: _upright_jpeg(content, header),
                         lambda: _pixels_function()(content))
        return _resized_before(pixels, preprocessing.image_shape)

    part = resizing.box_of(header.height, header.width, preprocessing) if box is None else box

    def of_jpeg():
        return _jpeg_part(content, header, part, resizing.size_of(part, preprocessing))

    def of_pixels(pixels):
        with tf.control_dependencies([check_size_of(tf.shape(pixels), header)]):
            return resizing.cut(pixels, part)

    ways = [of_jpeg, lambda: of_pixels(_pixels_function()(content))]
    if read_otherwise:
        ways.append(lambda: of_pixels(read_otherwise()))
    pixels = tf.switch_case(tf.minimum(header.decoder, len(ways) - 1), ways)
    image = resizing.to_size(pixels, preprocessing)
    return tf.ensure_shape(resizing.with_channels(image, preprocessing.image_shape[2]), preprocessing.image_shape)


def check_size_of(shape: tf.Tensor, header: Header) -> tf.Operation:
    """Returns an operation that fails where an image [height, width, ...] is not of the size that its header had."""
    # Not tf.debugging.Assert, which adds a branch of a dozen operations to spare GPUs a copy.
    return tf.raw_ops.Assert(condition=tf.equal(shape[0], header.height) & tf.equal(shape[1], header.width), data=[
        "the image is", shape, "and its header said", header.height, header.width])


def _jpeg_part(content, header, box, size):
    """Decodes a part of a JPEG file: uint8 [h, w, 3], upright, not smaller than `size` unless the part is.

    Args:
      box: int32 [4], upright.
      size: (height, width) that the part will be resized to.
    """
    ratio = resizing.ratio_of(box, size)
    window = resizing.window_of(box, ratio, header)
    checks = [_check_size(header.height, header.width),
              check_size_of(tf.stack(upright_size(content, header.orientation)), header)]
    with tf.control_dependencies(checks):
        pixels = tf.switch_case(ratio, [lambda number=number: _window(content, window, number)
                                        for number in resizing.RATIOS])
    return resizing.turned(pixels, header.orientation)


def _window(content, window, ratio):
    """Decodes a window (top, left, height, width) of a JPEG file reduced by a ratio: uint8 [h, w, 3].

    With the transform of Pillow: TensorFlow's default, the fast one, differs by up to ten levels.
    """
    return tf.image.decode_and_crop_jpeg(content, window, channels=3, ratio=ratio, dct_method="INTEGER_ACCURATE")


@dataclasses.dataclass(frozen=True)
class Shortcut:
    """How many files are decoded with a few operations each: upright JPEG files that need no antialiasing.

    Computed for a whole batch at once: fifty small operations for each image cost as much as decoding it.

    Attributes:
      way: int32 [...]: index into resizing.RATIOS, or len(RATIOS) for a file that decode_one has to decode.
      window: int32 [..., 4], what is decoded of the reduced image.
    """

    way: Any
    window: Any

    @classmethod
    def of(cls, header: Header, box: tf.Tensor, preprocessing: Preprocessing) -> "Shortcut":
        """Returns that of files by their headers (int32 [n] each) and parts, int32 [n, 4]."""
        ratio = resizing.ratio_of(box, resizing.size_of(box, preprocessing))
        window = resizing.window_of(box, ratio, header)
        size = preprocessing.image_shape[:2]
        taken = (header.decoder == JPEG) & (header.orientation == 1) & (header.height * header.width <= MOST_PIXELS)
        taken &= ~resizing.passes_over(window[..., 2], window[..., 3], size) & (preprocessing.policy != "pad")
        return cls(tf.where(taken, ratio, len(resizing.RATIOS)), window)


def decode_fast(content: tf.Tensor, shortcut: Shortcut, header: Header, preprocessing: Preprocessing,
                otherwise: Callable[[], tf.Tensor]) -> tf.Tensor:
    """Returns what decode_one does, by a shortcut where there is one, else from `otherwise`: uint8 [H, W, C]."""
    def fast():
        with tf.control_dependencies([check_size_of(tf.image.extract_jpeg_shape(content), header)]):
            pixels = tf.switch_case(shortcut.way, [lambda ratio=ratio: _window(content, shortcut.window, ratio)
                                                   for ratio in resizing.RATIOS])
        image = resizing.interpolated(pixels, preprocessing.image_shape[:2], preprocessing)
        return resizing.with_channels(image, preprocessing.image_shape[2])

    # Not inlined: the executor visits the hundreds of operations of a branch that is not taken too.
    slow = tf.function(otherwise, autograph=False, experimental_attributes={"_noinline": True})
    image = tf.cond(shortcut.way < len(resizing.RATIOS), fast, slow)
    return tf.ensure_shape(image, preprocessing.image_shape)


def _upright_jpeg(content, header):
    with tf.control_dependencies([_check_size(header.height, header.width)]):
        pixels = tf.io.decode_jpeg(content, channels=3, dct_method="INTEGER_ACCURATE")
    return resizing.turned(pixels, header.orientation)


@functools.cache
def _pixels_function():
    """Returns `_pixels` as a function that is traced once, whatever graphs call it: it has 250 operations.

    Not inlined, see decode_fast.
    """
    return tf.function(_pixels, autograph=False, input_signature=[tf.TensorSpec([], tf.string)],
                       experimental_attributes={"_noinline": True})


def _pixels(content):
    """Decodes a file that is no JPEG file: uint8 [h, w, 3]."""
    header = first_bytes(content, STARTS)
    is_bmp, is_png, is_deep = starts_with(header, b"BM"), starts_with(header, PNG), _is_deep(header)
    opaque_animation = _is_animated_webp(header) & (header[WEBP_FLAGS] & HAS_ALPHA == 0)
    with tf.control_dependencies([_check_size(*declared_size(header))]):
        content = tf.cond(opaque_animation, lambda: _with_alpha_flag(content, header), lambda: tf.identity(content))
    # Not with the wanted channels: BMP and GIF files support only their own. PNG files with their transparency, even
    # of a single color.
    pixels = tf.case(
        [(is_deep, lambda: _levels(tf.io.decode_png(content, channels=0, dtype=tf.uint16))),
         (is_png, lambda: tf.io.decode_png(content, channels=4))],
        lambda: tf.io.decode_image(content, channels=0, dtype=tf.uint8, expand_animations=False))
    pixels = tf.ensure_shape(pixels, [None, None, None])
    numbers = is_bmp & (header[28] == 8) & (tf.shape(pixels)[-1] == 1)
    pixels = tf.cond(numbers, lambda: _looked_up(pixels, first_bytes(content)), lambda: pixels)
    pixels = tf.cond(opaque_animation, lambda: pixels[..., :3], lambda: pixels)
    transparent = (tf.shape(pixels)[-1] == 4) & ~is_bmp & (tf.reduce_min(pixels[..., -1]) < 255)
    return tf.ensure_shape(tf.cond(transparent, lambda: _laid_over(pixels), lambda: _colors(pixels)), [None, None, 3])


def _is_deep(header):
    """Returns whether a file is a grayscale PNG file of 16 bits."""
    return starts_with(header, PNG) & (header[DEPTH] == 16) & (header[COLORS] == GRAY)


def _is_animated_webp(header):
    """Returns whether a file is a WebP file with the flag for animation."""
    extended = starts_with(header, b"RIFF") & tf.reduce_all(header[8:16] == list(b"WEBPVP8X"))
    return extended & (header[WEBP_FLAGS] & ANIMATED != 0)


def _with_alpha_flag(content, header):
    """Returns a WebP file with the flag for transparency set.

    TensorFlow's kernel writes four values per pixel of an animation, into a buffer for three where the flag is missing:
    the process crashes.
    """
    flags = tf.gather([bytes([value]) for value in range(256)], header[WEBP_FLAGS] | HAS_ALPHA)
    before, after = tf.strings.substr(content, 0, WEBP_FLAGS), tf.strings.substr(content, WEBP_FLAGS + 1, -1)
    return tf.strings.join([before, flags, after])


def _check_size(height, width):
    """Returns an operation that fails where a file declares more than MOST_PIXELS, before memory is allocated."""
    pixels = tf.cast(height, tf.int64) * tf.cast(width, tf.int64)
    return tf.raw_ops.Assert(condition=pixels <= MOST_PIXELS, data=["the image has", pixels, "pixels; at most",
                                                                    MOST_PIXELS, "are decoded"])


def _levels(values):
    """Converts uint16 [h, w, 1] to 8 bits where the white level is known; see pipeline.data.decode."""
    values = tf.cast(values, tf.int32)
    low, high = tf.reduce_min(values), tf.reduce_max(values)
    known = tf.debugging.Assert((high <= 255) | (high >= LEAST_OF_16_BITS), [
        "its gray values go from", low, "to", high, "and its black and white levels are unknown"])
    with tf.control_dependencies([known]):
        return tf.cast(tf.where(high <= 255, values, values // 256), tf.uint8)


def _colors(pixels):
    """Returns red, green and blue, uint8 [h, w, 3], of pixels [h, w, 1 to 4]."""
    colors = pixels[..., :tf.where(tf.shape(pixels)[-1] < 3, 1, 3)]
    return tf.broadcast_to(colors, [*tf.unstack(tf.shape(pixels)[:2]), 3])


def _laid_over(pixels):
    """Composites an image of one color, drawn by its transparency alone, over a background; else drops transparency.

    Rounds as Pillow's alpha_composite does.

    Args:
      pixels: uint8 [h, w, 4], the last channel 255 where it is opaque.

    Returns:
      uint8 [h, w, 3].
    """
    colors, cover = tf.cast(pixels[..., :3], tf.int32), tf.cast(pixels[..., 3:], tf.int32)
    seen = tf.boolean_mask(colors, cover[..., 0] > 0)
    spread = tf.reduce_max(tf.reduce_max(seen, axis=0) - tf.reduce_min(seen, axis=0))
    drawn = (tf.reduce_max(cover) - tf.reduce_min(cover) > ONE_COLOR) & (spread <= ONE_COLOR)
    background = tf.where(tf.reduce_mean(tf.cast(seen, tf.float64)) < 128, 255, 0)
    mixed = colors * cover + background * (255 - cover) + 128
    laid = tf.bitwise.right_shift(tf.bitwise.right_shift(128 * mixed, 8) + 128 * mixed, 15)
    return tf.cast(tf.where(drawn, laid, colors), tf.uint8)


def _resized_before(pixels, image_shape):
    """Resizes uint8 [h, w, 3] as Pillow does, bilinear with antialiasing, for runs that were started with it."""
    height, width, channels = image_shape
    for size in ([tf.shape(pixels)[0], width], [height, width]):  # One axis after the other, rounded between.
        values = tf.image.resize(pixels, size, method="bilinear", antialias=True)
        pixels = tf.saturate_cast(tf.floor(values + 0.5), tf.uint8)
    return tf.ensure_shape(resizing.with_channels(pixels, channels), image_shape)


def _looked_up(pixels, header):
    """Replaces color indices [h, w, 1] by colors [h, w, 3], for BMP files of 8 bits per pixel."""
    begin = 14 + header[14] + 256 * header[15]
    table = tf.reshape(header[begin:begin + 4 * 256], [256, 4])  # Blue, green, red, nothing.
    colors = tf.cast(tf.reverse(table[:, :3], [1]), tf.uint8)
    return tf.gather(colors, tf.cast(pixels[..., 0], tf.int32))


