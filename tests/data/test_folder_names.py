"""Folders of images as they come: what counts as an image, as a class and as a split, whatever its name."""
import json
import os
import socket
import unicodedata

import numpy as np
import pytest
from PIL import Image

from pipeline.config import DataConfig
from pipeline.console import Console
from pipeline.data.load import load
from pipeline.errors import UsageError
from tests.commands import answers

ACCENTED = "café"
NFC, NFD = (unicodedata.normalize(form, ACCENTED) for form in ("NFC", "NFD"))


def save(path, value=0, form="PNG"):
    os.makedirs(os.path.dirname(path), exist_ok=True)
    Image.new("RGB", (6, 5), (value, 50, 90)).save(path, form)


def loaded(folder, **options):
    return load(DataConfig(dataset=f"folder:{folder}", **options), 4, console=Console(quiet=True))


@pytest.fixture
def folder(tmp_path):
    """Two classes, four images each in train and two in test."""
    for part, count in (("train", 4), ("test", 2)):
        for name in ("ant", "bee"):
            for i in range(count):
                save(tmp_path / "images" / part / name / f"{i}.png", i)
    return tmp_path / "images"


def test_images_of_every_suffix_and_in_subfolders_are_found_and_other_files_reported(folder):
    before = loaded(folder)
    assert before.notes == ()
    ant = folder / "train" / "ant"
    for name, form in (("a.JPG", "JPEG"), ("b.jfif", "JPEG"), ("c.jpe", "JPEG"), ("d.avif", "AVIF"), ("e", "PNG"),
                       ("f.image", "WEBP"), ("g.ppm", "PPM"), ("deep/er/h.png", "PNG"), ("g", "TIFF")):
        save(ant / name, form=form)
    counted = loaded(folder)
    assert counted.train.num_examples == before.train.num_examples + 9 and counted.fingerprint != before.fingerprint
    assert "train/ant/deep/er/h.png" in counted.train.files and counted.notes == ()
    for name in ("notes.txt", "more.txt", "photo.cr2"):
        (ant / name).write_bytes(b"II*\0 or whatever else")
    os.mkfifo(ant / "pipe.png")
    again = loaded(folder)
    assert again.fingerprint == counted.fingerprint
    assert again.notes == ("left out 4 files that are no images (2 .txt, 1 .cr2, 1 .png), such as "
                           "train/ant/more.txt",)


def test_files_of_operating_systems_are_ignored(folder):
    before = loaded(folder)
    for name in (".hidden/1.png", "__MACOSX/1.png", "@eaDir/1.png", "$RECYCLE.BIN/1.png", ".ipynb_checkpoints/1.png"):
        save(folder / "train" / name)
        save(folder / "train" / "ant" / name)
        save(folder / name)
    for name in ("Thumbs.db", ".DS_Store", "._0.png", "desktop.ini"):
        (folder / "train" / "bee" / name).write_text("nothing")
    (folder / "train" / "ant" / "itself").symlink_to("itself")
    (folder / "train" / "itself").symlink_to("itself")
    (folder / "train" / "ant" / "above").symlink_to("..", target_is_directory=True)
    (folder / "train" / "ant" / "above").unlink()
    (folder / "train" / "ant" / "again").symlink_to(".", target_is_directory=True)
    after = loaded(folder)
    assert after.fingerprint == before.fingerprint
    assert after.notes == ("left out 1 file that is no image (1 without suffix), such as train/ant/itself",)


@pytest.mark.parametrize("memory_budget", [100, 0])
def test_unreadable_files_are_named_or_skipped_without_waiting(folder, memory_budget):
    bee = folder / "train" / "bee"
    (bee / "empty.png").write_bytes(b"")
    (bee / "dangling.png").symlink_to("gone.png")
    (bee / "itself.png").symlink_to("itself.png")
    (bee / "text.png").write_text("no image")
    os.mkfifo(bee / "pipe.png")
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(bee / "socket"))
        with pytest.raises(UsageError, match=f"cannot read the image {bee}/dangling.png: no such file.*and 3 more"):
            loaded(folder, memory_budget=memory_budget)
        source = loaded(folder, memory_budget=memory_budget, skip_unreadable=True)
    assert source.train.num_examples == 8
    assert [note for note in source.notes if note.startswith("skipped 4 unreadable images: ")]


