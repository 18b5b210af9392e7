"""The sheet of augmented images: the images of a training, in the rows of their originals, and the command."""
import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from pipeline.augmentation import Augmentation
from pipeline.data import augment
from pipeline.data.memory import InMemory
from pipeline.data.order import example_index_array
from pipeline.data.source import Split
from pipeline.errors import UsageError
from pipeline.evaluation.augmentation_figure import draw_epochs
from tests.commands import answers

NAMES = ("rose", "tulip", "lily")


def split_of(count, shape=(8, 9, 3)):
    images = np.random.RandomState(0).randint(0, 256, (count, *shape)).astype(np.uint8)
    return Split("train", count, InMemory(images, np.arange(count) % 3))


@pytest.mark.parametrize("channels", [1, 3])
def test_a_row_is_an_example_in_the_epochs_of_a_training(channels):
    split, chain = split_of(40, (8, 9, channels)), tuple(map(Augmentation.parse, ("flip", "crop:2", "mixup:1")))
    sheet = draw_epochs(split, chain, 5, NAMES, rows=5, epochs=3)
    index = [0, 13, 26, 39]  # Five are odd, and mixing pairs them.
    assert [len(row) for row in sheet] == [4] * 4
    originals, first = split.reader.images[index], example_index_array(np.arange(4), 4, 5)
    for epoch in range(3):
        positions = np.arange(4 * epoch, 4 * epoch + 4)
        order = example_index_array(positions, 4, 5)
        images, mix = augment.apply(tf.constant(originals[order]), tf.constant(positions), 5, chain)
        for place, image, share in zip(order, images.numpy(), mix.numpy(), strict=True):
            drawn = sheet[first.tolist().index(place)][epoch + 1]
            np.testing.assert_array_equal(drawn.image, image)
            assert f"{share:.0%} {NAMES[index[place] % 3]}" in drawn.caption
    assert sorted(row[0].caption[0] for row in sheet) == sorted(NAMES[i % 3] for i in index)


def test_equal_images_have_rows_of_their_own_and_one_cannot_be_mixed():
    images = np.full((4, 8, 8, 1), 7, np.uint8)
    sheet = draw_epochs(Split("train", 4, InMemory(images, np.zeros(4, np.int32))), (Augmentation("flip", None),), 0,
                        NAMES, epochs=2)
    assert len(sheet) == 4 and all((drawn.image == 7).all() for row in sheet for drawn in row)
    with pytest.raises(UsageError, match="mixes pairs of images; the training split has 1"):
        draw_epochs(split_of(1), (Augmentation("cutmix", None),), 0, NAMES)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder of 12 photographs in 2 classes."""
    path, draws = tmp_path_factory.mktemp("sheet"), np.random.default_rng(0)
    for split in ("train", "test"):
        for number in range(6):
            file = path / "own" / split / ("rose", "tulip")[number % 2] / f"{number}.png"
            file.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(draws.integers(0, 256, (40, 60, 3), np.uint8)).save(file)
    return path


def test_the_command_draws_a_sheet_and_refuses_what_it_cannot_draw(folder):
    data = ("inspect", "--dataset=folder:own", "--image_size=32")
    found = answers([
        (*data, "--memory_budget=0", "--augment=resized_crop,erasing,mixup,cutmix:2", "--seed=3", "--plot=a.svg"),
        (*data, "--augment=flip"),
        (*data, "--plot=c.png"),
        (*data, "--augment=flip", "--plot=c.png", "--model=mlp"),
        (*data, "--augment=flip", "--plot=c.png", "--classes=3"),
        (*data, "--augment=crop:20", "--plot=c.png"),
        (*data, "--augment=flop", "--plot=c.png"),
        (*data, "--augment=flip", "--plot=c.bmp"),
    ], folder)
    drawn = (folder / "a.svg").read_text()
    for text in ("resized_crop:0.08", "erasing:0.5", "mixup:0.2", "cutmix:2", "seed 3", "32x32x3", "original",
                 "epoch 6", "rose", "% tulip"):
        assert text in drawn, text
    assert found[0][0] == 0 and "sheet: a.svg, 6 of 6 training examples" in found[0][1]
    messages = ("give the file, --plot=sheet.png", "give --augment=flip,crop", "leave out --model",
                "leave out --classes", "crop:20", "did you mean", "a file that ends in")
    for (code, out, errors), message in zip(found[1:], messages, strict=True):
        assert code == 2 and message in errors and errors.count("\n") == 1 and not out
    assert not (folder / "c.png").exists()


@pytest.mark.acceptance
def test_the_command_draws_a_part_of_a_data_set_in_memory(tmp_path):
    (code, out, _), = answers([("inspect", "--augment=flip", "--plot=b.png")], tmp_path)
    assert code == 0 and "8 of 1,437 training examples" in out
    image = np.asarray(Image.open(tmp_path / "b.png"))
    assert image.shape[0] > 1000 and image.shape[1] > 1000 and len(np.unique(image)) > 50
