"""Random resized crops: what is drawn, and that files are decoded by it the same way wherever they are read."""
import io

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from pipeline.augmentation import augmentations, check_strengths
from pipeline.config import DataConfig, ExperimentConfig
from pipeline.console import Console
from pipeline.data import augment
from pipeline.data.augment.resized_crop import boxes, resized_crop
from pipeline.data.file_stream import ImageFiles
from pipeline.data.image_reader import ImageReader
from pipeline.data.load import load
from pipeline.data.stateless_random import example_seeds, fold_in
from pipeline.data.stream import BatchLayout, decoded_crop, eval_batches, image_batches, train_stream
from pipeline.errors import UsageError
from pipeline.preprocessing import Preprocessing
from tests.data.numbered import TEST, prepare

COUNT = 100_000


def drawn(height, width, least_area, count=COUNT):
    seeds = fold_in(example_seeds(3, tf.range(count, dtype=tf.int64)), 0)
    return boxes(tf.fill([count], height), tf.fill([count], width), seeds, least_area).numpy()


def test_area_ratio_and_place_are_distributed_as_inception_draws_them():
    """Of 400x400 pixels nearly every attempt fits, except large areas at ratios far from 1."""
    top, left, tall, wide = drawn(400, 400, 0.08).T
    area, ratio = tall * wide / 160_000, wide / tall
    assert 0.078 < area.min() < 0.082 and area.max() <= 1 and 0.745 < ratio.min() and ratio.max() < 1.342
    small = area < 0.7  # Every ratio fits.
    shares = np.histogram(area[small], np.linspace(0.1, 0.7, 7))[0] / (small & (area > 0.1)).sum()
    np.testing.assert_allclose(shares, 1 / 6, atol=0.005)
    logs = np.histogram(np.log(ratio[small]), np.linspace(np.log(3 / 4), np.log(4 / 3), 9))[0] / small.sum()
    np.testing.assert_allclose(logs, 1 / 8, atol=0.006)
    for place, room in ((top, 400 - tall), (left, 400 - wide)):
        assert (place >= 0).all() and (place <= room).all()
        roomy = room > 100
        shares = np.histogram(place[roomy] / (room[roomy] + 1), np.linspace(0, 1, 6))[0] / roomy.sum()
        np.testing.assert_allclose(shares, 1 / 5, atol=0.006)


def test_an_image_in_which_nothing_fits_gives_its_centre():
    top, left, tall, wide = drawn(30, 300, 1.0, 50).T  # All of its area at a ratio of 4/3 at most.
    assert set(tall) == {30} and set(wide) == {40} and set(top) == {0} and set(left) == {130}
    top, left, tall, wide = drawn(300, 30, 1.0, 50).T
    assert set(tall) == {40} and set(wide) == {30} and set(top) == {130} and set(left) == {0}
    assert drawn(1, 1, 0.08, 50).tolist() == [[0, 0, 1, 1]] * 50


def test_a_row_is_a_function_of_its_seed_alone():
    whole = drawn(375, 500, 0.08, 1000)
    seeds = fold_in(example_seeds(3, tf.range(1000, dtype=tf.int64)), 0)
    for rows in (slice(0, 1), slice(7, 20), slice(500, 999)):
        count = rows.stop - rows.start
        part = boxes(tf.fill([count], 375), tf.fill([count], 500), seeds[rows], 0.08)
        np.testing.assert_array_equal(part, whole[rows])


def test_in_memory_the_part_is_the_whole():
    ramp = np.broadcast_to(np.arange(64, dtype=np.uint8)[:, None] * 3 + np.arange(64, dtype=np.uint8), (20, 64, 64))
    images = tf.constant(np.repeat(ramp[..., None], 3, axis=-1))
    seeds = example_seeds(1, tf.range(20, dtype=tf.int64))
    found = resized_crop(images, seeds, 0.08).numpy().astype(float)
    parts = boxes(tf.fill([20], 64), tf.fill([20], 64), seeds, 0.08).numpy()
    for image, (top, left, tall, wide) in zip(found, parts, strict=True):
        rows, columns = (first + (np.arange(64) + 0.5) * side / 64 - 0.5 for first, side in ((top, tall), (left, wide)))
        expected = np.clip(rows, 0, 63)[:, None] * 3 + np.clip(columns, 0, 63)
        assert np.abs(image[..., 0] - expected).max() <= 1


