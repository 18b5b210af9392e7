"""mirrorline predict as a user types it: files of every kind, on a model of a folder of pictures."""
import csv
import json
import os
import pathlib
import shutil
import signal
import time

import numpy as np
import pytest
import scipy.special
from absl import flags as absl_flags
from PIL import Image

import flags
from launch.commands import predict
from pipeline.config import DataConfig
from pipeline.console import Console
from pipeline.data.load import load
from pipeline.data.sources.digits import load_digits
from pipeline.evaluation.trained_model import TrainedModel
from pipeline.run_directory import RunDirectory
from tests.commands import mirrorline, start

WIDTH, HEIGHT, SIZE = 24, 20, 16  # Of the files, and of what the model takes.
CLASSES = ("dark", "light")


def noise(label, seed):
    """Returns uint8 [HEIGHT, WIDTH, 3]: noise, of which the upper left quarter tells the class."""
    pixels = np.random.RandomState(seed).randint(0, 256, (HEIGHT, WIDTH, 3))
    pixels[:HEIGHT // 2, :WIDTH // 2] = pixels[:HEIGHT // 2, :WIDTH // 2] // 2 + 128 * label
    return pixels.astype(np.uint8)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A folder with the data set `corners` and a run of mlp on it, with checkpoints of steps 30, 60 and 90."""
    folder = tmp_path_factory.mktemp("predict")
    for part, count, first in (("train", 60, 0), ("test", 10, 1000)):
        for label, name in enumerate(CLASSES):
            target = folder / "corners" / part / name
            target.mkdir(parents=True)
            for i in range(count):
                suffix = {0: "webp", 1: "tif", 2: "bmp"}.get(i, "png")
                Image.fromarray(noise(label, first + 2 * i + label)).save(target / f"{i}.{suffix}", lossless=True)
    done = mirrorline("train", "--dataset=folder:corners", f"--image_size={SIZE}", "--model=mlp", "--steps=90",
                      "--batch_size=16", "--checkpoint_every=30", "--ema_decay=0.9", "--workdir=runs/corners-mlp",
                      cwd=folder)
    assert done.returncode == 0, done.stderr
    return folder


def model_of(folder, **options):
    return TrainedModel.load(RunDirectory(str(folder / "runs" / "corners-mlp")), **options)


def probabilities(model, images):
    return scipy.special.softmax(model.logits(np.stack(images)).astype(np.float64), axis=-1)


def read_csv(path):
    """Returns {file name: {class: probability}} and checks that classes stand in the order of their probability."""
    with open(path, newline="") as file:
        rows = {}
        for row in csv.DictReader(file):
            found = [(row[f"class{rank}"], float(row[f"probability{rank}"])) for rank in ("", "_2")]
            assert found[0][1] >= found[1][1]
            rows[os.path.basename(row["file"])] = dict(found)
    return rows


def assert_same(found, expected):
    np.testing.assert_allclose([found[name] for name in CLASSES], expected, rtol=1e-5, atol=1e-7)


def resized(image):
    """Returns what training on a folder makes of a picture of another size."""
    return np.asarray(image.convert("RGB").resize((SIZE, SIZE), Image.Resampling.BILINEAR))


def every_format(folder):
    """Writes one picture in many ways; returns {file name: the pixels that the model sees}."""
    folder.mkdir()
    image, expected = Image.fromarray(noise(1, 5)), {}
    turned = Image.Exif()
    turned[0x0112] = 6  # To be shown turned to the right by a quarter.
    ways = {"plain.png": (image, {}), "plain.bmp": (image, {}), "plain.webp": (image, {"lossless": True}),
            "plain.tif": (image, {}), "no suffix": (image, {"format": "PNG"}),
            "alpha.png": (image.convert("RGBA"), {}), "palette.png": (image.quantize(32), {}),
            "first.gif": (image.quantize(32), {"save_all": True, "append_images": [Image.fromarray(noise(0, 6))]}),
            "grey.png": (image.convert("L"), {}), "bits.png": (image.convert("1"), {}),
            "big.png": (image.resize((301, 203)), {}), "small.png": (image.resize((3, 2)), {}),
            "turned.png": (image.transpose(Image.Transpose.ROTATE_90), {"exif": turned})}
    for name, (picture, options) in ways.items():
        picture.save(folder / name, **options)
        expected[name] = resized(image if name == "turned.png" else picture)
    deep = np.asarray(image.convert("L")).astype(np.uint16) * 256
    Image.fromarray(deep).save(folder / "deep.png")
    expected["deep.png"] = resized(image.convert("L"))
    for name, mode in (("photo.jpg", "RGB"), ("print.jpg", "CMYK")):
        image.convert(mode).save(folder / name, quality=95)
        with Image.open(folder / name) as picture:
            expected[name] = resized(picture)
    return expected


def test_files_of_every_kind_and_some_that_are_none(trained, tmp_path):
    expected = every_format(tmp_path / "mine")
    (tmp_path / "mine" / "inside").mkdir()
    (tmp_path / "mine" / "inside" / "notes.txt").write_text("no picture")
    cut = (tmp_path / "mine" / "plain.png").read_bytes()[:500]
    (tmp_path / "mine" / "cut.png").write_bytes(cut)
    done = mirrorline("predict", "--workdir=runs/corners-mlp", tmp_path / "mine", f"--output={tmp_path}/out.csv",
                      f"--figure={tmp_path}/figure.png", f"--explain_dir={tmp_path}/why", "--batch_size=5", cwd=trained)
    assert done.returncode == 1
    errors = done.stderr.splitlines()
    assert [line.split(":")[1] for line in errors[:1]] == [f" cannot read {tmp_path}/mine/cut.png"]
    assert errors[1:] == ["skipped 1 file that is no image: notes.txt",
                          f"mirrorline predict: 1 of {len(expected) + 1} files could not be read"]
    found, model = read_csv(tmp_path / "out.csv"), model_of(trained)
    assert list(found) == sorted(expected) and sorted(os.listdir(tmp_path)) == ["figure.png", "mine", "out.csv", "why"]
    for name, row in zip(expected, probabilities(model, list(expected.values())), strict=True):
        assert_same(found[name], row)
    assert sorted(os.listdir(tmp_path / "why")) == sorted(f"{name}.png" for name in expected)
    with Image.open(tmp_path / "figure.png") as figure:  # 16 cells in 3 columns, wider than high.
        assert figure.width > figure.height > 1000


def test_explanations_glow_where_the_class_is(trained, tmp_path):
    test = trained / "corners" / "test"
    done = mirrorline("predict", "--workdir=runs/corners-mlp", test / "light", test / "dark" / "3.png",
                      f"--explain_dir={tmp_path}/why", cwd=trained)
    assert done.returncode == 0, done.stderr
    files = sorted(pathlib.Path(tmp_path / "why").rglob("*.png"))
    assert len(files) == 11
    ratio = []
    for file in files:
        with Image.open(file) as image:
            pixels = np.asarray(image).astype(float)
        half = (pixels.shape[1] - 8) // 2
        drawn = pixels[:, half + 8:]
        heat = drawn[..., 0] - drawn[..., 2]  # The picture is grey there, and what glows is yellow.
        corner = np.zeros(heat.shape, bool)
        corner[:heat.shape[0] // 2, :heat.shape[1] // 2] = True
        ratio.append(heat[corner].mean() / heat[~corner].mean())
    assert min(ratio) > 1.3


def test_a_picture_of_the_training_set_is_what_it_was_in_training(trained, tmp_path):
    source = load(DataConfig(dataset=f"folder:{trained}/corners", image_size=SIZE), 16, console=Console(quiet=True))
    for given, options in (((), {}), (("--noema",), {"ema": False}),
                           (("--checkpoint=60", "--average_checkpoints=2"), {"checkpoint": "60", "average": 2})):
        done = mirrorline("predict", "--workdir=runs/corners-mlp", "corners/train/light", "--format=csv", *given,
                          cwd=trained)
        assert (done.returncode, done.stderr) == (0, "")
        (tmp_path / "out.csv").write_text(done.stdout)
        found = read_csv(tmp_path / "out.csv")
        rows = probabilities(model_of(trained, **options), source.train.reader.images[60:])
        names = sorted(os.listdir(trained / "corners" / "train" / "light"))  # As the data set sorts them.
        assert list(found) == names
        for name, row in zip(names, rows, strict=True):
            assert_same(found[name], row)


def test_hundreds_of_files_go_in_batches_into_one_list(trained, tmp_path):
    (tmp_path / "many").mkdir()
    for i in range(300):
        Image.fromarray(noise(i % 2, 5000 + i)).save(tmp_path / "many" / f"{i:03d}.png")
    done = mirrorline("predict", "--workdir=runs/corners-mlp", tmp_path / "many", "--format=json", "--top=1",
                      "--batch_size=7", f"--figure={tmp_path}/figure.pdf", cwd=trained)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert [os.path.basename(row["file"]) for row in found] == [f"{i:03d}.png" for i in range(300)]
    assert done.stdout.count("\n") == 302  # An object a line.
    assert all(row["top"] == [{"class": row["class"], "probability": row["probability"]}] for row in found)
    assert np.mean([row["class"] == CLASSES[i % 2] for i, row in enumerate(found)]) > 0.9
    # Nothing but the list on standard output.
    assert done.stderr == f"{tmp_path}/figure.pdf: 24 pictures, the first 24 of 300\n"


def test_a_signal_leaves_what_there_is_under_another_name(trained, tmp_path):
    (tmp_path / "many").mkdir()
    Image.fromarray(np.tile(noise(0, 1), (40, 40, 1))).save(tmp_path / "many" / "0.png")
    for i in range(1, 3000):
        os.link(tmp_path / "many" / "0.png", tmp_path / "many" / f"{i}.png")
    process = start("predict", "--workdir=runs/corners-mlp", tmp_path / "many", f"--output={tmp_path}/out.json",
                    "--batch_size=4", cwd=trained)
    partial, deadline = tmp_path / "out.json.partial", time.monotonic() + 600
    while process.poll() is None and time.monotonic() < deadline:
        if partial.exists() and partial.stat().st_size > 1000:
            break
        time.sleep(0.01)
    process.send_signal(signal.SIGTERM)
    _, errors = process.communicate(timeout=600)
    assert process.returncode == 128 + signal.SIGTERM
    assert errors == f"not complete: what there is so far is in {partial}\nmirrorline predict: interrupted\n"
    assert 0 < len(json.loads(partial.read_text())) < 3000 and not (tmp_path / "out.json").exists()


def test_ink_on_paper_is_seen_and_turned_around(tmp_path):
    done = mirrorline("train", "--dataset=digits", "--model=mlp", "--steps=60", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    (tmp_path / "paper").mkdir()
    test = load_digits().test
    for i in range(40):
        ink = np.repeat(255 - test.reader.images[i], 3, axis=-1)  # Grey, saved in colour.
        Image.fromarray(ink).save(tmp_path / "paper" / f"{i:02d}.png")

    def hits(*given):
        done = mirrorline("predict", "--model=mlp", "paper", *given, cwd=tmp_path)
        rows = [line.split() for line in done.stdout.splitlines()]
        assert done.returncode == 0 and rows[1][:3] == ["file", "class", "probability"] and len(rows) == 42
        found = [int(row[1]) for row in rows[2:]]
        return np.mean(found == test.labels[:40]), done.stderr

    share, said = hits()
    assert share < 0.5 and said.count("\n") == 1 and "40 of 40 pictures have a light ground" in said
    assert "--invert" in said
    share, said = hits("--invert")
    assert share > 0.8 and said == ""


def test_what_is_no_flag_is_a_file_and_the_help_says_so():
    flag_values = absl_flags.FlagValues()
    predict.define(flag_values)
    given = flags.parse(["a.png", "--top=2", "b", "--", "-c.png"], flag_values, "predict", predict.TAKES_FILES)
    assert given == ["a.png", "b", "-c.png"] and flag_values.top == 2
    text = flags.command_help("predict", predict.SUMMARY, flag_values, 80, predict.TAKES_FILES)
    assert text.startswith("Usage: mirrorline predict [--flag=value ...] FILE_OR_FOLDER ...\n")


@pytest.mark.parametrize("arguments, code, says", [
    (("corners", "nothere.png"), 2, ["no file or folder 'nothere.png'"]),
    ((), 2, ["no picture is given"]),
    (("corners", "--workdir=runs/none"), 2, ["--workdir=runs/none holds no run", "runs/corners-mlp"]),
    (("corners", "--dataset=mnist"), 2, ["--dataset=mnist", "trained with folder:/", "/corners"]),
    (("corners", "--checkpoint=31"), 2, ["no checkpoint '31'", "90, 60, 30"]),
    (("corners", "--average_checkpoints=9"), 2, ["--average_checkpoints=9", "3 good ones"]),
    (("corners", "--output=out.txt"), 2, ["out.txt", "--format=csv or json"]),
    (("corners", "--output=nowhere/out.csv"), 2, ["--output=nowhere/out.csv cannot be written"]),
    (("corners", "--figure=out.doc"), 2, ["--figure=out.doc", ".png"]),
    (("corners", "--explain_dir=corners/test/dark/3.png"), 2, ["--explain_dir=corners/test/dark/3.png", "folder"]),
    (("empty", "--output=out.csv"), 1, ["there is no file in empty"]),
    (("runs/corners-mlp/config.json",), 1, ["config.json: it is no image", "1 of 1 file could not be read"]),
])
def test_what_cannot_be_is_said_and_nothing_is_written(trained, arguments, code, says):
    (trained / "empty").mkdir(exist_ok=True)
    before = sorted(trained.rglob("*"))
    workdir = () if any("--workdir" in a for a in arguments) else ("--workdir=runs/corners-mlp",)
    done = mirrorline("predict", *workdir, *arguments, cwd=trained)
    assert done.returncode == code and "Traceback" not in done.stderr, done.stderr
    assert done.stderr.count("\n") == (2 if "1 of 1" in says[-1] else 1)
    for text in says:
        assert text in done.stderr, done.stderr
    assert sorted(trained.rglob("*")) == before


def test_a_run_on_a_folder_is_judged_from_anywhere_and_after_a_move(trained, tmp_path):
    workdir = f"--workdir={trained / 'runs' / 'corners-mlp'}"
    shutil.copytree(trained / "corners", tmp_path / "moved")
    done = mirrorline("evaluate", workdir, "--report=judged", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    report = json.loads((tmp_path / "judged" / "report.json").read_text())
    listed = [*report["mistakes"], *report["unsure_hits"]]
    page = (tmp_path / "judged" / "index.html").read_text()
    for example in listed:
        assert example["file"].startswith(os.path.join("test", example["true"])) and example["file"] in page
        assert (trained / "corners" / example["file"]).is_file()
    assert listed
    moved = mirrorline("evaluate", workdir, "--noreport", "--dataset=folder:moved/", cwd=tmp_path)
    assert moved.returncode == 0 and f"accuracy {report['headline'][0]['value']:.4%}" in moved.stdout
    Image.fromarray(noise(1, 1)).save(tmp_path / "moved" / "test" / "dark" / "5.png")
    other = mirrorline("evaluate", workdir, "--noreport", "--dataset=folder:moved", cwd=tmp_path)
    assert other.returncode == 2 and "is not what this run was trained on" in other.stderr
    assert "give its --dataset=folder:PATH" in other.stderr and len(other.stderr.splitlines()) == 1
