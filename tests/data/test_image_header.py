"""Headers of image files without decoding them, and what decodes each kind of file to the pixels of Pillow."""
import io
import struct
import warnings
import zlib

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image, JpegImagePlugin

from pipeline.data import encoded_images, jpeg_header
from pipeline.data.decode import orientation_of, read_image
from pipeline.data.image_header import read_header
from pipeline.data.image_index import GRAPH, JPEG, PILLOW
from pipeline.preprocessing import Preprocessing

HEIGHT, WIDTH = 21, 34
VALUES = np.asarray(Image.fromarray(np.random.default_rng(0).integers(0, 256, (4, 5, 4), np.uint8), "RGBA").resize(
    (WIDTH, HEIGHT), Image.Resampling.BICUBIC))
COLOUR, GREY = Image.fromarray(VALUES[..., :3]), Image.fromarray(VALUES[..., 0])
TURNED = Image.Exif()
TURNED[0x0112] = 6


def encoded(image, form, **options):
    file = io.BytesIO()
    image.save(file, form, **options)
    return file.getvalue()


def changed(content, mark, shift, new):
    """Returns a file with bytes behind a mark replaced."""
    place = content.index(mark) + shift
    return content[:place] + new + content[place + len(new):]


def png(depth, kind, *chunks):
    """Returns a PNG file of a depth and color type, of random pixels, with more chunks [(name, body)]."""
    channels = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}[kind]
    row = -(-WIDTH * channels * depth // 8)
    pixels = np.random.default_rng(1).integers(0, 256, (HEIGHT, 1 + row), np.uint8)
    pixels[:, 0] = 0

    def chunk(name, body):
        return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))

    table = [(b"PLTE", bytes(range(3 * min(2**depth, 64))) * 4)] if kind == 3 else []
    table = [(name, body[:3 * 2**depth]) for name, body in table]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*c) for c in [
        (b"IHDR", struct.pack(">IIBBBBB", WIDTH, HEIGHT, depth, kind, 0, 0, 0)), *table, *chunks,
        (b"IDAT", zlib.compress(pixels.tobytes())), (b"IEND", b"")])


def files():
    """Returns {name: (content, expected decoder)}; None: either, as long as the pixels are those of Pillow."""
    plain = encoded(COLOUR, "JPEG")
    xmp = b'http://ns.adobe.com/xap/1.0/\0<x tiff:Orientation="8"/>'
    found = {
        "plain.jpg": (plain, JPEG), "grey.jpg": (encoded(GREY, "JPEG"), JPEG),
        "progressive.jpg": (encoded(COLOUR, "JPEG", progressive=True, quality=95, subsampling=0), JPEG),
        "turned.jpg": (encoded(COLOUR, "JPEG", exif=TURNED), JPEG),
        "several.jpg": (encoded(COLOUR, "MPO", save_all=True, append_images=[COLOUR]), JPEG),
        "tail.jpg": (plain + bytes(3000), JPEG),
        "xmp.jpg": (b"\xff\xd8\xff\xe1" + (len(xmp) + 2).to_bytes(2, "big") + xmp + plain[2:], JPEG),
        "broken_exif.jpg": (encoded(COLOUR, "JPEG", exif=b"Exif\0\0II*\0\xff\xff\xff\xff"), JPEG),
        "rgb.jpg": (encoded(COLOUR, "JPEG", keep_rgb=True), PILLOW),
        "print.jpg": (encoded(COLOUR.convert("CMYK"), "JPEG"), PILLOW),
        "junk.jpg": (plain[:2] + b"\xff" + plain[2:], PILLOW),
        "colour.png": (encoded(COLOUR, "PNG"), GRAPH), "clear.png": (encoded(Image.fromarray(VALUES), "PNG"), GRAPH),
        "clear_grey.png": (encoded(Image.merge("LA", (GREY, GREY.rotate(180))), "PNG"), GRAPH),
        "table.png": (encoded(COLOUR.quantize(20), "PNG"), GRAPH),
        "clear_table.png": (encoded(COLOUR.quantize(20), "PNG", transparency=3), GRAPH),
        "grey.png": (encoded(GREY, "PNG"), GRAPH), "bits.png": (encoded(GREY.convert("1"), "PNG"), GRAPH),
        "turned.png": (encoded(COLOUR, "PNG", exif=TURNED), PILLOW),
        "deep.png": (encoded(Image.fromarray(VALUES[..., 0].astype(np.uint16) * 256 + 7), "PNG"), GRAPH),
        "moving.png": (encoded(COLOUR, "PNG", save_all=True, append_images=[COLOUR.rotate(180)]), PILLOW),
        "deep_colour.png": (png(16, 2), PILLOW), "deep_clear.png": (png(16, 6), PILLOW),
        "deep_grey_clear.png": (png(16, 4), PILLOW), "key.png": (png(8, 2, (b"tRNS", b"\0\7\0\7\0\7")), GRAPH),
        "grey_key.png": (png(8, 0, (b"tRNS", b"\0\7")), GRAPH), "bit_key.png": (png(1, 0, (b"tRNS", b"\0\1")), PILLOW),
        **{f"grey_{depth}.png": (png(depth, 0), GRAPH) for depth in (1, 2, 4)},
        **{f"table_{depth}.png": (png(depth, 3), GRAPH) for depth in (1, 2, 4, 8)},
        "still.gif": (encoded(COLOUR, "GIF"), GRAPH), "grey.gif": (encoded(GREY, "GIF"), GRAPH),
        "clear.gif": (encoded(COLOUR.quantize(20), "GIF", transparency=3), PILLOW),
        "interlaced.gif": (encoded(COLOUR, "GIF", interlace=True), None),
        "colour.bmp": (encoded(COLOUR, "BMP"), GRAPH), "grey.bmp": (encoded(GREY, "BMP"), GRAPH),
        "table.bmp": (encoded(COLOUR.quantize(20), "BMP"), GRAPH),
        "bits.bmp": (encoded(GREY.convert("1"), "BMP"), PILLOW),
        "clear.bmp": (encoded(Image.fromarray(VALUES), "BMP"), None),
        "down.bmp": (changed(encoded(COLOUR, "BMP"), b"BM", 22, (-HEIGHT).to_bytes(4, "little", signed=True)), None),
        "lossless.webp": (encoded(COLOUR, "WEBP", lossless=True), GRAPH),
        "lossy.webp": (encoded(COLOUR, "WEBP"), GRAPH),
        "clear.webp": (encoded(Image.fromarray(VALUES), "WEBP", lossless=True, exact=True), GRAPH),
        "turned.webp": (encoded(COLOUR, "WEBP", exif=TURNED), PILLOW),
        "moving.webp": (encoded(COLOUR, "WEBP", save_all=True, append_images=[COLOUR.rotate(180)]), PILLOW),
        "colour.tif": (encoded(COLOUR, "TIFF"), PILLOW), "colour.ppm": (encoded(COLOUR, "PPM"), PILLOW),
        "colour.avif": (encoded(COLOUR, "AVIF"), PILLOW), "colour.jp2": (encoded(COLOUR, "JPEG2000"), PILLOW)}
    return found


