"""Image files of every format, damaged in every way that a program can make up; and a process that decodes them.

    python -m tests.export.damaged COUNT SEED: decodes files through the signature for encoded images, and prints how
    many there were and how many gave pixels, as JSON. That it comes to its end is what a test looks at.
"""
import collections
import io
import json
import sys
import zlib

import numpy as np
from PIL import Image

from tests import commands

HEADERS = 64  # Bytes at a file's beginning that half of the damage hits.
EXTREMES = (0, 1, 2, 0x7F, 0x80, 0xFF, 0x7FFF, 0xFFFF, 0x10000, 0xFFFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF)


def whole_files(height=9, width=14):
    """Returns {name: bytes} of small images in every format and mode that Pillow writes."""
    generator = np.random.RandomState(0)
    frames = [Image.fromarray(generator.randint(256, size=(height, width, 4)).astype(np.uint8)) for _ in range(3)]
    clear, colour = frames[0], frames[0].convert("RGB")
    grey, table, bits = colour.convert("L"), colour.quantize(20), colour.convert("1")
    later, opaque_later = frames[1:], [frame.convert("RGB") for frame in frames[1:]]
    exif = Image.Exif()
    exif[0x0112] = 6
    deep = Image.fromarray(generator.randint(2**16, size=(height, width)).astype(np.uint16))
    moving = {"save_all": True, "append_images": opaque_later}
    kinds = [(colour, "JPEG", {"exif": exif}), (colour, "JPEG", {"progressive": True, "quality": 95}),
             (grey, "JPEG", {}), (colour.convert("CMYK"), "JPEG", {}),
             *((image, "PNG", {}) for image in (colour, clear, grey, grey.convert("LA"), table, deep, bits)),
             (table, "PNG", {"transparency": 3}), (colour, "PNG", moving),
             (table, "GIF", {}), (table, "GIF", {"transparency": 3}), (colour, "GIF", moving),
             (colour, "BMP", {}), (grey, "BMP", {}), (table, "BMP", {}), (clear, "BMP", {}), (bits, "BMP", {}),
             (colour, "WEBP", {}), (clear, "WEBP", {}), (colour, "WEBP", {"lossless": True}),
             (clear, "WEBP", {"lossless": True}), (colour, "WEBP", {"exif": exif}), (colour, "WEBP", moving),
             (colour, "WEBP", {**moving, "lossless": True}), (clear, "WEBP", {**moving, "append_images": later}),
             (colour, "TIFF", {}), (colour, "TIFF", {"compression": "tiff_lzw"}), (colour, "AVIF", {}),
             (clear, "ICO", {"sizes": [(width, height)]}), (colour, "JPEG2000", {}), (colour, "PPM", {})]
    found = {}
    for image, form, options in kinds:
        file = io.BytesIO()
        image.save(file, form, **options)
        found[f"{len(found)} {form} {image.mode} {' '.join(sorted(options))}"] = file.getvalue()
    return found


def damaged_files(count, seed):
    """Yields the bytes of `count` files, each damaged in one to three ways."""
    files, generator = list(whole_files().values()), np.random.RandomState(seed)
    for number in range(count):
        content = files[number % len(files)]
        for _ in range((1, 1, 1, 2, 3)[generator.randint(5)]):
            how = (_cut, _flip, _flip, _overwrite, _overwrite, _splice, _repeat)[generator.randint(7)]
            content = how(bytearray(content), files[generator.randint(len(files))], generator)
        yield _with_checksums(bytes(content)) if generator.rand() < 0.7 else bytes(content)


def _place(content, generator):
    end = min(len(content), HEADERS) if generator.rand() < 0.5 else len(content)
    return generator.randint(end) if end else 0


def _cut(content, other, generator):
    return content[:generator.randint(len(content) + 1)]


def _flip(content, other, generator):
    for _ in range(generator.randint(1, 9) if content else 0):
        content[_place(content, generator)] ^= 1 << generator.randint(8)
    return content


def _overwrite(content, other, generator):
    """Puts an extreme number of 1 to 4 bytes somewhere, in either order of bytes."""
    place, size = _place(content, generator), generator.randint(1, 5)
    number = EXTREMES[generator.randint(len(EXTREMES))] % 256**size
    content[place:place + size] = number.to_bytes(int(size), ("little", "big")[generator.randint(2)])
    return content


def _splice(content, other, generator):
    """Puts one file's beginning before another's end."""
    place = _place(content, generator)
    return content[:place] + other[place if generator.rand() < 0.7 else _place(other, generator):]


def _repeat(content, other, generator):
    begin, end = sorted((_place(content, generator), _place(content, generator)))
    place = _place(content, generator)
    return content[:place] + content[begin:end] + content[place:]


def _with_checksums(content):
    """Makes the checksums of a PNG file right: without, damage to one ends at them."""
    place = content.find(b"IHDR") - 4
    while place > 0 and len(content) >= place + 8:
        end = place + 8 + int.from_bytes(content[place:place + 4], "big")
        if end + 4 > len(content):
            break
        checksum = zlib.crc32(content[place + 4:end]).to_bytes(4, "big")
        content, place = content[:end] + checksum + content[end + 4:], end + 4
    return content


def decode_damaged(count, seed, folder):
    """Decodes damaged files in a process of their own; returns what it found, and raises AssertionError if it dies."""
    process = commands.start(str(count), str(seed), cwd=folder, module="tests.export.damaged")
    found, errors = process.communicate(timeout=1800)
    assert process.returncode == 0, f"exit {process.returncode} after {count} damaged files: {errors[-800:]}"
    return json.loads(found)


def main(count, seed):
    """Decodes damaged files, in a data set: there an error ends nothing and costs little."""
    import tensorflow as tf

    from pipeline.data import encoded_images
    from pipeline.preprocessing import Preprocessing
    contents = list(damaged_files(count, seed))
    found = collections.Counter(files=len(contents))
    shapes = ((9, 14, 3), (8, 8, 1)) if count >= 1000 else ((9, 14, 3),)
    for number, shape in enumerate(shapes):
        files = tf.data.Dataset.from_tensor_slices(contents[number::len(shapes)])
        images = files.map(lambda file, shape=shape: encoded_images.decode_one(file, Preprocessing(shape)),
                           num_parallel_calls=2)
        for image in images.ignore_errors().as_numpy_iterator():
            assert image.shape == shape
            found["decoded"] += 1
    print(json.dumps(found))


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
