"""A folder of images whose files are older than any index, and what an index says of it."""
import os

import numpy as np
from PIL import Image

from pipeline.config import DataConfig
from pipeline.console import Console
from pipeline.data.load import load

BEFORE = 1_600_000_000  # Seconds since 1970 of the last change of every file.


def save(path, value=0, form="JPEG", size=(9, 7), **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.RandomState(value).randint(0, 256, (size[1], size[0], 3)).astype(np.uint8)
    Image.fromarray(pixels).save(path, form, **options)
    os.utime(path, (BEFORE, BEFORE))


def make_images(folder):
    """Two classes, of 6 images each in train and 2 in test, and files of other kinds."""
    for part, count in (("train", 6), ("test", 2)):
        for label, name in enumerate(("ant", "bee")):
            for i in range(count):
                save(folder / "images" / part / name / f"{i}.jpg", 10 * label + i)
    ant = folder / "images" / "train" / "ant"
    save(ant / "no_suffix", 5)
    exif = Image.Exif()
    exif[0x0112] = 6
    save(ant / "deep" / "turned.jpg", 6, size=(7, 9), exif=exif)
    save(ant / "table.png", 7, "PNG")
    for name, content in (("bad.jpg", b"no image"), ("notes.txt", b"some text")):
        (ant / name).write_bytes(content)
        os.utime(ant / name, (BEFORE, BEFORE))
    return folder / "images"


def opened(folder, cache=None, **options):
    options = {"memory_budget": 0, "skip_unreadable": True, **options}
    return load(DataConfig(dataset=f"folder:{folder}", cache_dir=str(cache or folder.parent / "cache"), **options), 4,
                console=Console(quiet=True))


def described(source):
    """Returns what an index says of a source, as values that can be compared."""
    index = source.train.reader.index
    return {"fingerprint": source.fingerprint, "notes": source.notes, "shape": source.image_shape,
            "names": list(source.train.files), "paths": [path.decode() for path in index.paths().numpy()],
            **{name: getattr(index, name).tolist() for name in ("labels", "height", "width", "orientation", "decoder")}}
