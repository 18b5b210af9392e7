"""Images that break while a folder streams: one line that names the file, or the next of its class in its place."""
import types

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from pipeline.config import DataConfig
from pipeline.console import Console
from pipeline.data import damage
from pipeline.data.load import load
from pipeline.data.stream import BatchLayout, eval_batches, image_batches, train_stream
from pipeline.distributed.agreement import Workers
from pipeline.errors import RunFailure, UsageError
from pipeline.monitoring.launches import Launches
from pipeline.monitoring.metrics_log import read_records
from pipeline.training.skipped_files import SkippedFiles
from tests.commands import metrics, mirrorline, result
from tests.selection import quick

COUNT = 8


def save(path, value):
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.RandomState(value).randint(0, 256, (6, 8, 3))
    pixels[0, 0] = value
    Image.fromarray(pixels.astype(np.uint8)).save(path, exif=b"II*\0\x08\0\0\0\0\0\0\0\0\0")


def damage_pixels(path):
    """Overwrites pixels in the middle of a compressed file, which as a file stays whole."""
    content = bytearray(path.read_bytes())
    begin = content.index(b"IDAT") + 20
    content[begin:begin + 40] = b"\xff" * 40
    path.write_bytes(bytes(content))


@pytest.fixture
def folder(tmp_path):
    """Two classes of COUNT images to train on and two to test on; the name of one is no text."""
    for part, count in (("train", COUNT), ("test", 2)):
        for label, name in enumerate(("cat", "dog")):
            for i in range(count):
                odd = "\udcff" if (part, name, i) == ("train", "cat", COUNT - 1) else ""
                save(tmp_path / "images" / part / name / f"{odd}{i}.png", 100 * label + i)
    return tmp_path / "images"


def streamed(folder, **options):
    return load(DataConfig(dataset=f"folder:{folder}", memory_budget=0, **options), 4, console=Console(quiet=True))


def values(batches):
    return [int(value) for batch in batches for value in batch["image"][:, 0, 0, 0]]


BREAKS = {"removed": (lambda path: path.unlink(), RunFailure, "no such file"),
          "emptied": (lambda path: path.write_bytes(b""), UsageError, "it is no image of a known format"),
          "half written": (lambda path: path.write_bytes(path.read_bytes()[:60]), UsageError, ""),
          "damaged": (damage_pixels, UsageError, "data stream"),
          "of another size": (lambda path: Image.new("RGB", (5, 5)).save(path), UsageError, "5x5 .*now and was 6x8"),
          "a folder": (lambda path: (path.unlink(), path.mkdir()), RunFailure, "")}


@pytest.mark.parametrize("breaks", quick([(("removed", "damaged", "of another size"),), (tuple(BREAKS),)], 0))
def test_files_that_break_while_streaming_are_named_or_replaced(folder, capfd, breaks):
    """One file after the other, each whole again before the next."""
    strict, lenient = streamed(folder), streamed(folder, skip_unreadable=True)
    assert strict.fingerprint == lenient.fingerprint
    layout = BatchLayout(4)
    strict_batches = [train_stream(strict.train, layout, 0, 0), eval_batches(strict.train, layout)]
    lenient_batches = eval_batches(lenient.train, layout)
    for number, name in enumerate(breaks, 1):
        break_it, expected, reason = BREAKS[name]
        broken = folder / "train" / "dog" / f"{number}.png"
        content = broken.read_bytes()
        break_it(broken)
        match = f"^cannot read the image {broken}: .*{reason}.*--skip_unreadable"
        with pytest.raises(expected, match=match) as error, damage.in_words():
            list(strict_batches[number % 2].take(99))  # In training and in evaluation by turns.
        assert "\n" not in str(error.value), name
        whole = [*range(COUNT), *range(100, 100 + COUNT)]
        assert values(lenient_batches) == [value + (value == 100 + number) for value in whole], name
        output = capfd.readouterr().err
        assert output.count(f"in its place stands {number + 1}.png of the same class") == 1, name
        assert str(broken) in output
        if broken.is_dir():
            broken.rmdir()
        broken.write_bytes(content)


