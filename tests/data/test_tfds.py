"""Data sets of TensorFlow Datasets: found, not found, read into memory, streamed."""
import io
import os
import re
import shutil
import stat

import numpy as np
import pytest
from PIL import Image

from pipeline.config import DataConfig
from pipeline.console import Console
from pipeline.data import damage
from pipeline.data.load import load
from pipeline.data.record_stream import record_dataset
from pipeline.data.records import read_table
from pipeline.data.sources.tfds_prepare import prepared
from pipeline.data.stream import BatchLayout, eval_batches, train_stream
from pipeline.errors import UsageError
from tests.data.numbered import TEST, TRAIN, numbers_of, prepare
from tests.selection import quick


@pytest.fixture
def no_network(monkeypatch):
    """A proxy at which nobody listens."""
    for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)


def files(source):
    return source.train.reader.table.files


@pytest.mark.parametrize("memory_budget", [100, 0])
def test_images_labels_and_classes(load_numbered, memory_budget):
    source = load_numbered(memory_budget=memory_budget)
    assert source.class_names == ("ant", "bee", "cow") and source.image_shape == (4, 4, 3)
    assert (source.train.num_examples, source.test.num_examples, source.validation) == (TRAIN, TEST, None)
    batch = next(iter(eval_batches(source.test, BatchLayout(TEST))))
    assert sorted(numbers_of(batch["image"])) == list(range(TRAIN, TRAIN + TEST))
    np.testing.assert_array_equal(batch["label"], numbers_of(batch["image"]) % 3)
    assert bool(source.notes) == (memory_budget == 0)


def test_memory_and_streaming_agree_on_order_labels_and_fingerprint(load_numbered):
    kept, streamed = load_numbered(), load_numbered(memory_budget=0)
    note, = streamed.notes
    assert "7 shards" in note and "64 consecutive records" in note and "1,024 examples" in note
    assert kept.fingerprint == streamed.fingerprint
    np.testing.assert_array_equal(kept.train.labels, streamed.train.reader.read_labels())
    for one, other in zip(eval_batches(kept.train, BatchLayout(100)), eval_batches(streamed.train, BatchLayout(100)),
                          strict=True):
        np.testing.assert_array_equal(one["image"], other["image"])


def test_image_size_resizes(load_numbered):
    batch = next(iter(eval_batches(load_numbered(image_size=9, memory_budget=0).test, BatchLayout(4))))
    assert batch["image"].shape == (4, 9, 9, 3)


def test_the_fingerprint_changes_with_one_byte_and_with_one_label(numbered_dir, load_numbered, tmp_path):
    before = load_numbered(memory_budget=0).fingerprint
    tables = [prepare(tmp_path / str(label), label_of=lambda number, label=label: label if number == 2 else number % 3,
                      train=20) for label in (2, 0)]
    assert len({load_numbered(memory_budget=0, data_dir=folder).fingerprint for folder in tables}) == 2
    copy = shutil.copytree(numbered_dir, tmp_path / "copy")
    assert load_numbered(memory_budget=0, data_dir=str(copy)).fingerprint == before
    names = copy / "numbered" / "1.0.0" / "label.labels.txt"
    names.write_text(names.read_text().replace("ant", "ape"))
    assert load_numbered(memory_budget=0, data_dir=str(copy)).fingerprint != before


@pytest.mark.parametrize("memory_budget, share", quick([(100, 0.1), (0, 0.25)], 1))
def test_a_validation_split_is_stratified_disjoint_and_fixed(load_numbered, memory_budget, share):
    source = load_numbered(memory_budget=memory_budget, validation_split=share)
    parts = [np.concatenate([numbers_of(b["image"])[b["weight"].numpy() > 0]
                             for b in eval_batches(split, BatchLayout(256))])
             for split in (source.train, source.validation)]
    assert len(parts[1]) == round(TRAIN * share)
    assert sorted(np.concatenate(parts)) == list(range(TRAIN))
    assert np.ptp(np.bincount(parts[1] % 3)) <= 1
    again = load_numbered(memory_budget=100, validation_split=share)
    np.testing.assert_array_equal(numbers_of(again.validation.reader.images), parts[1])
    assert source.fingerprint == again.fingerprint


@pytest.mark.parametrize("memory_budget", [100, 0])
def test_a_subset_keeps_whole_batches_of_each_split(load_numbered, memory_budget):
    source = load_numbered(memory_budget=memory_budget, subset=2)
    assert (source.train.num_examples, source.test.num_examples) == (128, 128)
    numbers = [n for b in eval_batches(source.train, BatchLayout(128)) for n in numbers_of(b["image"])]
    assert len(set(numbers)) == 128 and max(numbers) < TRAIN
    assert np.bincount(np.array(numbers) % 3).min() > 25


