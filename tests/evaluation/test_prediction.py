"""Predictions of image files: what is found, read and shown, without a model."""
import csv
import io
import json
import os
import re

import numpy as np
import pytest
from PIL import Image
from rich.console import Console

from pipeline.data.sources.tfds import ExampleFormat
from pipeline.errors import UsageError
from pipeline.evaluation import prediction, prediction_figure, prediction_output, prediction_tables
from pipeline.evaluation.prediction import Prediction, border_brightness, find_files, has_dark_background, read_batches
from pipeline.preprocessing import Preprocessing
from tests.selection import quick


def sample(path, value=100, size=(8, 6)):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, (value, 20, 30)).save(path)
    return str(path)


def predictions(count, names=("tulip", "rose", "daisy"), folder="a/folder"):
    share = (0.9, 0.0975, 0.0025)
    return [Prediction(f"{folder}/{i}.png", tuple(zip(names, share, strict=True)), 0.5) for i in range(count)]


@pytest.fixture
def folder(tmp_path):
    """Files of every kind that may lie in a folder of images."""
    for name in ("b.png", "a.png", "z/deep/c.png", "z/d.png", ".hidden.png", ".cache/e.png", "results/f.png"):
        sample(tmp_path / "in" / name)
    (tmp_path / "in" / "notes").write_text("no suffix")
    os.mkfifo(tmp_path / "in" / "pipe.png")  # To read from it would never end.
    os.symlink("nowhere", tmp_path / "in" / "gone.png")
    return tmp_path / "in"


def test_files_of_a_folder_in_order(folder):
    def found(*arguments, **options):
        files, problems = find_files([str(a) for a in arguments], **options)
        assert problems == []
        return [os.path.relpath(file, folder) for file in files]

    assert found(folder) == ["a.png", "b.png", "gone.png", "notes", "results/f.png", "z/d.png", "z/deep/c.png"]
    assert found(folder, recursive=False) == ["a.png", "b.png", "gone.png", "notes"]
    assert found(folder / "z" / "d.png", folder / "z") == ["z/d.png", "z/d.png", "z/deep/c.png"]
    without = [str(folder / "results"), os.path.relpath(folder / "notes"), str(folder / "not-yet.csv")]
    assert found(folder, without=without) == ["a.png", "b.png", "gone.png", "z/d.png", "z/deep/c.png"]
    with pytest.raises(UsageError, match="no file or folder '.*/typo.png'"):
        find_files([str(folder), str(folder / "typo.png")])


def test_batches_are_full_in_order_and_read_ahead_by_two(tmp_path):
    files = [sample(tmp_path / f"{i}.png", i) for i in range(40)]
    (tmp_path / "1.png").write_text("no image")
    bad, taken = [], []
    batches = read_batches(files, Preprocessing((6, 8, 3)), 4, lambda f, why: bad.append(f))
    for number, (names, images) in enumerate(batches):
        if number == 0:
            for file in files[13:]:  # Beyond the batch that is shown and two ahead of it.
                os.remove(file)
        assert images.dtype == np.uint8 and images.shape == (len(names), 6, 8, 3)
        assert [int(image[0, 0, 0]) for image in images] == [files.index(name) for name in names]
        taken.append([files.index(name) for name in names])
    assert taken == [[0, 2, 3, 4], [5, 6, 7, 8], [9, 10, 11, 12]]
    assert bad == [files[1], *files[13:]]


