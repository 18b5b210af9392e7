"""Runs begun with the fingerprint of a folder before there was an index continue."""
import json
import shutil

import numpy as np
import pytest
from PIL import Image

from pipeline.data.source import digest
from tests.commands import answers, metrics, succeed
from tests.data.indexed_folder import make_images, opened, save


@pytest.fixture
def images(tmp_path):
    return make_images(tmp_path)


def earlier_parts(folder, name, files, interpreted=False):
    """Returns what the fingerprint had of a split before there was an index: of 64 KiB at each end of a file."""
    found = []
    for file in files:
        content = (folder / file).read_bytes()
        ends = content[:65_536] + content[65_536:][-65_536:]
        found.append((file, len(content), digest(np.frombuffer(ends, np.uint8))))
    return [name, found, *(["floats up to 1 are levels; one colour is laid over a ground"] if interpreted else [])]


@pytest.mark.parametrize("options, derived", [
    ({}, []), ({"validation_split": 0.25}, [("validation", 0.25)]), ({"subset": 1}, [("subset", 4)]),
    ({"validation_split": 0.25, "subset": 1}, [("validation", 0.25), ("subset", 4)])])
def test_the_earlier_fingerprint_is_that_of_the_same_data(images, options, derived):
    sizes = []
    for side in (130, 300):  # Files longer than one and than two parts that are read.
        path = images / "train" / "bee" / f"{side}.jpg"
        save(path, side, size=(side, side), quality=100, subsampling=0)
        sizes.append(path.stat().st_size)
    assert 65_536 < sizes[0] < 131_072 < sizes[1]
    whole, source = opened(images, image_size=8), opened(images, image_size=8, **options)
    earlier = digest(("ant", "bee"), (8, 8, 3), *earlier_parts(images, "train", whole.train.files),
                     *earlier_parts(images, "test", whole.test.files))
    for parts in derived:
        earlier = digest(earlier, *parts)
    assert source.fingerprint_as(earlier) == earlier != source.fingerprint
    assert source.fingerprint_as("0" * 64) == source.fingerprint == source.fingerprint_as(source.fingerprint)
    shutil.rmtree(images / "test")
    (images / "train" / "bee" / "130.jpg").write_bytes(bytes(sizes[0]))
    assert source.fingerprint_as(earlier) == earlier  # Computed once.


def test_the_earlier_fingerprint_of_a_folder_without_splits(images):
    source = opened(images / "train", validation_split=0.25, image_size=8)
    names = sorted([*source.train.files, *source.test.files])
    earlier = digest(("ant", "bee"), (8, 8, 3), *earlier_parts(images / "train", "train", names), 0.25)
    assert source.fingerprint_as(earlier) == earlier != source.fingerprint


def test_a_run_begun_with_the_earlier_fingerprint_continues_and_is_compared(images, tmp_path):
    ant = images / "train" / "ant"
    for path in (ant / "deep" / "turned.jpg", ant / "bad.jpg", ant / "notes.txt"):
        path.unlink()
    Image.fromarray(np.random.RandomState(3).randint(0, 256, (7, 9, 4)).astype(np.uint8)).save(ant / "clear.png")
    names = {part: sorted(str(path.relative_to(images)) for path in (images / part).rglob("*") if path.is_file())
             for part in ("train", "test")}
    command = ("train", "--dataset=folder:images", "--model=mlp", "--batch_size=4", "--learning_rate=1e-4",
               "--verbosity=quiet", "--cache_dir=cache", "--tensorboard=scalars")
    succeed(*command, "--epochs=1", "--workdir=new", cwd=tmp_path)
    shutil.copytree(tmp_path / "new", tmp_path / "old")
    path = tmp_path / "old" / "config.json"
    stored = json.loads(path.read_text())
    new = stored["data"]["fingerprint"]
    stored["data"]["fingerprint"] = digest(
        ("ant", "bee"), (7, 9, 3), *earlier_parts(images, "train", names["train"], interpreted=True),
        *earlier_parts(images, "test", names["test"]))
    path.write_text(json.dumps(stored))
    compare = [["evaluate", "--noreport", "--workdir=old", "--compare=new"],
               ["evaluate", "--noreport", "--workdir=new", "--compare=old"]]
    found = answers(compare, tmp_path)
    assert [code for code, *_ in found] == [0, 0], found
    save(images / "test" / "bee" / "1.jpg", 77)
    longer = [*command, "--epochs=2", "--allow=epochs", "--workdir=old"]
    (code, _, errors), (_, _, compared) = answers([longer, compare[1]], tmp_path)
    assert code == 2 and "fingerprint" in errors and errors.count("\n") == 1
    assert "is not what this run was trained on" in compared and compared.count("\n") == 1
    save(images / "test" / "bee" / "1.jpg", 11)
    succeed(*longer, cwd=tmp_path)
    assert json.loads(path.read_text())["data"]["fingerprint"] == new
    assert metrics(tmp_path / "old", "train")[-1]["step"] == 8
