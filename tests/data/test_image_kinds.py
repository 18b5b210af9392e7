"""Every kind of image file that Pillow writes: the same pixels wherever it is read."""
import numpy as np
import pytest
import tensorflow as tf
from PIL import Image, features

from pipeline.config import DataConfig
from pipeline.console import Console
from pipeline.data import encoded_images
from pipeline.data.image_index import GRAPH, JPEG, PILLOW
from pipeline.data.image_reader import ImageReader
from pipeline.data.load import load
from pipeline.data.stream import BatchLayout, eval_batches
from pipeline.preprocessing import Preprocessing
from tests.selection import quick

HEIGHT, WIDTH = 37, 52
MODES = {"jpg": ("L", "RGB", "CMYK"), "png": ("1", "L", "LA", "P", "RGB", "RGBA", "I;16"), "gif": ("L", "P"),
         "bmp": ("1", "L", "P", "RGB"), "webp": ("RGB", "RGBA"), "tif": ("1", "L", "RGB", "RGBA", "CMYK", "I;16"),
         "ppm": ("RGB",), "pgm": ("L",), "pbm": ("1",), "jp2": ("L", "RGB"), "avif": ("RGB",)}
MORE = {"progressive.jpg": {"progressive": True}, "fine.jpg": {"subsampling": 0, "quality": 97},
        "strong.jpg": {"quality": 20}, "lossless.webp": {"lossless": True}, "lzw.tif": {"compression": "tiff_lzw"},
        "jpeg.tif": {"compression": "jpeg"}, "interlaced.png": {"interlace": 1}, "quick.png": {"compress_level": 1}}
# What TensorFlow alone, and so the served model, cannot decode.
REFUSED = ("tif", "ppm", "pgm", "pbm", "jp2", "avif")


def sample(mode):
    rng = np.random.default_rng(0)
    coarse = Image.fromarray(rng.integers(0, 256, (6, 8, 4), np.uint8))
    coarse = coarse.resize((WIDTH, HEIGHT), Image.Resampling.BICUBIC)
    if mode == "I;16":
        return Image.fromarray(np.asarray(coarse)[..., 0].astype(np.uint16) * 256 + 31)
    return coarse if mode == "RGBA" else coarse.convert("RGB").convert(mode)


@pytest.fixture(scope="module")
def kinds(tmp_path_factory):
    """A data set with a class of files of all kinds, the same in two classes; returns (folder, their names)."""
    folder, names = tmp_path_factory.mktemp("kinds"), []
    for label in ("a", "b"):
        inside = folder / label
        inside.mkdir()
        for suffix, modes in MODES.items():
            if suffix == "avif" and not features.check("avif"):
                continue
            for mode in modes:
                names.append(f"{mode.replace(';', '')}.{suffix}")
                sample(mode).save(inside / names[-1])
        for name, options in MORE.items():
            sample("RGB").save(inside / name, **options)
            names.append(name)
        for number in range(1, 9):
            exif = Image.Exif()
            exif[0x0112] = number
            for suffix in ("jpg", "png", "webp", "tif"):
                names.append(f"turned{number}.{suffix}")
                sample("RGB").save(inside / names[-1], exif=exif)
    return folder, sorted(set(names))


@pytest.mark.parametrize("shape, resize", quick([((20, 20), "crop:0.8"), ((64, 64), "pad")], 0))
def test_every_kind_has_the_same_pixels_everywhere(kinds, shape, resize):
    folder, names = kinds
    config = DataConfig(dataset=f"folder:{folder}", image_size=shape[0], memory_budget=0, validation_split=0.5,
                        resize=resize)
    streamed = load(config, 8, Console(quiet=True))
    preprocessing = Preprocessing((*shape, 3), resize)
    assert streamed.preprocessing == preprocessing
    reader, seen = ImageReader(preprocessing), set()
    serve = tf.function(lambda content: encoded_images.decode_one(content, preprocessing), autograph=False,
                        input_signature=[tf.TensorSpec([], tf.string)])
    for split in (streamed.train, streamed.test):
        batches = [b for b in eval_batches(split, BatchLayout(16))]
        images = np.concatenate([b["image"] for b in batches])[:split.num_examples]
        decoders = split.reader.index.decoder
        for name, image, decoder in zip(split.files, images, decoders, strict=True):
            content = (folder / name).read_bytes()
            np.testing.assert_array_equal(image, reader.read(str(folder / name)), err_msg=name)
            seen.add(int(decoder))
            if decoder != PILLOW:
                np.testing.assert_array_equal(image, serve(tf.constant(content)), err_msg=name)
            elif name.rpartition(".")[2] in REFUSED:
                with pytest.raises(tf.errors.InvalidArgumentError):
                    serve(tf.constant(content))
    assert seen == {JPEG, GRAPH, PILLOW}


@pytest.mark.acceptance  # In make test test_folder has it for PNG and JPEG files.
def test_files_in_memory_are_those_of_the_stream(kinds):
    folder, _ = kinds
    found = [load(DataConfig(dataset=f"folder:{folder}", image_size=24, memory_budget=budget, validation_split=0.5), 8,
                  Console(quiet=True)) for budget in (0, 2048)]
    streams = [np.concatenate([b["image"] for b in eval_batches(source.test, BatchLayout(16))]) for source in found]
    np.testing.assert_array_equal(*streams)
    assert found[0].fingerprint == found[1].fingerprint