@pytest.mark.parametrize("size", [(20, 20), (500, 375)])
def test_images_are_resized_as_in_tensorflow_datasets(tmp_path, size):
    pixels = np.random.RandomState(0).randint(256, size=(*size, 3)).astype(np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    wanted = Preprocessing((32, 24, 3))
    form = ExampleFormat("image", "label", size, wanted, wanted, True)
    theirs = form.decode((tmp_path / "a.png").read_bytes(), wanted).numpy()
    ((_, (ours,)),) = read_batches([str(tmp_path / "a.png")], wanted, 4, None)
    np.testing.assert_array_equal(ours, theirs)
    assert ours.std() > 2


def test_the_border_tells_a_light_background_from_a_dark_one():
    images = np.zeros((2, 5, 7, 1), np.uint8)
    images[0, 1:-1, 1:-1] = 255
    images[1, :, 0] = 255
    np.testing.assert_allclose(border_brightness(images), [0, 5 / 20])


@pytest.mark.parametrize("channels, dataset, mean, dark", [
    (1, "mnist", None, True), (1, "emnist/letters", None, True), (3, "mnist", None, False),
    (1, "folder:scans", None, False), (1, "folder:scans", 0.13, True), (1, "folder:scans", 0.9, False),
    (1, "mnist", 0.9, False)])
def test_a_dark_background_is_known_from_the_run(channels, dataset, mean, dark):
    stored = {"data": {"image_shape": [28, 28, channels]}, "config": {"dataset": dataset},
              "normalization": None if mean is None else {"mean": [mean] * channels, "deviation": [1.0] * channels}}
    assert has_dark_background(stored) is dark


@pytest.mark.parametrize("wanted, path, found", [
    (None, None, "table"), (None, "-", "table"), ("csv", None, "csv"), (None, "a.CSV", "csv"), (None, "a.json", "json"),
    ("json", "a.csv", "json"), ("table", "a.txt", "table")])
def test_the_format_comes_from_the_flag_or_the_name(wanted, path, found):
    assert prediction_output.choose_format(wanted, path) == found


def test_an_output_of_unknown_format_is_refused():
    with pytest.raises(UsageError, match="a.txt ends in neither .csv nor .json"):
        prediction_output.choose_format(None, "a.txt")


def test_incomplete_output_keeps_another_name(tmp_path):
    path, output = str(tmp_path / "out.csv"), []
    (tmp_path / "out.csv").write_text("of before")
    with pytest.raises(KeyboardInterrupt), prediction_output.output_file(path, output.append) as file:
        prediction_output.CsvWriter(file, 3).write(predictions(2))
        raise KeyboardInterrupt
    assert (tmp_path / "out.csv").read_text() == "of before"
    with open(f"{path}.partial", newline="") as file:
        assert [row[:2] for row in csv.reader(file)] == [["file", "class"], ["a/folder/0.png", "tulip"],
                                                         ["a/folder/1.png", "tulip"]]
    assert output == [f"not complete: what there is so far is in {path}.partial"]
    with prediction_output.output_file(path, output.append) as file:
        prediction_output.JsonWriter(file).close()
    assert json.loads((tmp_path / "out.csv").read_text()) == [] and os.listdir(tmp_path) == ["out.csv"]


def test_undecodable_and_special_names_are_written(tmp_path):
    name = os.fsdecode(b'caf\xe9, "1"\n[bold].png')
    one = Prediction(name, (("a,b", 0.75), ("c", 0.25)), 0.5)
    for writer, path in ((lambda file: prediction_output.CsvWriter(file, 2), tmp_path / "out.csv"),
                         (prediction_output.JsonWriter, tmp_path / "out.json")):
        with prediction_output.output_file(str(path), print) as file:
            made = writer(file)
            made.write([one])
            made.close()
    with open(tmp_path / "out.csv", encoding="utf-8", errors="surrogateescape", newline="") as file:
        assert list(csv.DictReader(file)) == [{"file": name, "class": "a,b", "probability": "0.75", "class_2": "c",
                                               "probability_2": "0.25"}]
    assert json.loads((tmp_path / "out.json").read_text()) == [{"file": name, "class": "a,b", "probability": 0.75,
        "top": [{"class": "a,b", "probability": 0.75}, {"class": "c", "probability": 0.25}]}]
    shown = terminal(120, [[one]])
    assert "caf\ufffd, \"1\"\ufffd[bold].png" in shown


def terminal(width, batches, terminal=True):
    """Returns what a table of batches looks like."""
    file = io.StringIO()
    console = Console(file=file, width=width, force_terminal=terminal, color_system=None,
                      _environ={"TERM": "xterm"})
    files = [one.file for batch in batches for one in batch]
    writer = prediction_tables.TableWriter(console, files, [name for name, _ in batches[0][0].classes], 3)
    for batch in batches:
        writer.write(batch)
    return file.getvalue()


@pytest.mark.parametrize("width", [40, 60, 80, 120])
def test_the_table_fits_the_terminal_and_has_one_header(width):
    found = predictions(7, folder="/home/somebody/images/of/this/year")
    lines = terminal(width, [found[:3], found[3:6], found[6:]]).splitlines()
    assert len(lines) == 2 + 7 and max(map(len, lines)) <= width
    assert lines[0].split()[:2] == ["file", "class"]
    for i, line in enumerate(lines[2:]):
        assert re.search(rf"{i}\.png +tulip +90\.00%", line), line
        assert "…" not in line.replace("…", "", 1)  # The path alone is cut.
        assert ("rose 9.75%" in line) == (width >= 60)
    assert ("daisy 0.25%" in lines[2]) == (width >= 80)


def test_the_table_in_a_file_is_complete_and_plain():
    long = predictions(2, folder="f" * 300)
    lines = terminal(60, [long[:1], long[1:]], terminal=False).splitlines()
    assert lines[1:] == [f"{'f' * 300}/{i}.png  tulip       90.00%  rose 9.75%  daisy 0.25%" for i in range(2)]


def test_saliency_is_bright_where_it_is_large():
    grey, saliency = np.full((40, 60, 3), 128, np.uint8), np.zeros((4, 6), np.float32)
    saliency[:2, :3] = 1
    drawn = prediction_figure.overlay(grey, saliency)
    assert drawn.shape == grey.shape and drawn.dtype == np.uint8
    assert drawn[:15, :25].mean() > 1.5 * drawn[25:, 35:].mean()
    assert len(np.unique(prediction_figure.overlay(grey, np.zeros((4, 6), np.float32)))) == 1


@pytest.mark.parametrize("count, explained, columns", quick([(1, False, 1), (5, True, 3), (10, False, 4)], 1))
def test_a_figure_has_a_cell_for_each_image(tmp_path, count, explained, columns):
    saliency = np.ones((6, 8), np.float32) if explained else None
    found = [Prediction(sample(tmp_path / f"$odd_{i}.png", 10 * i, (80, 6)), (("a class with a long name", 0.6),
                                                                          ("b", 0.4)), 0.5, saliency)
             for i in range(count)]
    prediction_figure.draw_figure(tmp_path / "figure.png", found, 1200)
    with Image.open(tmp_path / "figure.png") as image:
        width, height = image.size
        pixels = np.asarray(image.convert("RGB")).astype(int)
    cell = 150 * (prediction_figure.CELL_WIDTH * (1 + explained) + prediction_figure.BARS + 0.3)
    assert round(width / cell) == columns
    assert round(height / (150 * prediction_figure.CELL_HEIGHT)) == -(-count // columns)
    for value in range(0, 10 * count, 10):  # Each image's own colour is there.
        assert (np.abs(pixels - (value, 20, 30)).max(-1) == 0).any(), value


def test_short_names_are_below_the_common_folder():
    name_of = prediction.short_names(["a/b/1.png", "a/c/d/1.png"])
    assert (name_of("a/b/1.png"), name_of("a/c/d/1.png")) == ("b/1.png", "c/d/1.png")
    assert prediction.short_names(["a/b/1.png"])("a/b/1.png") == "1.png"


def test_files_without_the_suffix_of_an_image_are_skipped_unless_given(tmp_path):
    named = [str(tmp_path), str(tmp_path / "named.txt")]
    for path, expected in (("notes.txt", True), ("README", True), ("list.csv", True), ("inside/a.json", True),
                           ("cut.png", False), ("PHOTO.JPG", False), ("named.txt", False)):
        assert prediction.is_no_image(str(tmp_path / path), named) == expected, path
