"""Decodes images with TensorFlow's operations alone, as pipeline.data.decode does with Pillow.

Decoded pixels are the same; resized ones may differ by one level. Differences: TensorFlow decodes no TIFF files and no
BMP files of 1 or 4 bits per pixel, gives transparent pixels of GIF files no color of their own, and the EXIF
orientation is read from JPEG files alone.
"""
from collections.abc import Sequence

import tensorflow as tf

CHANNELS = (1, 3)  # Grayscale, or red, green and blue.
ORIENTATION = 0x0112
HEADER = 65_536  # Bytes of a file in which its EXIF block or color table begins.
EXIF = b"Exif\0\0"
PNG = b"\x89PNG"
DEPTH, COLORS = 24, 25  # Positions in a PNG file of the bits per value, and of the color type: 0 for grayscale.
# In a WebP file with an extended header: the position of its flags, and those for animation and transparency.
WEBP_FLAGS, ANIMATED, HAS_ALPHA = 20, 0x02, 0x10
# As in pipeline.data.decode, and for sizes in Pillow, which a SavedModel cannot call.
LEAST_OF_16_BITS, ONE_COLOR, MOST_PIXELS = 2**14, 8, 178_956_970
# Pillow's weights of red, green and blue (ITU-R 601-2), in 1/65536.
LUMA, LUMA_BITS = (19_595, 38_470, 7_471), 16


def decode(contents: tf.Tensor, image_shape: Sequence[int]) -> tf.Tensor:
    """Decodes encoded images and resizes them to one size.

    Args:
      contents: string [n], each a JPEG, PNG, BMP, GIF or WebP file; the first frame of an animation.
        Transparency is dropped; but a PNG or WebP image of one color, drawn by its transparency alone, is composited
        over white, and over black where it is light.
      image_shape: (H, W, C) with C of CHANNELS.

    Returns:
      uint8 [n, H, W, C].

    Raises:
      tf.errors.InvalidArgumentError: one is no image, is truncated, declares more than MOST_PIXELS, or is a grayscale
        PNG file of 16 bits whose white level is unknown; nothing of the batch is computed then.
    """
    return tf.map_fn(lambda content: _decode_one(content, image_shape), contents,
                     fn_output_signature=tf.TensorSpec(image_shape, tf.uint8))


def _decode_one(content, image_shape):
    height, width, channels = image_shape
    header = _header(content)
    is_bmp, is_png, is_deep = _starts_with(header, b"BM"), _starts_with(header, PNG), _is_deep(header)
    opaque_animation = _is_animated_webp(header) & (header[WEBP_FLAGS] & HAS_ALPHA == 0)
    with tf.control_dependencies([_check_size(content, header)]):
        content = tf.cond(opaque_animation, lambda: _with_alpha_flag(content, header), lambda: tf.identity(content))
    # Not with the wanted channels: BMP and GIF files support only their own. JPEG files with the transform of Pillow:
    # TensorFlow's default, the fast one, differs by up to ten levels. PNG files with their transparency, even of a
    # single color.
    pixels = tf.case(
        [(tf.io.is_jpeg(content), lambda: tf.io.decode_jpeg(content, channels=0, dct_method="INTEGER_ACCURATE")),
         (is_deep, lambda: _levels(tf.io.decode_png(content, channels=0, dtype=tf.uint16))),
         (is_png, lambda: tf.io.decode_png(content, channels=4))],
        lambda: tf.io.decode_image(content, channels=0, dtype=tf.uint8, expand_animations=False))
    pixels = _looked_up(tf.ensure_shape(pixels, [None, None, None]), header)
    pixels = tf.cond(opaque_animation, lambda: pixels[..., :3], lambda: pixels)
    pixels = _turned(pixels, _orientation(header))
    transparent = (tf.shape(pixels)[-1] == 4) & ~is_bmp
    colors = tf.cond(transparent, lambda: _laid_over(pixels), lambda: _colors(pixels))
    if channels == 1:
        weighted = tf.reduce_sum(tf.cast(colors, tf.int32) * LUMA, axis=-1, keepdims=True)
        colors = tf.cast(tf.bitwise.right_shift(weighted + 2**(LUMA_BITS - 1), LUMA_BITS), tf.uint8)
    colors = _resized(colors, [tf.shape(colors)[0], width])
    return tf.ensure_shape(_resized(colors, [height, width]), image_shape)


def _starts_with(header, mark):
    return tf.reduce_all(header[:len(mark)] == list(mark))


def _is_deep(header):
    """Returns whether a file is a grayscale PNG file of 16 bits."""
    return _starts_with(header, PNG) & (header[DEPTH] == 16) & (header[COLORS] == 0)


def _is_animated_webp(header):
    """Returns whether a file is a WebP file with the flag for animation."""
    extended = _starts_with(header, b"RIFF") & tf.reduce_all(header[8:16] == list(b"WEBPVP8X"))
    return extended & (header[WEBP_FLAGS] & ANIMATED != 0)


