"""The index of a folder of images: made once, and at later starts only files that have changed are read."""
import json
import os
import threading
import time

import numpy as np
import pytest
from PIL import Image

from pipeline.data import array_cache, folder_index
from pipeline.data.folder_index import wait_for_clock
from pipeline.errors import UsageError
from tests.commands import start
from tests.data.indexed_folder import BEFORE, described, make_images, opened, save


@pytest.fixture
def images(tmp_path):
    return make_images(tmp_path)


@pytest.fixture
def looked(monkeypatch):
    """The paths of files that were read, in order."""
    found, read_header = [], folder_index.read_header
    monkeypatch.setattr(folder_index, "read_header", lambda path: found.append(path) or read_header(path))
    return found


def read_again(looked, folder, *arguments):
    """Opens a folder and returns what is described, and which of its files were read for that."""
    looked.clear()
    return described(opened(folder, *arguments)), sorted(looked)


def test_the_content_of_files_is_read_at_the_first_start_alone(images, looked):
    first = described(opened(images))
    assert first["notes"][0].startswith("left out 1 file that is no image (1 .txt)")
    assert first["notes"][1].startswith("skipped 1 unreadable image: ")
    assert first["names"][6] == "train/ant/deep/turned.jpg"
    assert (first["height"][6], first["orientation"][6], first["shape"]) == (7, 6, (7, 9, 3))
    assert first["paths"] == [str(images / name) for name in first["names"]]
    assert len(looked) == len(set(looked)) == 20
    assert read_again(looked, images) == (first, [])
    with pytest.raises(UsageError, match=f"cannot read the image {images}/train/ant/bad.jpg: it is no image of"):
        opened(images, skip_unreadable=False)
    assert read_again(looked, images, images.parent / "other")[0] == first and len(looked) == 20


def test_splits_of_one_index_have_their_own_files(images):
    source = opened(images, validation_split=0.25)
    part = source.train.select(np.array([1, 4]))
    assert list(part.files) == [source.train.files[1], source.train.files[4]]
    assert [part.reader.index.path(i) for i in (0, 1)] == [str(images / name) for name in part.files]
    paths = part.reader.index.path_reader()(np.array([1, 0, 1]))
    assert [path.decode() for path in paths.numpy()] == [str(images / part.files[i]) for i in (1, 0, 1)]
    assert sorted([*source.train.files, *source.validation.files]) == sorted(opened(images).train.files)


def added(folder):
    save(folder / "train" / "bee" / "2b.jpg", 99)
    return [folder / "train" / "bee" / "2b.jpg"]


def removed(folder):
    (folder / "train" / "bee" / "2.jpg").unlink()
    return []


def renamed(folder):
    (folder / "train" / "bee" / "2.jpg").rename(folder / "train" / "bee" / "2a.jpg")
    return [folder / "train" / "bee" / "2a.jpg"]


def replaced(folder):
    path = folder / "train" / "bee" / "2.jpg"
    content = bytearray(path.read_bytes())
    content[-10] ^= 1
    path.write_bytes(content)
    return [path]


def replaced_with_its_time(folder):
    """As cp -p and rsync -t do, with a file of the same size and modification time."""
    (path,) = replaced(folder)
    os.utime(path, (BEFORE, BEFORE))
    return [path]


def relabelled(folder):
    (folder / "train" / "bee" / "2.jpg").rename(folder / "train" / "ant" / "2b.jpg")
    return [folder / "train" / "ant" / "2b.jpg"]


def class_renamed(folder):
    for part in ("train", "test"):
        (folder / part / "bee").rename(folder / part / "wasp")
    return list(folder.rglob("wasp/*"))


CHANGES = added, removed, renamed, replaced, replaced_with_its_time, relabelled, class_renamed


@pytest.mark.parametrize("change", CHANGES)
def test_a_changed_file_changes_the_fingerprint_and_is_the_only_one_read_again(images, change, looked):
    before = described(opened(images))
    new = change(images)
    fresh = described(opened(images, images.parent / "other"))
    assert fresh["fingerprint"] != before["fingerprint"]
    assert read_again(looked, images) == (fresh, sorted(map(str, new)))
    assert read_again(looked, images) == (fresh, [])


def test_touched_and_moved_folders_keep_their_fingerprint(images):
    before = opened(images).fingerprint
    for path in images.rglob("*.jpg"):
        os.utime(path)
    assert opened(images).fingerprint == before
    images.rename(images.parent / "elsewhere")
    assert opened(images.parent / "elsewhere").fingerprint == before


def test_files_are_read_when_a_later_change_has_another_time(images):
    """File systems give the times of a clock that ticks every few milliseconds, or, in whole seconds, every two."""
    now = time.time_ns()
    wait_for_clock(np.array([0, now]))
    assert time.time_ns() >= now + 10**7
    second = time.time_ns() // 10**9 * 10**9
    os.utime(images / "train" / "bee" / "2.jpg", ns=(second, second))
    opened(images)
    assert time.time_ns() >= second + 2 * 10**9


