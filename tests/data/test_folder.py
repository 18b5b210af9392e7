"""A user's own folder of images."""
import os

import numpy as np
import pytest
from PIL import Image

from pipeline.config import DataConfig
from pipeline.console import Console
from pipeline.data import folder_fingerprint
from pipeline.data.decode import UnreadableImage, read_image
from pipeline.data.load import load
from pipeline.data.stream import BatchLayout, eval_batches
from pipeline.errors import UsageError


def save(path, value=100, size=(8, 6), mode="RGB", **options):
    """Saves an image of one colour, `size` being width and height."""
    path.parent.mkdir(parents=True, exist_ok=True)
    colour = {"RGB": (value, 20, 30), "RGBA": (value, 20, 30, 255), "LA": (value, 255)}.get(mode, value)
    Image.new(mode, size, colour).save(path, **options)


@pytest.fixture
def folder(tmp_path):
    """Two classes; 10 images each in train, 4 in test."""
    for part, count in (("train", 10), ("test", 4)):
        for label, name in enumerate(("cat", "dog")):
            for i in range(count):
                save(tmp_path / part / name / f"{i}.png", 100 * label + i)
    return tmp_path


def loaded(folder, **options):
    return load(DataConfig(dataset=f"folder:{folder}", **options), 4, console=Console(quiet=True))


def pixels(split):
    batches = list(eval_batches(split, BatchLayout(4)))
    keep = np.concatenate([b["weight"] for b in batches]) > 0
    return np.concatenate([b["image"] for b in batches])[keep], np.concatenate([b["label"] for b in batches])[keep]


