"""mirrorline export on real runs: what is published and what is not, versions, a full disk, and wrong use."""
import json
import os
import shutil
import subprocess
import sys

import numpy as np
import onnxruntime
import pytest

from pipeline.config import MOVING_AVERAGE
from pipeline.data.sources.digits import load_digits
from pipeline.evaluation.trained_model import TrainedModel
from pipeline.export.export_format import find_format
from pipeline.run_directory import RunDirectory
from tests.commands import answers, environment, mirrorline, result
from tests.selection import half_precision
from tests.small_disk import small_disk

pytestmark = half_precision  # What is exported was trained in it.

TRAIN = ("train", "--model=mlp", "--batch_size=60", "--schedule=constant", "--augment=",
         "--tensorboard=scalars")
PUBLISHED = ("tflite_float16", "onnx")


@pytest.fixture(scope="module")
def ran(tmp_path_factory):
    """(folder, what export prints) of one process.

    It trained `taught`, in half precision, and `begun`, of two steps, and exported the moving averages of `taught`.
    """
    folder = tmp_path_factory.mktemp("exported")
    taught, begun, exported = answers([
        (*TRAIN, "--workdir=taught", "--steps=60", "--evaluate_every=20", "--learning_rate=3e-3",
         "--precision=mixed_bfloat16", "--normalize=per_channel", "--ema_decay=0.9"),
        (*TRAIN, "--workdir=begun", "--steps=2", "--subset=3", "--learning_rate=1e-4", "--freeze=hidden", "--quiet"),
        ("export", "--workdir=taught", "--checkpoint=best", "--nolatency", f"--format={','.join(PUBLISHED)}")], folder)
    assert (taught[0], begun[0], exported[0], exported[2]) == (0, 0, 0, ""), (taught[2], begun[2], exported[2])
    return folder, exported[1]


@pytest.fixture(scope="module")
def trained(ran):
    """The folder with the runs."""
    return ran[0]


@pytest.fixture(scope="module")
def exported(ran):
    """What export prints."""
    return ran[1]


def averages(workdir):
    """Returns (TrainedModel of the moving averages at the best checkpoint, images and labels of the test split)."""
    model = TrainedModel.load(RunDirectory(str(workdir)), "best", ema=True, precision="float32")
    test = load_digits(None).test
    return model, test.reader.images, test.labels


def test_every_format_is_published_with_card_and_metadata(trained, exported):
    output = trained / "taught" / "export"
    metadata = []
    for name in PUBLISHED:
        assert [p.name for p in (output / name).iterdir()] == ["1"]
        assert {"MODEL_CARD.md", "metadata.json", "proof.json"} < {p.name for p in (output / name / "1").iterdir()}
        assert (output / name / "1" / find_format(name).file).exists()
        metadata.append(json.loads((output / name / "1" / "metadata.json").read_text()))
    assert all(one == metadata[0] for one in metadata)
    assert metadata[0]["precision"] == {"trained": "mixed_bfloat16", "exported": "float32"}
    assert metadata[0]["metrics"]["run"] == result(trained / "taught") and set(
        metadata[0]["proof"]) == set(PUBLISHED)
    assert sorted(p.name for p in (output / "reports" / "1").iterdir()) == ["proof.json", "proof.md"]


def test_what_is_published_is_the_moving_average_at_that_checkpoint(trained, exported):
    model, images, labels = averages(trained / "taught")
    report = json.loads((trained / "taught" / "export" / "reports" / "1" / "proof.json").read_text())
    assert report["metadata"]["checkpoint"] == {"step": model.step, "steps": [model.step], "weights": MOVING_AVERAGE}
    assert report["metadata"]["weights_sha256"] != result(trained / "taught")["weights_sha256"]
    expected = model.probabilities(images)
    session = onnxruntime.InferenceSession(str(trained / "taught" / "export" / "onnx" / "1" / "model.onnx"))
    found, = session.run(["probabilities"], {"image": images.astype(np.float32) / 255})
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5)
    accuracy = np.mean(expected.argmax(axis=1) == labels)
    for name, record in report["forms"].items():
        assert record["published"] and record["proof"]["live_accuracy"] == accuracy, name
        allowed = record["proof"]["allowed"]
        assert record["proof"]["difference"] <= allowed < 1.1 * find_format(name).tolerance.probability


