"""Bad input gets one line on standard error that says what would work, exit code 2, and touches nothing."""
import json
import os
import pathlib

import numpy as np
from PIL import Image

from tests.commands import answers, mirrorline


def _images(folder, parts=("train", "test"), classes=("cat", "dog"), count=3, size=12):
    """Writes a small folder of images."""
    for part in parts:
        for i, name in enumerate(classes):
            target = pathlib.Path(folder) / part / name
            target.mkdir(parents=True)
            for number in range(count):
                pixels = np.random.RandomState(10 * i + number).randint(0, 255, (size, size, 3), "uint8")
                Image.fromarray(pixels).save(target / f"{number}.png")
    return folder


def _snapshot(folder):
    return {str(p): (p.stat().st_mtime_ns, p.read_bytes() if p.is_file() else b"") for p in
            sorted(pathlib.Path(folder).rglob("*"))}


def refuse(folder, *arguments, says, command="train"):
    """Runs the command and checks how it refuses."""
    before = _snapshot(folder)
    done = mirrorline(command, *arguments, cwd=folder)
    assert done.returncode == 2, (done.returncode, done.stdout, done.stderr)
    assert done.stderr.count("\n") == 1 and "Traceback" not in done.stderr, done.stderr
    for text in says:
        assert text in done.stderr, done.stderr
    assert _snapshot(folder) == before, "something was touched"


REFUSED = [
    # First what opens the most replicas, since all of them are refused in one process.
    (("--augment=mixup", "--batch_size=10", "--replicas=2"), ["mixup", "multiple of 4"]),
    (("--model=cmn",), ["'cmn'", "'cnn'"]),
    (("--batch_size=30", "--replicas=4"), ["--batch_size=30", "4 replicas", "28 or 32"]),
    (("--batch_size=32", "--replicas=4", "--accumulate_steps=3"), ["3 micro-batches", "--batch_size=32"]),
    (("--replicas=9",), ["--replicas=9", "at most 8"]),
    (("--devices=0",), ["--devices=0", "no GPU 0"]),
    (("--precision=mixed_float16",), ["mixed_float16", "--force", "slower"]),
    (("--workdir=/proc/mirrorline",), ["/proc/mirrorline", "cannot be written"]),
    (("--dataset=digts",), ["'digts'", "'digits'"]),
    (("--dataset=synthetic:9x",), ["synthetic:9x", "synthetic:32x32x3"]),
    (("--model=three_apis", "--dataset=synthetic:12x12x3"), ["three_apis", "12x12", "19"]),
    (("--model=resnet_like", "--model_options=identity_kernal=3"), ["identity_kernal", "identity_kernel"]),
    (("--xla=on", "--replicas=2"), ["--xla=on", "--nosync_batch_norm"]),
    (("--model=mobilenet", "--model_options=alpha=0.25", "--dataset=synthetic:32x32x3x5", "--initialize_from=imagenet"),
     ["mobilenet_2_5_224_tf_no_top.h5", "http://127.0.0.1:9/", "put it into", ".keras/models"]),
    (("--warmup=soon",), ["--warmup", "soon", "1epoch"]),
]


def test_refused(tmp_path, monkeypatch):
    monkeypatch.delenv("ONEDNN_MAX_CPU_ISA", raising=False)  # With it half precision is refused for another reason.
    monkeypatch.setenv("MIRRORLINE_WEIGHTS_URL", "http://127.0.0.1:9")
    found = answers([("train", *arguments) for arguments, _ in REFUSED], tmp_path)
    for (arguments, says), (code, _, errors) in zip(REFUSED, found, strict=True):
        assert code == 2 and errors.count("\n") == 1, (arguments, code, errors)
        assert [text for text in says if text not in errors] == [], (arguments, errors)
    assert os.listdir(tmp_path) == []


def test_a_workdir_that_is_a_file(tmp_path):
    (tmp_path / "run").write_text("mine")
    refuse(tmp_path, "--workdir=run", says=["--workdir=run is a file", "run-2"])


def test_a_workdir_with_other_things_in_it(tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "thesis.txt").write_text("mine")
    refuse(tmp_path, "--workdir=run", says=["not of a run", "run-2"])


def test_a_workdir_of_another_run(tmp_path):
    train = ("train", "--augment=", "--workdir=run")
    trained, model, steps = answers([(*train, "--model=mlp", "--steps=2"), (*train, "--model=cnn", "--steps=2"),
                                     (*train, "--model=mlp", "--steps=4")], tmp_path)
    assert trained[0] == 0, trained
    for (code, _, errors), says in ((model, ["model mlp (now cnn)", "run-2"]), (steps, ["steps", "--allow=steps"])):
        assert code == 2 and errors.count("\n") == 1 and [text for text in says if text not in errors] == [], errors
    # What is in the checkpoint decides in the end, whatever the settings say.
    config = tmp_path / "run" / "config.json"
    stored = json.loads(config.read_text())
    stored["config"]["model"] = "cnn"
    config.write_text(json.dumps(stored))
    os.remove(tmp_path / "run" / "result.json")
    refuse_arguments = ("--model=cnn", "--augment=", "--steps=2", "--workdir=run")
    refused = mirrorline("train", *refuse_arguments, cwd=tmp_path)
    assert refused.returncode == 2 and "another model" in refused.stderr and refused.stderr.count("\n") == 1


def test_a_data_dir_without_the_data(tmp_path):
    (tmp_path / "data").mkdir()
    refuse(tmp_path, "--dataset=mnist", "--data_dir=data", says=["mnist", "data"])


def test_an_empty_class_folder(tmp_path):
    _images(tmp_path / "mine")
    (tmp_path / "mine" / "train" / "bird").mkdir()
    (tmp_path / "mine" / "test" / "bird").mkdir()
    refuse(tmp_path, "--dataset=folder:mine", "--model=mlp", says=["bird"])


def test_a_corrupt_image(tmp_path):
    _images(tmp_path / "mine")
    (tmp_path / "mine" / "train" / "cat" / "1.png").write_bytes(b"no image at all")
    refuse(tmp_path, "--dataset=folder:mine", "--model=mlp", says=["1.png", "--skip_unreadable"])
    done = mirrorline("train", "--dataset=folder:mine", "--model=mlp", "--augment=", "--steps=2", "--batch_size=2",
                      "--skip_unreadable", "--workdir=run", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "1 unreadable" in done.stdout and "5 training" in done.stdout


def test_evaluate_without_a_run(tmp_path):
    refuse(tmp_path, "--workdir=nowhere", command="evaluate", says=["nowhere", "no run"])