@pytest.mark.parametrize("memory_budget", [100, 0])
def test_images_labels_and_classes(folder, memory_budget):
    source = loaded(folder, memory_budget=memory_budget)
    assert source.class_names == ("cat", "dog") and source.num_classes == 2
    assert source.image_shape == (6, 8, 3) and source.validation is None
    images, labels = pixels(source.train)
    assert labels.tolist() == [0] * 10 + [1] * 10
    assert images[:, 0, 0].tolist() == [[100 * (i // 10) + i % 10, 20, 30] for i in range(20)]
    assert source.test.num_examples == 8 and source.test.labels.tolist() == [0] * 4 + [1] * 4
    assert bool(source.notes) == (memory_budget == 0)


def test_memory_and_streaming_give_the_same_pixels(folder):
    for name, mode, options in (("a.jpg", "RGB", {"quality": 60}), ("b.bmp", "L", {}), ("c.gif", "P", {}),
                                ("d.png", "RGBA", {}), ("e.jpg", "CMYK", {}), ("f.png", "1", {}), ("g.png", "LA", {})):
        save(folder / "train" / "cat" / name, 0 if mode == "CMYK" else 1, mode=mode, **options)
    in_memory, _ = pixels(loaded(folder, image_size=9).train)
    streamed, _ = pixels(loaded(folder, image_size=9, memory_budget=0).train)
    assert in_memory.shape == (27, 9, 9, 3)
    np.testing.assert_array_equal(in_memory, streamed)


def test_grey_images_have_one_channel(tmp_path):
    for part in ("train", "test"):
        for name in ("a", "b"):
            save(tmp_path / part / name / "1.png", 77, mode="L")
            Image.fromarray(np.full((6, 8), 77 * 256, np.uint16)).save(tmp_path / part / name / "2.png")
    source = loaded(tmp_path)
    assert source.image_shape == (6, 8, 1)
    assert np.unique(pixels(source.train)[0]).tolist() == [77]


STEPS = np.arange(256).reshape(16, 16)


@pytest.mark.parametrize("values, expected", [
    (STEPS.astype(np.uint16) * 257, STEPS), (STEPS.astype(np.uint16), STEPS), (STEPS.astype(np.int32) * 257, STEPS),
    ((STEPS / 255).astype(np.float32), STEPS), (STEPS.astype(np.float32), STEPS),
    # 10, 12 and 14 bits in 16, 24 in 32; floats that are neither shares nor levels, and no numbers.
    *((STEPS.astype(np.uint16) * factor, None) for factor in (4, 16, 64)), (STEPS.astype(np.int32) * 65536, None),
    ((STEPS / 100).astype(np.float32), None), ((STEPS / 255 - 0.1).astype(np.float32), None),
    (np.full([16, 16], np.nan, np.float32), None)])
def test_grey_values_become_levels_or_are_refused(tmp_path, values, expected):
    Image.fromarray(values).save(tmp_path / "a.tif")
    if expected is None:
        with pytest.raises(UnreadableImage, match="its grey values go from .* which white"):
            read_image(tmp_path / "a.tif", 1)
    else:
        np.testing.assert_array_equal(read_image(tmp_path / "a.tif", 1)[..., 0], expected)


@pytest.mark.parametrize("mode", ["RGBA", "LA"])
@pytest.mark.parametrize("colour, seen, ground", [(0, 0, 255), (60, 60, 255), (255, 255, 0), (200, 200, 0)])
def test_an_image_drawn_by_transparency_alone_is_composed_over_a_visible_ground(tmp_path, mode, colour, seen, ground):
    square = Image.fromarray(np.pad(np.full([8, 8], 255, np.uint8), 4))
    flat = Image.new("L", square.size, colour)
    Image.merge(mode, [*[flat] * (len(mode) - 1), square]).save(tmp_path / "a.png")
    for channels in (1, 3):
        found = read_image(tmp_path / "a.png", channels)
        assert (found[4:12, 4:12] == seen).all() and (found[:4] == ground).all() and (found[:, 12:] == ground).all()


def test_transparency_of_colour_images_is_dropped(tmp_path):
    pixels = np.random.RandomState(0).randint(256, size=(6, 8, 4)).astype(np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    np.testing.assert_array_equal(read_image(tmp_path / "a.png", 3), pixels[..., :3])
    opaque = Image.new("RGBA", (8, 6), (9, 9, 9, 255))
    opaque.save(tmp_path / "b.png")
    assert (read_image(tmp_path / "b.png", 3) == 9).all()


def test_the_treatment_of_transparency_is_in_the_fingerprint_where_it_matters(folder, monkeypatch):
    plain = loaded(folder).fingerprint
    monkeypatch.setattr(folder_fingerprint, "INTERPRETATION", "other")
    assert loaded(folder).fingerprint == plain
    save(folder / "train" / "cat" / "clear.png", mode="RGBA")
    other = loaded(folder).fingerprint
    monkeypatch.undo()
    assert loaded(folder).fingerprint != other


def test_the_exif_orientation_is_applied(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    for part in ("train", "test"):
        for name in ("a", "b"):
            save(tmp_path / part / name / "1.jpg", size=(8, 6), exif=exif)
    source = loaded(tmp_path)
    assert source.image_shape == (8, 6, 3) and pixels(source.test)[0].shape == (2, 8, 6, 3)


def test_different_sizes_need_image_size(folder):
    save(folder / "test" / "dog" / "big.png", size=(20, 30))
    with pytest.raises(UsageError, match=r"6x8.*big\.png is 30x20.*--image_size"):
        loaded(folder)
    assert loaded(folder, image_size=10).image_shape == (10, 10, 3)


def test_one_folder_with_a_validation_split(folder):
    with pytest.raises(UsageError, match="--validation_split=0.2"):
        loaded(folder / "train")
    source = loaded(folder / "train", validation_split=0.2)
    assert (source.train.num_examples, source.test.num_examples, source.validation) == (16, 4, None)
    assert np.bincount(source.test.labels).tolist() == [2, 2]
    assert source.test_from_train


def test_a_validation_split_next_to_a_test_folder(folder):
    source = loaded(folder, validation_split=0.2)
    assert [s.num_examples for s in (source.train, source.test, source.validation)] == [16, 8, 4]


def test_an_empty_class_folder_is_named(folder):
    (folder / "train" / "emu").mkdir()
    (folder / "test" / "emu").mkdir()
    (folder / "train" / "emu" / "notes.txt").write_text("none yet")
    with pytest.raises(UsageError, match="train/emu has no images"):
        loaded(folder)


def test_classes_must_agree(folder):
    save(folder / "test" / "emu" / "1.png")
    with pytest.raises(UsageError, match="class 'emu' is in .*test but not in .*train"):
        loaded(folder)


@pytest.mark.parametrize("memory_budget", [100, 0])
@pytest.mark.parametrize("damage", ["text", "empty", "cut png", "cut jpeg"])
def test_an_unreadable_image_is_named_or_skipped(folder, damage, memory_budget):
    bad = folder / "train" / "dog" / ("bad.jpg" if damage == "cut jpeg" else "bad.png")
    noise = Image.fromarray(np.random.RandomState(0).randint(0, 255, (6, 8, 3), np.uint8))
    noise.save(bad)
    content = {"text": b"no image", "empty": b"", "cut png": bad.read_bytes()[:-60],
               "cut jpeg": bad.read_bytes()[:-40]}[damage]
    bad.write_bytes(content)
    with pytest.raises(UsageError, match=rf"cannot read the image {bad}: .*--skip_unreadable"):
        loaded(folder, memory_budget=memory_budget)
    source = loaded(folder, memory_budget=memory_budget, skip_unreadable=True)
    assert source.train.num_examples == 20
    assert source.notes[0].startswith("skipped 1 unreadable image: ") and str(bad) in source.notes[0]


def test_a_class_without_a_readable_image_is_named(folder):
    save(folder / "train" / "emu" / "1.png")
    save(folder / "test" / "emu" / "1.png")
    (folder / "test" / "emu" / "1.png").write_bytes(b"nothing")
    with pytest.raises(UsageError, match="test/emu has no image that can be read"):
        loaded(folder, skip_unreadable=True)


@pytest.mark.parametrize("make, expected", [
    (lambda path: None, "no such folder"),
    (lambda path: path.mkdir(), "0 class folders"),
    (lambda path: save(path / "1.png"), "0 class folders"),
    (lambda path: save(path / "cat" / "1.png"), "1 class folders"),
], ids=["missing", "empty", "no classes", "one class"])
def test_a_folder_without_classes_is_explained(tmp_path, make, expected):
    make(tmp_path / "images")
    with pytest.raises(UsageError, match=expected):
        loaded(tmp_path / "images", validation_split=0.5)


@pytest.mark.parametrize("memory_budget", [100, 0])
def test_the_fingerprint_changes_with_a_pixel_a_name_and_a_class(folder, memory_budget):
    seen = [loaded(folder, memory_budget=memory_budget).fingerprint]
    assert loaded(folder, memory_budget=memory_budget).fingerprint == seen[0]
    save(folder / "train" / "cat" / "3.png", 251)
    seen.append(loaded(folder, memory_budget=memory_budget).fingerprint)
    os.rename(folder / "test" / "cat" / "3.png", folder / "test" / "dog" / "9.png")
    seen.append(loaded(folder, memory_budget=memory_budget).fingerprint)
    for part in ("train", "test"):
        os.rename(folder / part / "cat", folder / part / "civet")
    seen.append(loaded(folder, memory_budget=memory_budget).fingerprint)
    seen.append(loaded(folder, memory_budget=memory_budget, image_size=7).fingerprint)
    assert len(set(seen)) == 5