def test_replacements_are_the_same_on_every_replica_and_after_a_resume(folder):
    source = streamed(folder, skip_unreadable=True)
    for number in (3, 7):  # The last of a class is followed by its first.
        damage_pixels(folder / "train" / "dog" / f"{number}.png")
    one = values(train_stream(source.train, BatchLayout(4), 5, 0).take(12))
    assert set(one) == {*range(COUNT), *range(100, 100 + COUNT)} - {103, 107}
    assert values(train_stream(streamed(folder, skip_unreadable=True).train, BatchLayout(4), 5, 9).take(3)) == one[36:]
    parts = [values(train_stream(source.train, BatchLayout(4, 2, workers=2, worker=w), 5, 0).take(12)) for w in (0, 1)]
    assert [v for i in range(12) for part in parts for v in part[2 * i:2 * i + 2]] == one


def test_replaced_files_are_counted_up_to_the_step_and_after_a_resume(folder, tmp_path):
    order = values(train_stream(streamed(folder).train, BatchLayout(4), 5, 0).take(4))
    damage_pixels(folder / "train" / "dog" / "3.png")
    damage_pixels(folder / "test" / "cat" / "1.png")
    Image.new("RGB", (8, 6)).save(folder / "train" / "cat" / "8.png")
    (folder / "train" / "cat" / "8.png").write_bytes((folder / "train" / "cat" / "8.png").read_bytes()[:40])
    step = order.index(103) // 4  # The one whose batch has the damaged file.

    def begun():
        source = streamed(folder, skip_unreadable=True)
        run = types.SimpleNamespace(source=source, workers=Workers(tf.distribute.get_strategy()),
                                    plan=types.SimpleNamespace(batch_size=4))
        return source, SkippedFiles(run, Launches(str(tmp_path / "launches.jsonl")))

    def replaced(skipped, step):
        found = skipped.describe(step)["unreadable_files"]
        assert found["left_out"] == 1
        return found["replaced"]

    source, skipped = begun()
    list(train_stream(source.train, BatchLayout(4), 5, 0).take(8))
    skipped.record(step)  # The stream has read ahead.
    assert (replaced(skipped, step), replaced(skipped, step + 1)) == (0, 1)
    list(eval_batches(source.test, BatchLayout(4)))
    skipped.record(step)
    source, resumed = begun()
    list(train_stream(source.train, BatchLayout(4), 5, step).take(8))
    resumed.record(8)
    for one in (skipped, resumed):
        assert (replaced(one, step), replaced(one, step + 1), replaced(one, 8)) == (1, 2, 2)
    assert [record["files"] for record in read_records(str(tmp_path / "launches.jsonl"))] == [
        {"train/dog/3.png": order.index(103)}, {"test/cat/1.png": -1}]


def test_a_class_without_any_readable_file_is_named(folder):
    source = streamed(folder, skip_unreadable=True)
    for path in (folder / "train" / "dog").iterdir():
        path.unlink()
    with pytest.raises(RunFailure, match="cannot read the image .*train/dog/0.png: no such file"), damage.in_words():
        list(image_batches(source.train, 4))


def test_the_command_fails_with_one_line_and_continues_with_skip_unreadable(folder, tmp_path):
    command = ("train", "--dataset=folder:images", "--memory_budget=0", "--model=mlp", "--batch_size=4", "--epochs=1",
               "--workdir=run", "--learning_rate=1e-4", "--checkpoint_every=2", "--tensorboard=scalars")
    damage_pixels(folder / "train" / "dog" / "3.png")
    damage_pixels(folder / "test" / "cat" / "1.png")
    refused = mirrorline(*command, cwd=tmp_path)
    assert refused.returncode == 2 and len(refused.stderr.splitlines()) == 1, refused.stderr
    assert refused.stderr.startswith(f"mirrorline train: cannot read the image {folder}/t")
    trained = mirrorline(*command, "--skip_unreadable", cwd=tmp_path)
    assert trained.returncode == 0 and result(tmp_path / "run")["step"] == 4, trained.stderr
    assert result(tmp_path / "run")["unreadable_files"] == {"left_out": 0, "replaced": 2}
    assert "skipped 2 unreadable files: 0 left out, 2 replaced by another of the class" in trained.stdout
    assert sorted(line.split("; in its place stands ")[1] for line in trained.stderr.splitlines() if "place" in line
                  ) == ["0.png of the same class", "4.png of the same class"]
    assert [record["step"] for record in metrics(tmp_path / "run", "train")] == [1, 2, 3, 4]
    (folder / "train" / "cat" / "0.png").unlink()
    other = mirrorline(*command, "--skip_unreadable", "--epochs=2", "--allow=epochs", cwd=tmp_path)
    assert other.returncode == 2 and "fingerprint" in other.stderr and len(other.stderr.splitlines()) == 1
