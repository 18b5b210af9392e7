"""Data sets of TensorFlow Datasets that were prepared as ArrayRecord files."""
import pathlib
import shutil

import numpy as np
import pytest

from pipeline.data import damage
from pipeline.data.stream import BatchLayout, eval_batches, train_stream
from pipeline.errors import UsageError
from tests.data.numbered import TEST, TRAIN, numbers_of, prepare


@pytest.fixture(scope="module")
def array_record_dir(tmp_path_factory):
    return prepare(tmp_path_factory.mktemp("array_record"), "array_record")


def numbers(split):
    batches = eval_batches(split, BatchLayout(256))
    return np.concatenate([numbers_of(b["image"])[b["weight"].numpy() > 0] for b in batches])


def test_both_formats_have_the_same_examples(array_record_dir, load_numbered):
    assert len(list(pathlib.Path(array_record_dir).rglob("*.array_record*"))) == 14
    record, kept = load_numbered(), load_numbered(data_dir=array_record_dir)
    streamed = load_numbered(data_dir=array_record_dir, memory_budget=0)
    assert kept.fingerprint == streamed.fingerprint and kept.class_names == ("ant", "bee", "cow")
    assert (kept.train.num_examples, kept.test.num_examples) == (TRAIN, TEST)
    one, other = (numbers_of(source.train.reader.images) for source in (record, kept))
    assert sorted(one) == sorted(other) == list(range(TRAIN))
    np.testing.assert_array_equal(other, numbers(streamed.train))
    np.testing.assert_array_equal(kept.test.labels, streamed.test.reader.read_labels())


@pytest.mark.acceptance
def test_a_stream_is_shuffled_resumed_and_divided(array_record_dir, load_numbered):
    source = load_numbered(data_dir=array_record_dir, memory_budget=0, validation_split=0.1)
    held, rest = numbers(source.validation), numbers(source.train)
    assert sorted([*held, *rest]) == list(range(TRAIN))
    layout, steps = BatchLayout(90), len(rest) // 90
    batches = [numbers_of(b["image"]) for b in train_stream(source.train, layout, 3, 0).take(steps)]
    assert sorted(np.concatenate(batches)) == sorted(rest) and not np.array_equal(np.concatenate(batches), rest)
    resumed = next(iter(train_stream(source.train, layout, 3, steps - 1)))
    np.testing.assert_array_equal(numbers_of(resumed["image"]), batches[-1])


def test_a_damaged_file_is_named(array_record_dir, load_numbered, tmp_path):
    copy = shutil.copytree(array_record_dir, tmp_path / "copy")
    shard = sorted(copy.rglob("*train.array_record*"))[3]
    source = load_numbered(data_dir=str(copy), memory_budget=0)
    content = shard.read_bytes()
    shard.write_bytes(content[:len(content) // 2])
    with pytest.raises(UsageError, match=f"cannot read {shard}: "):
        load_numbered(data_dir=str(copy))
    with pytest.raises(UsageError, match=f"cannot read {shard}: .*prepare the data set again"), damage.in_words():
        numbers(source.train)