def test_a_saved_index_is_never_seen_half_written(tmp_path):
    arrays = {"a": np.arange(100_000)}
    array_cache.save_arrays(("key",), arrays, str(tmp_path))

    def save_often():
        for _ in range(40):
            array_cache.save_arrays(("key",), arrays, str(tmp_path))

    saving = threading.Thread(target=save_often)
    saving.start()
    while saving.is_alive():
        assert array_cache.load_arrays(("key",), str(tmp_path)) is not None
    assert len(list(tmp_path.iterdir())) == 1


def test_an_unreadable_file_that_is_repaired_or_appears_is_read(images):
    ant = images / "train" / "ant"
    (ant / "gone.jpg").symlink_to("later.image")
    first = opened(images)
    assert [note for note in first.notes if note.startswith("skipped 2 unreadable images")]
    save(ant / "bad.jpg", 50)
    save(ant / "later.image", 51)
    whole = opened(images)
    assert whole.train.num_examples == first.train.num_examples + 3 and len(whole.notes) == len(first.notes) - 1


DAMAGES = {"cut": lambda content: content[:len(content) // 2], "emptied": lambda content: b"",
           "something else": lambda content: b"something else", "a wrong bit": lambda content: content.replace(
               b"train/ant", b"train/bnt", 1)}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_index_is_made_again(images, damage, looked):
    expected = described(opened(images))
    path, = (images.parent / "cache").iterdir()
    path.write_bytes(DAMAGES[damage](path.read_bytes()))
    assert described(opened(images)) == expected
    assert read_again(looked, images) == (expected, [])


def alter_index(images, **about):
    """Gives every image of a saved index another height, and its description other values."""
    key, folder = ("images", str(images)), str(images.parent / "cache")
    found = array_cache.load_arrays(key, folder)
    found["facts"]["height"] = 1000
    found["about"] = np.frombuffer(json.dumps({**json.loads(found["about"].tobytes()), **about}).encode(), np.uint8)
    array_cache.save_arrays(key, found, folder)


def test_an_index_of_another_version_is_made_again(images):
    expected = described(opened(images))
    alter_index(images)
    assert opened(images).image_shape == (1000, 9, 3)
    alter_index(images, version=0)
    assert described(opened(images)) == expected


def test_an_index_without_times_of_changes_holds_and_gets_them(images, looked):
    expected = described(opened(images))
    key, folder = ("images", str(images)), str(images.parent / "cache")
    found = array_cache.load_arrays(key, folder)
    kept = [name for name in found["facts"].dtype.names if name != "change"]
    found["facts"] = np.array(found["facts"][kept].tolist(), [(name, found["facts"].dtype[name]) for name in kept])
    about = {**json.loads(found["about"].tobytes()), "version": 2}
    found["about"] = np.frombuffer(json.dumps(about).encode(), np.uint8)
    array_cache.save_arrays(key, found, folder)
    assert read_again(looked, images) == (expected, [])
    (path,) = replaced_with_its_time(images)
    found, read = read_again(looked, images)
    assert found["fingerprint"] != expected["fingerprint"] and read == [str(path)]


@pytest.mark.parametrize("make", [
    lambda path: path.write_text("a file"), lambda path: path.symlink_to("nowhere/at/all"),
    lambda path: path.symlink_to("/proc/self")], ids=["file", "broken link", "read-only"])
def test_without_a_folder_for_the_index_the_data_are_read_all_the_same(images, make):
    expected = described(opened(images))
    make(images.parent / "none")
    assert described(opened(images, images.parent / "none")) == expected
    assert sorted(path.name for path in images.parent.iterdir()) == ["cache", "images", "none"]


def test_an_index_of_another_pillow_reads_unreadable_files_again(images, monkeypatch, looked):
    expected = described(opened(images))
    monkeypatch.setattr("PIL.__version__", "another")
    assert read_again(looked, images) == (expected, [str(images / "train" / "ant" / "bad.jpg")])


def test_an_interrupted_start_keeps_what_it_has_read(images, monkeypatch, looked):
    expected = described(opened(images, images.parent / "other"))

    def interrupt(*arguments):
        raise KeyboardInterrupt

    looked.clear()
    monkeypatch.setattr("pipeline.data.folder_index._READERS", 1)
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Image, "open", interrupt)  # Of the first file that is no JPEG file.
        opened(images)
    first = set(looked)
    found, again = read_again(looked, images)
    assert found == expected and len(first) > 1 and len(first & {*again}) == 1 and len(first | {*again}) == 20


LOADER = """
import sys
from pipeline.config import DataConfig
from pipeline.console import Console
from pipeline.data.folder_index import wait_for_clock
from pipeline.data.load import load
for _ in range(3):
    source = load(DataConfig(dataset="folder:" + sys.argv[1], cache_dir="cache", memory_budget=0, skip_unreadable=True),
                  4, console=Console(quiet=True))
    print(source.fingerprint)
"""


def test_processes_that_start_together_share_an_index(images, tmp_path):
    (tmp_path / "loader.py").write_text(LOADER)
    expected = opened(images, tmp_path / "other").fingerprint
    processes = [start(str(images), cwd=tmp_path, module="loader") for _ in range(2)]
    for process in processes:
        out, errors = process.communicate()
        assert process.returncode == 0, errors
        assert out.split() == 3 * [expected]
    assert len(list((tmp_path / "cache").iterdir())) == 1
