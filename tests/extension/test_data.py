"""A user's data set: arrays become a Source, and invalid ones are a one-line error."""
import numpy as np
import pytest

from pipeline.config import DataConfig
from pipeline.console import Console
from pipeline.data.load import load
from pipeline.data.memory import InMemory
from pipeline.data.source import Source, Split
from pipeline.errors import UsageError
from pipeline.register import dataset

IMAGES, LABELS, NAMES = np.arange(20 * 24, dtype=np.uint32).astype(np.uint8).reshape(20, 4, 6, 1), np.arange(20) % 2, [
    "even", "odd"]
TRAIN, TEST = (IMAGES[:14], LABELS[:14]), (IMAGES[14:], LABELS[14:])


def found(function, **options):
    """Registers a function as a data set and loads it."""
    dataset("mine")(function)
    return load(DataConfig(dataset="mine", **options), 4, console=Console(quiet=True))


def test_arrays_become_a_source():
    source = found(lambda: (TRAIN, TEST, NAMES))
    assert (source.name, source.class_names, source.image_shape) == ("mine", ("even", "odd"), (4, 6, 1))
    assert (source.train.num_examples, source.test.num_examples, source.validation) == (14, 6, None)
    np.testing.assert_array_equal(source.test.reader.images, TEST[0])
    np.testing.assert_array_equal(source.train.labels, TRAIN[1])
    again = found(lambda: (list(TRAIN), [a.tolist() if a.ndim == 1 else a for a in TEST], tuple(NAMES)))
    assert again.fingerprint == source.fingerprint
    for other in ((TRAIN, TEST, ["odd", "even"]), ((TRAIN[0], 1 - TRAIN[1]), TEST, NAMES),
                  ((IMAGES[1:15], TRAIN[1]), TEST, NAMES)):
        assert found(lambda other=other: other).fingerprint != source.fingerprint
    assert found(lambda: (TRAIN, TEST, NAMES), validation_split=0.5).validation.num_examples == 7
    assert found(lambda: (TRAIN, TEST, NAMES), subset=1).train.num_examples == 4


def test_without_a_test_split_a_part_is_held_out():
    source = found(lambda: (TRAIN, None, NAMES), validation_split=0.25)
    assert (source.train.num_examples, source.test.num_examples, source.validation) == (10, 4, None)
    with pytest.raises(UsageError, match=r"data set mine \(.*test_data.py, line \d+\) has no test split: give --valid"):
        found(lambda: (TRAIN, None, NAMES))


def test_options_of_data_are_its_arguments():
    def sized(image_size=4, data_dir=None, augment=(), mine=3):
        assert (data_dir, augment, mine) == ("there", ("flip",), 3)
        images = np.zeros([4, image_size, image_size, 3], np.uint8)
        return (images, [0, 1, 0, 1]), (images, [0, 1, 0, 1]), NAMES

    assert found(sized, image_size=9, data_dir="there", augment=("flip",)).image_shape == (9, 9, 3)
    with pytest.raises(UsageError, match="--image_size=8: data set mine has images of 4x6; to resize them, its"):
        found(lambda: (TRAIN, TEST, NAMES), image_size=8)
    with pytest.raises(UsageError, match="data set 'mine' wants the argument size, which is no option of data"):
        found(lambda size: None)


def test_a_source_is_returned_unchanged():
    split = Split("train", 14, InMemory(*TRAIN), TRAIN[1])
    source = Source("mine", ("even", "odd"), (4, 6, 1), split, split, None, "0123")
    assert found(lambda: source) is source


@pytest.mark.parametrize("made, message", [
    (None, r"must return \(train images, .*, or a Source; found a NoneType"),
    ((TRAIN, TEST), "must return .*; found a tuple of 2"),
    ((TRAIN, TEST, "ab"), "class names must be a list of texts; found a str"),
    ((TRAIN, TEST, [0, 1]), "class names must be a list of texts; found a list of 2"),
    ((TRAIN[0], TEST, NAMES), r"train must be \(images, labels\); found uint8 \[14, 4, 6, 1\]"),
    (((TRAIN[0] / 255, TRAIN[1]), TEST, NAMES), r"train images must be uint8 \[N, height, width, channels\], at least "
                                                r"one; found float64 \[14, 4, 6, 1\]; of numbers from 0 to 1, np.rint"),
    ((TRAIN, (TEST[0][..., 0], TEST[1]), NAMES), r"test images .*; found uint8 \[6, 4, 6\]; give images\[..., None\]"),
    (((TRAIN[0][:0], TRAIN[1][:0]), TEST, NAMES), "train images must be .* at least one"),
    ((TRAIN, (TEST[0][:, :3], TEST[1]), NAMES), "train images are 4x6x1, and test images 3x6x1: all must be alike"),
    ((TRAIN, (TEST[0], TEST[1][:5]), NAMES), r"test labels must be 6 whole numbers, one an image; found int64 \[5\]"),
    ((TRAIN, (TEST[0], TEST[1] / 1), NAMES), "test labels must be 6 whole numbers"),
    ((TRAIN, (TEST[0], TEST[1] + 1), NAMES), "test labels are from 1 to 2; for 2 class names they must be from 0 to 1"),
    (((TRAIN[0], TRAIN[1] - 1), TEST, NAMES), "train labels are from -1 to 0"),
])
def test_invalid_arrays_are_one_line_errors(made, message):
    with pytest.raises(UsageError, match=rf"data set mine \(.*test_data.py, line \d+\):? {message}") as caught:
        found(lambda: made)
    assert "\n" not in str(caught.value)


def test_errors_of_the_function_are_one_line_with_their_location():
    def broken():
        return open("no/such/file.npz")

    with pytest.raises(UsageError, match=r"data set mine: .*test_data.py, line \d+: FileNotFoundError: .*file.npz"):
        found(broken)
    for name in ("digits", "folder"):
        with pytest.raises(UsageError, match=rf"data set '{name}' is built in"):
            dataset(name)(broken)
