"""Image files decoded by TensorFlow inside a SavedModel, against Pillow, which `predict` and training decode with."""
import functools
import io

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from pipeline.data import encoded_images
from pipeline.data.decode import read_image
from pipeline.preprocessing import CURRENT, EARLIER, Preprocessing
from tests.export.damaged import decode_damaged
from tests.selection import quick

HEIGHT, WIDTH = 31, 42


def sample():
    """Returns uint8 [HEIGHT, WIDTH, 4], smooth as a photograph."""
    coarse = Image.fromarray(np.random.default_rng(0).integers(0, 256, (5, 6, 4), np.uint8), "RGBA")
    return np.asarray(coarse.resize((WIDTH, HEIGHT), Image.Resampling.BICUBIC))


def kinds():
    """Returns {file name: (image, arguments of its save)}."""
    values = sample()
    colour, grey = Image.fromarray(values[..., :3]), Image.fromarray(values[..., 0])
    table = colour.quantize(20)
    found = {
        "colour.png": (colour, {}), "clear.png": (Image.fromarray(values), {}), "grey.png": (grey, {}),
        "table.png": (table, {}), "clear_table.png": (table, {"transparency": 3}),
        "clear_grey.png": (Image.merge("LA", (grey, grey.rotate(180))), {}), "bits.png": (colour.convert("1"), {}),
        "deep.png": (Image.fromarray(values[..., 0].astype(np.uint16) * 256 + 7), {}),
        "low.png": (Image.fromarray(values[..., 0].astype(np.uint16)), {}),
        **drawn_by_transparency(values[..., 3]),
        "colour.bmp": (colour, {}), "grey.bmp": (grey, {}), "table.bmp": (table, {}),
        "moving.gif": (colour, {"save_all": True, "append_images": [colour.rotate(180)]}),
        "colour.webp": (colour, {"lossless": True}),
        "moving.webp": (colour, {"lossless": True, "save_all": True, "append_images": [colour.rotate(180)]}),
        "clear_moving.webp": (Image.fromarray(values), {"lossless": True, "exact": True, "save_all": True,
                                                        "append_images": [Image.fromarray(values[::-1])]}),
        "colour.jpg": (colour, {"quality": 90}), "grey.jpg": (grey, {}),
        "fine.jpg": (colour, {"quality": 98, "subsampling": 0, "progressive": True}),
        "print.jpg": (colour.convert("CMYK"), {})}
    for number in range(1, 9):
        for order, name in (("<", "little"), (">", "big")):
            exif = Image.Exif()
            exif.endian = order
            exif[0x010F], exif[0x0112], exif[0x0132] = "maker", number, "2024:05:06 07:08:09"
            found[f"{name}_{number}.jpg"] = (colour, {"exif": exif})
    return found


def drawn_by_transparency(cover):
    """Returns images of one colour, or nearly, and of two, which `cover` uint8 [HEIGHT, WIDTH] lets through."""
    def painted(*colours):
        pixels = np.array(colours, np.uint8)[np.indices(cover.shape).sum(0) % len(colours)]
        return Image.fromarray(np.concatenate([pixels, cover[..., None]], axis=-1))

    black, grey = painted((0, 0, 0)), painted((5, 5, 5)).convert("LA")
    icon = Image.fromarray(255 * (cover > 99).astype(np.uint8))
    return {"black.png": (black, {}), "white.png": (painted((250, 255, 251)), {}), "grey_icon.png": (grey, {}),
            "blue.png": (painted((20, 30, 200), (24, 36, 208)), {}),
            "two.png": (painted((20, 30, 200), (29, 30, 200)), {}),
            "icon.png": (icon, {"transparency": 0}), "black.webp": (black, {"lossless": True}),
            "icon_table.png": (icon.convert("RGB").quantize(2), {"transparency": 1})}