def test_the_terminal_shows_the_export(exported):
    lines = exported.splitlines()
    assert [line for line in lines if "mixed_bfloat16" in line and "exported in float32" in line]
    assert any(line.startswith("model ") and "moving average" in line for line in lines)
    table = {line.split()[0]: line for line in lines if line.strip()}
    assert "export  version 1 in taught/export:" in lines and "100.00%" in table["onnx/1"]
    assert set(table) >= {f"{name}/1" for name in PUBLISHED}
    assert lines[-1] == "look    taught/export/reports/1/proof.md" and "p50" not in exported


@pytest.fixture(scope="module")
def violated(trained):
    """The completed command on `begun`, whose classes are as good as equally probable: int8 tells them apart badly."""
    return mirrorline("export", "--workdir=begun", "--format=tflite_int8,tflite", "--output=out", "--nolatency",
                      "--quiet", cwd=trained)


def test_a_format_outside_its_tolerance_is_not_published(trained, violated):
    assert violated.returncode == 1 and violated.stderr.count("\n") == 1, violated.stderr
    for printed in ("tflite_int8 is not published", "of the predictions are equal, at least 99.00% must be",
                    "its files are in out/tflite_int8/1.unproved/model.tflite"):
        assert printed in violated.stderr
    assert os.listdir(trained / "out" / "tflite_int8") == ["1.unproved"]
    assert (trained / "out" / "tflite_int8" / "1.unproved" / "model.tflite").exists()
    assert not (trained / "out" / "tflite_int8" / "1.unproved" / "MODEL_CARD.md").exists()
    assert (trained / "out" / "tflite" / "1" / "model.tflite").exists()


def test_frozen_variables_are_in_the_metadata_and_frozen_again(trained, violated):
    about = json.loads((trained / "out" / "tflite" / "1" / "metadata.json").read_text())
    assert about["frozen"] == {"patterns": ["hidden"], "variables": ["hidden/w", "hidden/b"], "parameters": 50_240,
                               "trained_parameters": 650} and about["initialization"] is None
    model = TrainedModel.load(RunDirectory(str(trained / "begun"))).model
    assert [v.path for v in model.trainable_variables] == ["mlp/classifier/w", "mlp/classifier/b"]
    assert [layer.name for layer in model._flatten_layers() if not layer.trainable] == ["hidden"]


def test_quiet_is_one_line_of_json(trained, violated):
    printed = json.loads(violated.stdout)
    assert printed["version"] == 1 and set(printed["forms"]) == {"tflite_int8", "tflite"}
    assert printed["forms"]["tflite"]["published"] and not printed["forms"]["tflite_int8"]["published"]
    assert printed["forms"]["tflite"]["proof"]["examples"] == 180  # Of --subset=3, as in training.
    assert printed["forms"]["tflite"]["latency"] == {}
    assert not (trained / "out" / "reports" / "1" / "latency.png").exists()


def test_the_next_export_is_a_new_version(trained, violated):
    before = (trained / "out" / "tflite" / "1" / "model.tflite").read_bytes()
    done = mirrorline("export", "--workdir=begun", "--format=tflite", "--output=out", "--nolatency", cwd=trained)
    assert done.returncode == 0 and done.stderr == "", done.stderr
    assert sorted(os.listdir(trained / "out" / "tflite")) == ["1", "2"]
    assert (trained / "out" / "tflite" / "1" / "model.tflite").read_bytes() == before
    assert "removed out/tflite_int8/1.unproved" in done.stdout and not os.listdir(trained / "out" / "tflite_int8")


