"""mirrorline predict as a user types it: files of every kind, on a model of a folder of images."""
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
import tensorflow as tf
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
from tests.commands import answers, mirrorline, result, start

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
                      "--batch_size=16", "--augment=", "--checkpoint_every=30", "--ema_decay=0.9",
                      "--workdir=runs/corners-mlp", cwd=folder)
    assert done.returncode == 0, done.stderr
    return folder


REFUSED = [
    (("corners", "nothere.png"), 2, ["no file or folder 'nothere.png'"]),
    ((), 2, ["no image is given"]),
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
]
# Of the predictions of a folder of training images: flags, and arguments of TrainedModel.load.
WEIGHTS = {"latest": ((), {}), "noema": (("--noema",), {"ema": False}),
           "averaged": (("--checkpoint=60", "--average_checkpoints=2"), {"checkpoint": "60", "average": 2})}


@pytest.fixture(scope="module")
def answered(trained, tmp_path_factory):
    """(folder, {what: (exit code, standard output, standard error)}, pixels of every format) of one process."""
    here, test = tmp_path_factory.mktemp("predicted"), trained / "corners" / "test"
    expected = every_format(here / "mine")
    (here / "mine" / "inside").mkdir()
    (here / "mine" / "inside" / "notes.txt").write_text("no image")
    (here / "mine" / "cut.png").write_bytes((here / "mine" / "plain.png").read_bytes()[:500])
    for name in ("moved", "changed"):
        shutil.copytree(trained / "corners", here / name)
    Image.fromarray(noise(1, 1)).save(here / "changed" / "test" / "dark" / "5.png")
    (trained / "empty").mkdir()
    before = sorted(trained.rglob("*"))
    workdir = f"--workdir={trained / 'runs' / 'corners-mlp'}"
    lines = {
        "formats": ("predict", workdir, here / "mine", f"--output={here}/formats/out.csv", "--batch_size=5",
                    f"--figure={here}/formats/figure.png"),
        "explained": ("predict", workdir, *(test / "light" / f"{i}.png" for i in (3, 4, 5)), test / "dark" / "3.png",
                      f"--explain_dir={here}/why"),
        **{name: ("predict", workdir, trained / "corners" / "train" / "light", f"--output={here}/{name}.csv", *flags)
           for name, (flags, _) in WEIGHTS.items()},
        **{i: ("predict", *(() if any("--workdir" in a for a in arguments) else (workdir,)), *arguments)
           for i, (arguments, _, _) in enumerate(REFUSED)},
        **{name: ("evaluate", workdir, "--noreport", f"--dataset=folder:{here}/{folder}", *more)
           for name, folder, *more in (("moved", "moved/"), ("changed", "changed"),
                                       ("allowed", "changed", "--allow=fingerprint"))}}
    (here / "formats").mkdir()
    found = dict(zip(lines, answers(lines.values(), trained), strict=True))
    assert sorted(trained.rglob("*")) == before
    return here, found, expected


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
    """Returns what training on a folder makes of an image of another size."""
    pixels = np.asarray(image.convert("RGB"))
    values = tf.image.resize(pixels, (SIZE, SIZE), antialias=max(pixels.shape) > 3 * SIZE)
    return (values.numpy() + 0.5).astype(np.uint8)


def every_format(folder):
    """Writes one image in many ways; returns {file name: the pixels that the model sees}."""
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
    for name, (variant, options) in ways.items():
        variant.save(folder / name, **options)
        expected[name] = resized(image if name == "turned.png" else variant)
    deep = np.asarray(image.convert("L")).astype(np.uint16) * 256
    Image.fromarray(deep).save(folder / "deep.png")
    expected["deep.png"] = resized(image.convert("L"))
    for name, mode in (("photo.jpg", "RGB"), ("print.jpg", "CMYK")):
        image.convert(mode).save(folder / name, quality=95)
        with Image.open(folder / name) as variant:
            expected[name] = resized(variant)
    return expected


def test_files_of_every_kind_and_unreadable_ones(trained, answered):
    here, found, expected = answered
    code, _, errors = found["formats"]
    lines = errors.splitlines()
    assert code == 1 and lines[0].split(":")[1] == f" cannot read {here}/mine/cut.png"
    assert lines[1:] == ["skipped 1 file that is no image: notes.txt",
                         f"mirrorline predict: 1 of {len(expected) + 1} files could not be read"]
    rows, model = read_csv(here / "formats" / "out.csv"), model_of(trained)
    assert list(rows) == sorted(expected) and sorted(os.listdir(here / "formats")) == ["figure.png", "out.csv"]
    for name, row in zip(expected, probabilities(model, list(expected.values())), strict=True):
        assert_same(rows[name], row)
    with Image.open(here / "formats" / "figure.png") as figure:  # 16 cells in 3 columns, wider than high.
        assert figure.width > figure.height > 1000