def test_each_kind_of_file_has_a_decoder_with_the_pixels_of_pillow(tmp_path):
    graph = []
    for name, (content, expected) in files().items():
        (tmp_path / name).write_bytes(content)
        header = read_header(str(tmp_path / name))
        turned = header.orientation in (5, 6, 7, 8)
        assert (header.height, header.width) == ((WIDTH, HEIGHT) if turned else (HEIGHT, WIDTH)), name
        assert header.decoder == expected or expected is None, name
        assert header.orientation == {"turned": 6, "xmp": 8}.get(name.split(".")[0], 1), name
        graph += [name] if header.decoder == GRAPH else []
    for channels in (1, 3):
        to = Preprocessing((HEIGHT, WIDTH, channels))
        decode = tf.function(lambda file, to=to: encoded_images.decode(file, to), autograph=False)
        found = decode(tf.constant([files()[name][0] for name in graph]))
        for name, pixels in zip(graph, found.numpy(), strict=True):
            np.testing.assert_array_equal(pixels, read_image(str(tmp_path / name), channels), err_msg=name)


def test_a_jpeg_header_is_that_of_pillow_or_left_to_it():
    """Files with bytes of their headers changed at random."""
    exif = Image.Exif()
    exif[0x010F], exif[0x0112], exif[0x0132] = "maker", 6, "2024:05:06 07:08:09"
    known = 0
    for seed, content in enumerate(3 * [encoded(COLOUR, "JPEG", exif=exif), encoded(GREY, "JPEG"),
                                        encoded(COLOUR, "JPEG", exif=TURNED, progressive=True, comment=b"by hand")]):
        draw = np.random.default_rng(seed)
        for _ in range(150):
            file = bytearray(content)
            for place in draw.integers(2, 200, draw.integers(1, 3)):
                file[place] = draw.choice([0, 1, 2, 3, 6, 8, 0xC1, 0xDA, 0xE1, 0xFF, draw.integers(256)])
            found = jpeg_header.parse(lambda offset, count, file=file: bytes(file[offset:offset + count]))
            if found is None:
                continue
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                try:
                    image = JpegImagePlugin.JpegImageFile(io.BytesIO(file))
                except SyntaxError as error:
                    assert "quantization table" in str(error)  # Damage that decoding finds, as that of pixels.
                    continue
                orientation = orientation_of(image)
            assert (found.height, found.width, found.components) == (image.height, image.width, image.layers)
            assert found.orientation in (None, orientation if orientation in range(1, 9) else 1)
            known += found.orientation is not None
    assert known > 300


@pytest.mark.parametrize("size", [20_000, 60_000])
def test_headers_longer_than_what_is_read_at_once_are_found(size):
    comment = b"\xff\xfe" + size.to_bytes(2, "big") + bytes(size - 2)
    content = encoded(COLOUR, "JPEG", exif=TURNED)
    for file in (content[:2] + comment + content[2:], content[:2] + 4 * comment + content[2:]):
        asked = []
        found = jpeg_header.parse(lambda offset, count, file=file, asked=asked: (
            asked.append(count), file[offset:offset + count])[1])
        assert (found.height, found.width, found.orientation) == (HEIGHT, WIDTH, 6)
        assert sum(asked) < 8 * 16_384