@pytest.mark.parametrize("channel_counts", quick([((3,),), ((1, 3),)], 0))
def test_every_kind_of_file_is_decoded_as_pillow_does(tmp_path, channel_counts):
    files = {}
    for name, (image, arguments) in kinds().items():
        image.save(tmp_path / name, **arguments)
        files[name] = (tmp_path / name).read_bytes()
    assert files["little_5.jpg"] != files["big_5.jpg"] and b"MM\0*" in files["big_5.jpg"]
    upright = [name for name in files if name[-5] not in "5678"]  # Of others height and width change places.
    for channels in channel_counts:
        names, size = upright, (HEIGHT, WIDTH)
        found = decode([files[name] for name in names], (*size, channels))
        for name, pixels in zip(names, found, strict=True):
            np.testing.assert_array_equal(pixels, read_image(tmp_path / name, channels), err_msg=name)
    # Antialiased: always in runs begun before, now above a ratio of 3.
    for size, version in (((13, 29), EARLIER), ((10, 29), CURRENT)):
        for name, pixels in zip(files, decode(list(files.values()), (*size, 3), version), strict=True):
            lies = name[-5] in "5678" and version == CURRENT  # Its ratio is below 3.
            if not lies:
                off = np.abs(pixels.astype(int) - read_image(tmp_path / name, 3, size))
                assert off.max() <= 1 and off.mean() < 0.3, name  # Which axis Pillow begins with is its own choice.


def test_each_policy_gives_a_turned_file_the_image_of_the_upright_one():
    kept = Image.fromarray(np.kron(sample()[:24, :32, :3], np.ones((8, 8, 1), np.uint8)))  # Blocks of the transform.
    turns = {1: None, 2: Image.Transpose.FLIP_LEFT_RIGHT, 3: Image.Transpose.ROTATE_180,
             4: Image.Transpose.FLIP_TOP_BOTTOM, 5: Image.Transpose.TRANSPOSE, 6: Image.Transpose.ROTATE_90,
             7: Image.Transpose.TRANSVERSE, 8: Image.Transpose.ROTATE_270}
    contents = []
    for number, turn in turns.items():
        exif, file = Image.Exif(), io.BytesIO()
        exif[0x0112] = number
        (kept if turn is None else kept.transpose(turn)).save(file, "JPEG", exif=exif, quality=95, subsampling=0)
        contents.append(file.getvalue())
    for resize, shape in (("stretch", (40, 40, 3)), ("crop:0.8", (64, 24, 3)), ("crop:0.8", (300, 200, 3)),
                          ("pad", (24, 64, 3))):
        images = decode(contents, shape, resize=resize).astype(int)
        off = np.abs(images - images[:1]).mean()  # Of parts that begin at half a pixel; the wrong turn is 70 off.
        assert off < 8 and images.std() > 30, (resize, shape, off)


def test_policies_keep_or_change_the_aspect_ratio():
    pixels = np.zeros((100, 400, 3), np.uint8)
    pixels[25:75, 180:220] = 255  # In the middle of a wide image.
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")

    def extent(resize, shape):
        image = decode([file.getvalue()], shape, resize=resize)[0, ..., 0] > 127
        return int(image.any(axis=1).sum()), int(image.any(axis=0).sum())

    assert extent("stretch", (40, 40, 3)) == (20, 4) and extent("pad", (24, 64, 3)) == (8, 6)
    assert extent("crop:0.8", (300, 200, 3)) == (188, 151)  # Of 80x53 pixels.


def test_bicubic_overshoots_are_clipped():
    file = io.BytesIO()
    Image.fromarray(np.kron(np.indices((5, 5)).sum(0) % 2, np.full((4, 4), 255)).astype(np.uint8)).save(file, "PNG")
    smooth, sharp = (decode([file.getvalue()], (40, 40, 3), interpolation=name)[0].astype(int)
                     for name in ("bilinear", "bicubic"))
    assert sharp.min() == 0 and sharp.max() == 255 and 0 < np.abs(sharp - smooth).max() < 60