@pytest.mark.parametrize("train, test", [("Train", "Test"), ("TRAIN", "TEST"), ("train", "Test")])
def test_splits_are_found_in_any_case(folder, train, test):
    (folder / "train").rename(folder / "part")
    (folder / "part").rename(folder / train)
    (folder / "test").rename(folder / test)
    source = loaded(folder)
    assert (source.class_names, source.train.num_examples, source.test.num_examples) == (("ant", "bee"), 8, 4)


def test_a_class_may_be_called_train_and_folders_next_to_splits_are_reported(folder, tmp_path):
    for name in ("bus", "train", "test"):
        for i in range(4):
            save(tmp_path / "vehicles" / name / f"{i}.png", i)
    source = loaded(tmp_path / "vehicles", validation_split=0.25)
    assert source.class_names == ("bus", "test", "train") and source.notes == ()
    save(folder / "labels" / "1.png")
    assert loaded(folder).notes == ("not read, since they are next to 'train': labels",)


def test_class_names_are_equal_however_their_letters_are_composed(folder):
    assert NFC != NFD
    for part, name in (("train", NFC), ("test", NFD)):
        (folder / part / "bee").rename(folder / part / name)
    source = loaded(folder)
    assert source.class_names == ("ant", NFC) and source.test.labels.tolist() == [0, 0, 1, 1]


@pytest.mark.parametrize("one, other", [(NFC, NFD), ("Bird", "bird")])
def test_similar_class_names_are_reported(folder, one, other):
    for part in ("train", "test"):
        for name in (one, other):
            save(folder / part / name / "1.png")
    source = loaded(folder)
    assert source.num_classes == 4 and len(source.notes) == 1 and "differ only in case or in how" in source.notes[0]


def test_the_only_image_of_a_class_cannot_be_held_out(folder, tmp_path):
    for name in "abcde":
        save(tmp_path / "single" / name / "1.png")
    with pytest.raises(UsageError, match="--validation_split=0.4 holds out 2 of 5 .*at least two examples of a class"):
        loaded(tmp_path / "single", validation_split=0.4)
    for name in "fg":
        for i in range(5):
            save(tmp_path / "single" / name / f"{i}.png", i)
    note, = loaded(tmp_path / "single", validation_split=0.5).notes
    assert note.startswith("no example to train on of ") and "such as '" in note


def test_a_folder_without_permission_is_named(folder, monkeypatch):
    real = os.open  # Permissions do not stop root, whom tests may run as.

    def refused(path, *arguments, **named):
        if str(path).endswith("train/bee"):
            raise PermissionError(13, "Permission denied", str(path))
        return real(path, *arguments, **named)

    monkeypatch.setattr(os, "open", refused)
    with pytest.raises(UsageError, match="cannot read the folder .*train/bee.*: permission denied"):
        loaded(folder)


def test_class_names_survive_everywhere(tmp_path):
    names = [b"caf\xe9", "naïve, \"quoted\"".encode(), "猫 🐈".encode()]
    shown = ["caf\\xe9", "naïve, \"quoted\"", "猫 🐈"]
    for part, count in (("train", 6), ("test", 2)):
        for label, name in enumerate(names):
            for i in range(count):
                path = os.path.join(os.fsencode(tmp_path), b"images", part.encode(), name, b"\xff%d.png" % i)
                save(os.fsdecode(path), 100 * label + i)
    found = answers([("train", "--dataset=folder:images", "--model=mlp", "--batch_size=6", "--epochs=1",
                      "--workdir=run", "--learning_rate=1e-3"),
                     ("evaluate", "--workdir=run"),
                     ("predict", "--workdir=run", "images/test", "--output=out.json", "--top=0")], tmp_path)
    assert [code for code, *_ in found] == [0, 0, 0], found
    config = json.loads((tmp_path / "run" / "config.json").read_text())
    assert config["data"]["class_names"] == shown
    report = (tmp_path / "run" / "report" / "report.json").read_text()
    assert [one for one in shown if json.dumps(one) not in report and json.dumps(one, ensure_ascii=False) not in report
            ] == []
    predicted = json.loads((tmp_path / "out.json").read_text())
    assert len(predicted) == 6 and all(one in json.dumps(predicted, ensure_ascii=False) for one in ("naïve", "猫 🐈"))
    assert np.isfinite(json.loads((tmp_path / "run" / "result.json").read_text())["test_loss"])