def test_explanations_are_bright_where_the_class_is(answered):
    here, found, _ = answered
    assert found["explained"][0] == 0, found["explained"][2]
    files = sorted(pathlib.Path(here / "why").rglob("*.png"))
    assert len(files) == 4
    ratio = []
    for file in files:
        with Image.open(file) as image:
            pixels = np.asarray(image).astype(float)
        half = (pixels.shape[1] - 8) // 2
        drawn = pixels[:, half + 8:]
        heat = drawn[..., 0] - drawn[..., 2]  # The image is gray there, and what is bright is yellow.
        corner = np.zeros(heat.shape, bool)
        corner[:heat.shape[0] // 2, :heat.shape[1] // 2] = True
        ratio.append(heat[corner].mean() / heat[~corner].mean())
    assert min(ratio) > 1.3


def test_a_training_image_is_preprocessed_as_in_training(trained, answered):
    here, found, _ = answered
    source = load(DataConfig(dataset=f"folder:{trained}/corners", image_size=SIZE), 16, console=Console(quiet=True))
    for name, (_, options) in WEIGHTS.items():
        assert found[name][0] == 0 and found[name][2] == "", found[name]
        predicted = read_csv(here / f"{name}.csv")
        rows = probabilities(model_of(trained, **options), source.train.reader.images[60:])
        names = sorted(os.listdir(trained / "corners" / "train" / "light"))  # As the data set sorts them.
        assert list(predicted) == names
        for file, row in zip(names, rows, strict=True):
            assert_same(predicted[file], row)


def test_hundreds_of_files_make_one_list(trained, tmp_path):
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
    assert done.stderr == f"{tmp_path}/figure.pdf: 24 images, the first 24 of 300\n"


def test_a_signal_leaves_partial_output(trained, tmp_path):
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


@pytest.mark.acceptance
def test_dark_on_light_images_are_noticed_and_inverted(tmp_path):
    (tmp_path / "paper").mkdir()
    test = load_digits().test
    for i in range(40):
        ink = np.repeat(255 - test.reader.images[i], 3, axis=-1)  # Gray, saved in color.
        Image.fromarray(ink).save(tmp_path / "paper" / f"{i:02d}.png")
    predict = ("predict", "--workdir=run", "paper")
    trained, dark, light = answers([
        ("train", "--dataset=digits", "--model=mlp", "--steps=60", "--evaluate_every=60", "--tensorboard=scalars",
         "--workdir=run"), (*predict, "--output=dark.csv"), (*predict, "--output=light.csv", "--invert")], tmp_path)
    assert (trained[0], dark[0], light[0]) == (0, 0, 0), (trained[2], dark[2], light[2])
    shares = []
    for name in ("dark.csv", "light.csv"):
        with open(tmp_path / name, newline="") as file:
            shares.append(np.mean([int(row["class"]) for row in csv.DictReader(file)] == test.labels[:40]))
    assert shares[0] < 0.5 and shares[1] > 0.8 and light[2] == ""
    assert dark[2].count("\n") == 1 and "40 of 40 images have a light background" in dark[2] and "--invert" in dark[2]


def test_other_arguments_are_files_and_the_help_names_them():
    flag_values = absl_flags.FlagValues()
    predict.define(flag_values)
    given = flags.parse(["a.png", "--top=2", "b", "--", "-c.png"], flag_values, "predict", predict.TAKES_FILES)
    assert given == ["a.png", "b", "-c.png"] and flag_values.top == 2
    text = flags.command_help("predict", predict.SUMMARY, flag_values, 80, predict.TAKES_FILES)
    assert text.startswith("Usage: mirrorline predict [--flag=value ...] FILE_OR_FOLDER ...\n")


def test_wrong_use_is_named_and_nothing_is_written(answered):
    for i, (arguments, code, says) in enumerate(REFUSED):
        found, _, errors = answered[1][i]
        assert found == code and errors.count("\n") == (2 if "1 of 1" in says[-1] else 1), (arguments, errors)
        assert [text for text in says if text not in errors] == [], (arguments, errors)


@pytest.mark.acceptance
def test_the_report_of_a_run_on_a_folder_names_its_files(trained, tmp_path):
    here, workdir = tmp_path, f"--workdir={trained / 'runs' / 'corners-mlp'}"
    (code, _, errors), (_, moved, _) = answers([
        ("evaluate", workdir, f"--report={here}/evaluated"), ("evaluate", workdir, "--noreport")], tmp_path)
    assert code == 0, errors
    report = json.loads((here / "evaluated" / "report.json").read_text())
    listed = [*report["mistakes"], *report["unsure_hits"]]
    page = (here / "evaluated" / "index.html").read_text()
    for example in listed:
        assert example["file"].startswith(os.path.join("test", example["true"])) and example["file"] in page
        assert (trained / "corners" / example["file"]).is_file()
    assert listed and f"accuracy {report['headline'][0]['value']:.4%}" in moved


def test_a_run_on_a_folder_is_evaluated_from_anywhere_and_after_a_move(trained, answered):
    found = answered[1]
    code, printed, _ = found["moved"]
    assert code == 0 and f"accuracy {result(trained / 'runs' / 'corners-mlp')['test_accuracy']:.4%}" in printed
    code, _, errors = found["changed"]
    assert code == 2 and "is not what this run was trained on" in errors
    assert "give its --dataset=folder:PATH; --allow=fingerprint accepts" in errors and errors.count("\n") == 1
    code, _, errors = found["allowed"]
    assert code == 0 and "is not what this run was trained on" in errors and errors.count("\n") == 1