@pytest.fixture
def folder(tmp_path):
    """Photographs of several sizes, kinds and orientations; red grows downwards and green to the right."""
    for part, count in (("train", 12), ("val", 4)):
        for label in ("a", "b"):
            (tmp_path / part / label).mkdir(parents=True)
            for i in range(count):
                height, width = (90 + 7 * i, 120 + 5 * i)[::1 if i % 2 else -1]
                red, green = np.meshgrid(np.linspace(0, 255, height), np.linspace(0, 255, width), indexing="ij")
                image = Image.fromarray(np.stack([red, green, np.full_like(red, 9 * i)], -1).astype(np.uint8))
                exif = Image.Exif()
                exif[0x0112] = 1 if i % 3 else 6
                kind = ("jpg", "png", "jpg", "gif", "tif", "jpg")[i % 6]
                image.save(tmp_path / part / label / f"{i}.{kind}", **({"exif": exif} if kind == "jpg" else {}))
    return tmp_path


def loaded(folder, **options):
    config = DataConfig(dataset=f"folder:{folder}", image_size=32, augment=("resized_crop:0.3", "flip"), **options)
    return load(config, 4, Console(quiet=True)), augmentations(config)


def check_part(source, chain, whole, size, worker, first):
    """A worker at a step of its own has its rows of the whole; and a flip that follows the crop is part of decoding:
    `whole`, from step 0 on, has the numbers of one that is applied to the batch."""
    assert decoded_crop(source.train, chain)[1] == 2 == len(chain)
    layout = BatchLayout(size, replicas=2, workers=2, worker=worker)
    stream = train_stream(source.train, layout, 5, first, chain[:1]).take(8)
    crop = np.concatenate([batch["image"] for batch in stream])
    positions = np.arange(size * first, size * (first + 8)).reshape(8, 2, size // 2)[:, worker].reshape(-1)
    expected, _ = augment.apply(tf.constant(crop), tf.constant(positions), 5, chain, first=1)
    np.testing.assert_array_equal(whole[positions], expected)
    assert 0 < (whole[positions] != crop).any((1, 2, 3)).sum() < len(crop)


def test_training_is_a_function_of_the_position_and_evaluation_takes_the_centre(folder):
    (source, chain), (lenient, _) = loaded(folder), loaded(folder, skip_unreadable=True)
    assert isinstance(source.train.reader, ImageFiles)  # Small enough for memory, but each epoch needs other parts.
    assert source.preprocessing.resize == "crop:0.875" and source.train.reader.training.resize == "stretch"

    def shown(source, count):
        stream = train_stream(source.train, BatchLayout(4), 5, 0, chain)
        return np.concatenate([batch["image"] for batch in stream.take(count)])

    whole = shown(source, 14)
    check_part(source, chain, whole, 4, worker=1, first=6)
    np.testing.assert_array_equal(shown(lenient, 6), whole[:24])  # Python reads the parts that the graph reads.
    assert not np.array_equal(whole[:24], whole[24:48])  # Another epoch shows other parts.
    (batch,) = eval_batches(source.validation, BatchLayout(8))
    reader = ImageReader(source.preprocessing)
    ours = np.stack([reader.read(str(folder / name)) for name in source.validation.files])
    np.testing.assert_array_equal(batch["image"], ours)
    assert 8 < ours[1, 0, :, 0].mean() < 40 and ours[1, :, 0, 1].mean() < 60  # The border is left out.


def test_evaluation_may_have_another_size_and_policy(folder):
    source, _ = loaded(folder, eval_image_size=48, resize="pad", interpolation="bicubic")
    assert source.preprocessing == Preprocessing((48, 48, 3), "pad", "bicubic")
    assert image_batches(source.validation, 8).as_numpy_iterator().next()[0].shape == (8, 48, 48, 3)
    assert train_stream(source.train, BatchLayout(4), 0, 0).element_spec["image"].shape == (4, 32, 32, 3)


@pytest.mark.parametrize("values, reason", [
    ({"augment": ("flip", "resized_crop")}, "resized_crop is part of decoding, and comes first"),
    ({"resize": "crop:0"}, "--resize=crop:0: give stretch, crop"), ({"resize": "crop:1.5"}, "--resize=crop:1.5"),
    ({"resize": "centre"}, "--resize=centre"), ({"interpolation": "nearest"}, "--interpolation"),
    ({"augment": ("resized_crop:2",)}, "from 0.01 to 1")])
def test_bad_values_are_one_line(values, reason):
    with pytest.raises(UsageError, match=reason):
        check_strengths(ExperimentConfig.from_flat(values).data.augment)


@pytest.mark.parametrize("name, value", [("resize", "pad"), ("eval_image_size", 40), ("interpolation", "bicubic")])
def test_options_about_files_are_refused_where_there_are_none(name, value):
    with pytest.raises(UsageError, match=f"^--{name}={value}: data set digits has no image files, but arrays of 28x28"):
        load(DataConfig(**{name: value}), 4, Console(quiet=True))


def test_a_file_larger_than_wanted_is_reduced_while_decoding(tmp_path):
    """By its transform: of 400x400 at 1/8 remain 50x50, whose pixels are means of 8x8."""
    blocks = np.random.default_rng(0).integers(0, 256, (50, 50, 3), np.uint8)
    file = io.BytesIO()
    Image.fromarray(np.kron(blocks, np.ones((8, 8, 1), np.uint8))).save(file, "JPEG", quality=100, subsampling=0)
    (tmp_path / "a.jpg").write_bytes(file.getvalue())
    found = ImageReader(Preprocessing((50, 50, 3))).read(str(tmp_path / "a.jpg"))
    assert np.abs(found.astype(int) - blocks).max() <= 6


def test_records_are_cropped_by_position_too(tmp_path):
    """A data set of TensorFlow Datasets with JPEG and PNG images of several sizes: as files of a folder are."""
    contents = {}

    def encoded(number):
        height, width = (40 + number % 7, 60 + number % 11)[::1 if number % 2 else -1]
        red, green = np.meshgrid(np.linspace(0, 255, height), np.linspace(0, 255, width), indexing="ij")
        file = io.BytesIO()
        pixels = np.stack([red, green, np.full_like(red, number % 256)], -1).astype(np.uint8)
        Image.fromarray(pixels).save(file, ("JPEG", "PNG")[number % 3 == 0])
        contents[number] = file.getvalue()
        return file.getvalue()

    prepare(tmp_path, image_of=encoded, train=90, size=(None, None))
    config = DataConfig(dataset="numbered", data_dir=str(tmp_path), image_size=16, cache_dir=str(tmp_path / "cache"),
                        augment=("resized_crop:0.3", "flip"))
    source = load(config, 5, Console(quiet=True))
    assert source.preprocessing.resize == "crop:0.875" and source.train.reader.crops
    assert any("an image differs between epochs" in note and "shuffled by blocks" in note for note in source.notes)

    stream = train_stream(source.train, BatchLayout(6), 5, 0, augmentations(config))
    whole = np.concatenate([batch["image"] for batch in stream.take(20)])
    check_part(source, augmentations(config), whole, 6, worker=0, first=8)
    assert whole[:90].std(axis=(1, 2))[:, :2].min() > 5 and len(np.unique(whole[:90], axis=0)) == 90
    batches, reader, expected = eval_batches(source.test, BatchLayout(150)), ImageReader(source.preprocessing), []
    for number in range(90, 90 + TEST):
        (tmp_path / "one").write_bytes(contents[number])
        expected.append(reader.read(str(tmp_path / "one")))
    found, expected = np.concatenate([batch["image"] for batch in batches]), np.stack(expected)
    np.testing.assert_array_equal(np.unique(found, axis=0), np.unique(expected, axis=0))  # In an order of its own.
