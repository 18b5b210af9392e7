"""Which split of a data set selects the checkpoint, and which gives the final figures."""
import numpy as np
import pytest

from pipeline.config import DataConfig
from pipeline.console import Console
from pipeline.data.load import load
from pipeline.data.splits import choose_splits
from pipeline.errors import UsageError
from pipeline.register import dataset
from tests.data.test_folder import save

PER_CLASS = {"train": 5, "val": 3, "valid": 3, "Validation": 3, "VAL": 3, "test": 2}


@pytest.fixture
def images(tmp_path):
    """Returns images(split, ...): a folder of these splits, of two classes."""
    def make(*splits):
        for split in splits:
            for label, name in enumerate(("cat", "dog")):
                for i in range(PER_CLASS[split]):
                    save(tmp_path / split / name / f"{i}.png", 100 * label + i)
        return tmp_path
    return make


def loaded(folder, own_validation=True, **options):
    return load(DataConfig(dataset=f"folder:{folder}", **options), 4, Console(quiet=True), own_validation)


def sizes(source):
    """Returns (watched split, final split, {name: examples})."""
    return source.watched.name, source.final.name, {
        split.name: split.num_examples for split in (source.train, source.validation, source.test) if split}


@pytest.mark.parametrize("parts, share, expected", [
    (("train", "test"), 0.0, ("test", "test", {"train": 10, "test": 4})),
    (("train", "test"), 0.2, ("validation", "test", {"train": 8, "validation": 2, "test": 4})),
    (("train", "val", "test"), 0.0, ("validation", "test", {"train": 10, "validation": 6, "test": 4})),
    (("train", "Validation", "test"), 0.0, ("validation", "test", {"train": 10, "validation": 6, "test": 4})),
    (("train", "VAL"), 0.0, ("validation", "validation", {"train": 10, "validation": 6})),
    (("train", "valid", "test"), 0.2, ("validation", "test", {"train": 10, "validation": 6, "test": 4})),
    (("train", "val"), 0.2, ("validation", "validation", {"train": 10, "validation": 6})),
    (("train",), 0.2, ("test", "test", {"train": 8, "test": 2})),
])
def test_a_validation_folder_selects_the_checkpoint_and_test_is_final(images, parts, share, expected):
    source = loaded(images(*parts), validation_split=share)
    assert sizes(source) == expected
    assert bool([note for note in source.notes if "nothing is held out" in note]) == (
        share > 0 and source.validation_from == "data set")


@pytest.mark.parametrize("parts, share, expected, note", [
    (("train", "val", "test"), 0.0, ("test", "test", {"train": 10, "test": 4}), "'val' is not used"),
    (("train", "val", "test"), 0.2, ("validation", "test", {"train": 8, "validation": 2, "test": 4}), "is not used"),
    (("train", "val"), 0.0, ("test", "test", {"train": 10, "test": 6}), "'val' is the test split of this run"),
    (("train", "test"), 0.0, ("test", "test", {"train": 10, "test": 4}), None),
])
def test_a_run_begun_without_it_continues_without_it(images, parts, share, expected, note):
    source = loaded(images(*parts), own_validation=False, validation_split=share)
    assert sizes(source) == expected
    assert [text for text in source.notes if "begun without" in text] == [
        text for text in source.notes if note and note in text] and bool(source.notes) == bool(note)
    own = loaded(images(*parts), validation_split=share)
    assert (own.fingerprint == source.fingerprint) == ("val" not in parts)


def test_classes_must_be_the_same_in_validation_too(images):
    folder = images("train", "val", "test")
    save(folder / "val" / "cow" / "1.png")
    with pytest.raises(UsageError, match="class 'cow' is in .*val but not in .*train: both need the same"):
        loaded(folder)


def test_two_validation_splits_are_one_too_many():
    with pytest.raises(UsageError, match="x has several validation splits, val and valid: keep one of them"):
        choose_splits("x", ["train", "val", "valid", "test"])
    assert choose_splits("x", ["train", "val", "valid"], own_validation=False) == ({"test": "valid"}, "val")


def arrays(count):
    return np.arange(count * 16, dtype=np.uint32).astype(np.uint8).reshape(count, 4, 4, 1), np.arange(count) % 2


def test_arrays_of_an_extension_may_have_a_validation_split():
    def mine(made, **options):
        dataset("arrays")(lambda: made)
        return load(DataConfig(dataset="arrays", **options), 4, console=Console(quiet=True))

    names = ["even", "odd"]
    three = mine((arrays(10), arrays(6), arrays(4), names), validation_split=0.3)
    assert sizes(three) == ("validation", "test", {"train": 10, "validation": 6, "test": 4})
    assert sizes(mine((arrays(10), arrays(6), None, names))) == ("validation", "validation",
                                                                 {"train": 10, "validation": 6})
    assert mine((arrays(10), arrays(6), None, names)).fingerprint != mine((arrays(10), arrays(6), names)).fingerprint
    with pytest.raises(UsageError, match="validation labels must be 6 whole numbers"):
        mine((arrays(10), (arrays(6)[0], [1]), arrays(4), names))