def test_a_read_only_data_dir_is_enough(numbered_dir, tmp_path):
    copy = shutil.copytree(numbered_dir, tmp_path / "copy")
    for folder, _, names in os.walk(copy):
        for name in names:
            os.chmod(os.path.join(folder, name), stat.S_IRUSR)
        os.chmod(folder, stat.S_IRUSR | stat.S_IXUSR)
    before = sorted(str(path) for path in copy.rglob("*"))
    (tmp_path / "cache").write_text("a file where the cache should be: it cannot be written")
    source = load(DataConfig(dataset="numbered", data_dir=str(copy), cache_dir=str(tmp_path / "cache"),
                             memory_budget=0), 64)
    assert source.train.num_examples == TRAIN
    assert sorted(str(path) for path in copy.rglob("*")) == before


def test_the_index_is_cached_until_a_file_changes(load_numbered, tmp_path, monkeypatch):
    shard = tmp_path / os.path.basename(files(load_numbered(memory_budget=0))[0])
    shutil.copy(files(load_numbered(memory_budget=0))[0], shard)
    cache = tmp_path / "index"
    table = read_table([str(shard)], str(cache))
    assert len(os.listdir(cache)) == 1
    stamp = os.stat(shard)
    first_record_ends = int(table.offset[1])
    content = shard.read_bytes()
    with monkeypatch.context() as patch:
        patch.setattr("pipeline.data.records._walk", None)
        np.testing.assert_array_equal(read_table([str(shard)], str(cache)).offset, table.offset)
    shard.write_bytes(content[first_record_ends:] + content[:first_record_ends])
    os.utime(shard, ns=(stamp.st_atime_ns, stamp.st_mtime_ns))
    np.testing.assert_array_equal(read_table([str(shard)], str(cache)).checksum, np.roll(table.checksum, -1))
    shard.write_bytes(content[first_record_ends:])
    assert len(read_table([str(shard)], str(cache)).offset) == len(table.offset) - 1
    kept = sorted(cache.iterdir())[0]
    for path in cache.iterdir():
        path.write_bytes(b"damaged")
    assert len(read_table([str(shard)], str(cache)).offset) == len(table.offset) - 1 and kept.exists()


def test_a_damaged_shard_is_named(numbered_dir, load_numbered, tmp_path):
    copy = shutil.copytree(numbered_dir, tmp_path / "copy")
    shard = sorted((copy / "numbered" / "1.0.0").glob("*train*"))[3]
    shard.write_bytes(shard.read_bytes()[:-5])
    with pytest.raises(UsageError, match=rf"{shard} is cut short or damaged"):
        load_numbered(data_dir=str(copy))
    shard.unlink()
    with pytest.raises(UsageError, match=rf"cannot read {shard}"):
        load_numbered(data_dir=str(copy))


def test_prepared_data_sets_are_listed(numbered_dir):
    assert prepared(numbered_dir) == {"numbered": {"1.0.0": os.path.join(numbered_dir, "numbered", "1.0.0")}}
    assert prepared(os.path.join(numbered_dir, "none")) == {}


def test_a_version_can_be_requested(load_numbered):
    assert load_numbered(dataset="numbered:1.0.0").train.num_examples == TRAIN
    with pytest.raises(UsageError):
        load_numbered(dataset="numbered:9.9.9")


def test_an_unknown_name_gets_the_nearest_known_one(tmp_path, numbered_dir):
    for name, guess in (("mnits", "mnist"), ("cifar_10", "cifar10"), ("digit", "digits"), ("numbred", "numbered")):
        with pytest.raises(UsageError, match=f"unknown data set '{name}': did you mean '{guess}'.*digits, folder:PATH"):
            load(DataConfig(dataset=name, data_dir=numbered_dir), 8)
    with pytest.raises(UsageError, match="unknown data set 'what is this'"):
        load(DataConfig(dataset="what is this"), 8)


def test_missing_data_without_network_is_one_line_with_the_remedy(no_network, numbered_dir, tmp_path):
    with pytest.raises(UsageError) as error:
        load(DataConfig(dataset="mnist", data_dir=numbered_dir), 8)
    message = str(error.value)
    assert "\n" not in message and "--dataset=mnist is not in " + numbered_dir in message
    assert "which has numbered" in message and "127.0.0.1 cannot be reached" in message and "--data_dir" in message
    assert not os.path.exists(os.path.join(numbered_dir, "mnist"))
    with pytest.raises(UsageError, match="which does not exist"):
        load(DataConfig(dataset="mnist", data_dir=str(tmp_path / "none")), 8)


def test_a_data_dir_that_is_a_file_is_explained(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match="cannot be written"):
        load(DataConfig(dataset="mnist", data_dir=str(tmp_path / "file")), 8)


def test_a_set_without_image_and_label_is_refused(tmp_path):
    import tensorflow_datasets as tfds
    folder = prepare(tmp_path, other_features={"text": tfds.features.Text()}, train=20)
    with pytest.raises(UsageError, match="is not for image classification: it has the features text"):
        load(DataConfig(dataset="numbered", data_dir=folder), 8)