def _with_alpha_flag(content, header):
    """Returns a WebP file with the flag for transparency set.

    TensorFlow's kernel writes four values per pixel of an animation, into a buffer for three where the flag is missing:
    the process crashes.
    """
    flags = tf.gather([bytes([value]) for value in range(256)], header[WEBP_FLAGS] | HAS_ALPHA)
    before, after = tf.strings.substr(content, 0, WEBP_FLAGS), tf.strings.substr(content, WEBP_FLAGS + 1, -1)
    return tf.strings.join([before, flags, after])


def _check_size(content, header):
    """Returns an operation that fails where a file declares more than MOST_PIXELS, before memory is allocated.

    BMP files are not checked: they have to be as large as they declare.
    """
    def number(begin, size, order=1):  # Of bytes, the least significant one first, or with order=-1 last.
        return tf.reduce_sum(tf.cast(header[begin:begin + size][::order], tf.int64) * [256**k for k in range(size)])

    def webp():  # https://developers.google.com/speed/webp/docs/riff_container, and RFC 6386 and 9649 without a canvas.
        sizes = {b"VP8X": (number(24, 3) + 1, number(27, 3) + 1),
                 b"VP8L": (number(21, 4) % 2**14 + 1, number(21, 4) // 2**14 % 2**14 + 1)}
        return tf.case([(tf.reduce_all(header[12:16] == list(mark)), lambda size=size: size[0] * size[1])
                        for mark, size in sizes.items()], lambda: number(26, 2) % 2**14 * (number(28, 2) % 2**14))

    pixels = tf.case([
        (tf.io.is_jpeg(content), lambda: tf.reduce_prod(tf.image.extract_jpeg_shape(content, tf.int64)[:2])),
        (_starts_with(header, PNG), lambda: number(16, 4, -1) * number(20, 4, -1)),
        (_starts_with(header, b"GIF8"), lambda: number(6, 2) * number(8, 2)),
        (_starts_with(header, b"RIFF"), webp)], lambda: tf.constant(0, tf.int64))
    return tf.debugging.Assert(pixels <= MOST_PIXELS, ["the image has", pixels, "pixels; at most", MOST_PIXELS,
                                                       "are decoded"])


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


def _resized(pixels, size):
    """Resizes uint8 [h, w, c], bilinear with antialiasing, and rounds, as Pillow does with each axis."""
    values = tf.image.resize(pixels, size, method="bilinear", antialias=True)
    return tf.saturate_cast(tf.floor(values + 0.5), tf.uint8)


def _header(content):
    """Returns int32 [3 * HEADER], the first bytes of a file and zeros, so that every offset in it can be read."""
    data = tf.io.decode_raw(tf.strings.substr(content, 0, HEADER), tf.uint8)
    return tf.concat([tf.cast(data, tf.int32), tf.zeros([3 * HEADER - tf.size(data)], tf.int32)], 0)


def _looked_up(pixels, header):
    """Replaces color indices [h, w, 1] by colors [h, w, 3] in BMP files of 8 bits per pixel."""
    numbers = (header[0] == ord("B")) & (header[1] == ord("M")) & (header[28] == 8) & (tf.shape(pixels)[-1] == 1)
    begin = 14 + header[14] + 256 * header[15]
    table = tf.reshape(header[begin:begin + 4 * 256], [256, 4])  # Blue, green, red, nothing.
    colors = tf.cast(tf.reverse(table[:, :3], [1]), tf.uint8)
    return tf.cond(numbers, lambda: tf.gather(colors, tf.cast(pixels[..., 0], tf.int32)), lambda: pixels)


def _turned(pixels, number):
    """Applies an EXIF orientation, 1 to 8, to pixels [h, w, c]."""
    pixels = tf.cond(tf.reduce_any(number == [5, 6, 7, 8]), lambda: tf.transpose(pixels, [1, 0, 2]), lambda: pixels)
    pixels = tf.cond(tf.reduce_any(number == [2, 3, 6, 7]), lambda: tf.reverse(pixels, [1]), lambda: pixels)
    return tf.cond(tf.reduce_any(number == [3, 4, 7, 8]), lambda: tf.reverse(pixels, [0]), lambda: pixels)


def _orientation(header):
    """Reads the EXIF orientation of a JPEG file (Exif 2.32, section 4.6.4): a TIFF header and a table of entries.

    Returns:
      int32 scalar: 1 (upright, also where it is missing) to 8.
    """
    begins = [header[k:HEADER + k] == byte for k, byte in enumerate(EXIF)]
    found = tf.reduce_all(tf.stack(begins), axis=0) & (header[0] == 0xFF) & (header[1] == 0xD8)
    tiff = tf.argmax(found, output_type=tf.int32) + len(EXIF)
    little = header[tiff] == ord("I")

    def word(at):  # Of two bytes, in the order of the TIFF header.
        first, second = tf.gather(header, at), tf.gather(header, at + 1)
        return tf.where(little, first + 256 * second, 256 * first + second)

    table = tiff + word(tiff + tf.where(little, 4, 6))  # Below 64 KiB: the other half of the offset is 0.
    entries = table + 2 + 12 * tf.range(tf.minimum(word(table), 256))
    number = tf.reduce_max(tf.where(word(entries) == ORIENTATION, word(entries + 8), 0))
    return tf.where(tf.reduce_any(found) & (number >= 1) & (number <= 8), number, 1)