def test_a_missing_checkpoint_is_refused(trained):
    lines = [("export", "--workdir=begun", *arguments) for arguments in (
        ("--checkpoint=270",), ("--checkpoint=nowhere/ckpt-1",), ("--average_checkpoints=9",))]
    expected = ("no checkpoint '270' in begun/checkpoints; steps there: 2", "nowhere", "--average_checkpoints=9")
    for (code, printed, errors), words in zip(answers(lines, trained), expected, strict=True):
        assert code == 2 and errors.count("\n") == 1 and words in errors and printed == "", errors
    assert not (trained / "begun" / "export").exists()


@pytest.mark.acceptance  # tests/export/test_publish.py has it in one process.
def test_a_full_disk_leaves_no_half_model(trained, tmp_path):
    with small_disk(tmp_path / "disk", 2) as disk:
        output = os.path.join(disk.folder, "export")
        disk.fill(leave=200_000)  # Less than the images, or the model, need.
        done = mirrorline("export", "--workdir=begun", "--format=tflite", f"--output={output}", cwd=trained,
                          fresh=not disk.real)
        disk.free()
        assert done.returncode == 1 and done.stderr.count("\n") == 1, done.stderr
        assert "the disk is full" in done.stderr and output in done.stderr
        assert os.listdir(disk.folder) == []


REFUSED = {
    ("--format=tflit",): ["unknown format 'tflit'", "did you mean 'tflite'?", "saved_model"],
    ("--format=keras,h5",): ["unknown format 'h5'", "weights"],
    ("--format=",): ["names no format"],
    ("--batch_sizes=0",): ["--batch_sizes", "found '0'"],
    ("--batch_sizes=1,x",): ["found 'x'", "--nolatency"],
    ("--average_checkpoints=0",): ["--average_checkpoints", "at least 1", "found 0"],
    ("--ema",): ["--ema_decay"],
    ("--model=cnn",): ["--model=cnn", "mlp"],
    ("--output=begun/config.json",): ["--output=begun/config.json", "give a folder"],
    ("--output=begun",): ["begun/keras", "it is a file"],
    ("--output=/proc/mirrorline",): ["--output=/proc/mirrorline", "cannot be written"],
    ("--output=",): ["--output", "is empty"],
    ("--workdir=nowhere",): ["nowhere holds no run", "mirrorline train"],
}
WITHOUT_TENSORFLOW = f"""
import json, sys
from launch.__main__ import main
codes = []
for arguments in {[list(a) for a in REFUSED]!r}:
    codes.append(main(["export", "--workdir=begun", *arguments]))
    print("----", file=sys.stderr)
print(json.dumps([codes, sorted({{"tensorflow", "keras", "numpy"}} & set(sys.modules))]))
"""


def snapshot(folder):
    return {str(p): p.is_file() and (p.stat().st_mtime_ns, p.read_bytes()) for p in folder.rglob("*")}


def test_wrong_use_is_refused_before_tensorflow_loads(trained, tmp_path):
    shutil.copytree(trained / "begun", tmp_path / "begun")
    (tmp_path / "begun" / "keras").write_text("a file of somebody else")
    before = snapshot(tmp_path)
    done = subprocess.run([sys.executable, "-c", WITHOUT_TENSORFLOW], cwd=tmp_path, env=environment(), text=True,
                          capture_output=True, timeout=600)
    assert done.returncode == 0, done.stderr
    codes, loaded = json.loads(done.stdout)
    lines = done.stderr.split("----\n")[:-1]
    assert codes == [2] * len(REFUSED) and loaded == [], (codes, loaded)
    for (arguments, says), line in zip(REFUSED.items(), lines, strict=True):
        assert line.count("\n") == 1 and [text for text in says if text not in line] == [], (arguments, line)
    assert snapshot(tmp_path) == before