def test_images_of_several_sizes_need_image_size(numbered_dir, load_numbered, tmp_path):
    copy = shutil.copytree(numbered_dir, tmp_path / "copy")
    features = copy / "numbered" / "1.0.0" / "features.json"
    features.write_text(features.read_text().replace('"4"', '"-1"'))
    with pytest.raises(UsageError, match="images of several sizes: give --image_size"):
        load_numbered(data_dir=str(copy))
    assert load_numbered(data_dir=str(copy), image_size=9, memory_budget=0).image_shape == (9, 9, 3)


def test_without_a_test_split_validation_is_final_or_a_part_of_training_is_test(numbered_dir, load_numbered, tmp_path):
    copy = shutil.copytree(numbered_dir, tmp_path / "copy")
    folder = copy / "numbered" / "1.0.0"
    info = folder / "dataset_info.json"
    original = info.read_text()
    for shard in folder.glob("*-test.*"):
        shard.rename(folder / shard.name.replace("-test.", "-validation."))
    info.write_text(original.replace('"name": "test"', '"name": "validation"'))
    source = load_numbered(data_dir=str(copy))
    assert (source.validation.num_examples, source.test, source.final.name) == (TEST, None, "validation")
    before = load(DataConfig(dataset="numbered", data_dir=str(copy), cache_dir=str(tmp_path / "cache")), 64,
                  console=Console(quiet=True), own_validation=False)
    assert (before.test.num_examples, before.validation) == (TEST, None) and before.fingerprint != source.fingerprint
    info.write_text(original.replace('"name": "test"', '"name": "extra"'))
    with pytest.raises(UsageError, match="neither a test nor a validation split .*--validation_split"):
        load_numbered(data_dir=str(copy))
    source = load_numbered(data_dir=str(copy), validation_split=0.2)
    assert (source.train.num_examples, source.test.num_examples, source.validation) == (2160, 540, None)


def moving_image():
    """Returns a WebP file of three images, which TensorFlow decodes to none of the shape asked for."""
    file = io.BytesIO()
    frames = [Image.new("RGB", (4, 4), (i, 9, 9)) for i in range(3)]
    frames[0].save(file, "WEBP", save_all=True, append_images=frames[1:], lossless=True)
    return file.getvalue()


CUT = b"\x89PNG\r\n\x1a\n and no more"


@pytest.mark.parametrize("image_size, image, reason", quick(
    [(None, CUT, "PNG"), (None, moving_image(), ""), (6, CUT, "PNG")], 2))
def test_a_record_that_cannot_be_decoded_is_named(load_numbered, tmp_path, image_size, image, reason):
    folder = prepare(tmp_path / "made", image_of=lambda number: image if number == 15 else None, train=30)
    with pytest.raises(UsageError, match=f"cannot decode train of .*{reason}"):
        load_numbered(data_dir=folder, image_size=image_size)
    source = load_numbered(data_dir=folder, image_size=image_size, memory_budget=0)
    line = r"^cannot decode record (\d+) of (.*-train\.tfrecord-[^:]*): .*; prepare the data set again$"
    layout = BatchLayout(10)
    for batches in (eval_batches(source.train, layout), train_stream(source.train, layout, 0, 0).take(4)):
        with pytest.raises(UsageError, match=line) as error, damage.in_words():
            list(batches)
        assert "\n" not in str(error.value)
        number, file = re.match(line, str(error.value)).groups()
        assert image in list(record_dataset(file))[int(number)].numpy()


@pytest.mark.acceptance
def test_a_moving_image_that_is_resized_is_its_first_frame(load_numbered, tmp_path):
    folder = prepare(tmp_path / "made", image_of=lambda number: moving_image() if number == 150 else None, train=300)
    kept = load_numbered(data_dir=folder, image_size=6).train.reader.images
    streamed = load_numbered(data_dir=folder, image_size=6, memory_budget=0)
    batches = [batch["image"].numpy() for batch in eval_batches(streamed.train, BatchLayout(100))]
    np.testing.assert_array_equal(np.concatenate(batches)[:300], kept)
    assert (kept == np.array([0, 9, 9])).all(axis=(1, 2, 3)).sum() == 1


def test_a_shard_that_is_damaged_or_removed_while_it_streams_is_named(numbered_dir, load_numbered, tmp_path):
    copy = shutil.copytree(numbered_dir, tmp_path / "copy")
    source = load_numbered(data_dir=str(copy), memory_budget=0)
    shard = sorted((copy / "numbered" / "1.0.0").glob("*train*"))[3]
    content = bytearray(shard.read_bytes())
    content[len(content) // 2] ^= 1
    shard.write_bytes(bytes(content))
    for _ in range(2):
        with pytest.raises(UsageError, match=rf"^cannot decode record \d+ of {shard}: "), damage.in_words():
            list(eval_batches(source.train, BatchLayout(500)))
        shard.unlink(missing_ok=True)