@functools.cache
def decoder(preprocessing):
    return tf.function(lambda files: encoded_images.decode(files, preprocessing), autograph=False,
                       input_signature=[tf.TensorSpec([None], tf.string)])


def decode(contents, image_shape, version=CURRENT, **options):
    return decoder(Preprocessing(image_shape, version=version, **options))(tf.constant(contents)).numpy()


def test_truncated_and_other_files_are_refused():
    file = io.BytesIO()
    Image.fromarray(sample()[..., :3]).save(file, "JPEG")
    dim = io.BytesIO()  # Of 12 bits: white may be 4095, or 65535.
    Image.fromarray(sample()[..., 0].astype(np.uint16) * 16).save(dim, "PNG")
    for content in (b"", b"no image", file.getvalue()[:-200], dim.getvalue()):
        with pytest.raises(tf.errors.InvalidArgumentError):
            decode([content], (8, 8, 3))
    assert decode(np.zeros([0], object), (8, 8, 3)).shape == (0, 8, 8, 3)


@pytest.mark.parametrize("form, place, number", [
    ("PNG", 16, (40_000).to_bytes(4, "big") * 2), ("GIF", 6, b"\xff\xff\xff\xff"),
    ("JPEG", "SOF", (40_000).to_bytes(2, "big") * 2), ("WEBP", 24, b"\xff\x7f\0\xff\x7f\0")])
def test_oversized_images_are_refused_by_their_header(form, place, number):
    file = io.BytesIO()
    image = Image.fromarray(sample()[..., :3])
    image.save(file, form, **({"save_all": True, "append_images": [image.rotate(180)]} if form == "WEBP" else {}))
    content = bytearray(file.getvalue())
    place = content.index(b"\xff\xc0") + 5 if place == "SOF" else place
    content[place:place + len(number)] = number
    with pytest.raises(tf.errors.InvalidArgumentError, match=r"the image has.*pixels; at most.*178956970"):
        decode([bytes(content)], (8, 8, 3))


def test_damaged_files_do_not_crash_the_process(tmp_path):
    done = decode_damaged(300, 0, tmp_path)  # Thousands of them in make acceptance.
    assert done["files"] == 300 and done["decoded"] > 30, done


ALIKE = {"colors": {}, "gray": {"mode": "L"}, "transparent": {"mode": "RGBA"}, "one color transparent": {
    "transparency": (7, 7, 7)}, "palette": {"mode": "P"}, "16 bits": {"mode": "I;16"}, "wider": {"width": 11}, "JPEG": {
    "format": "JPEG"}}


@pytest.mark.parametrize("preprocessing", quick([
    Preprocessing((5, 6, 3)), Preprocessing((4, 4, 1), "pad", "bicubic"), Preprocessing((9, 9, 3), "crop:0.8")], 2))
def test_files_that_are_alike_are_decoded_together_as_one_by_one(preprocessing):
    """Alone and with one of another kind among them."""
    def encoded(number, mode="RGB", width=10, format="PNG", **options):
        pixels = np.random.default_rng(number).integers(0, 256, (8, width, 3), np.uint8)
        pixels[0, 0] = 7
        if mode == "I;16":
            image = Image.fromarray((pixels[..., 0].astype(np.uint16) << 8) + 1)
        else:
            image = Image.fromarray(pixels).convert(mode)
        file = io.BytesIO()
        image.save(file, format, **options)
        return file.getvalue()

    together, one_by_one = (tf.function(function, autograph=False) for function in (
        lambda contents: encoded_images.decode_alike(contents, 8, 10, preprocessing),
        lambda contents: encoded_images.decode(contents, preprocessing)))
    for options in ALIKE.values():
        contents = tf.constant([encoded(0), encoded(1, "L"), encoded(2, **options)])
        np.testing.assert_array_equal(together(contents), one_by_one(contents))
