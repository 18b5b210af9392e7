"""mirrorline find as a user runs it."""
import hashlib
import json

import pytest
from PIL import Image

from tests.commands import answers, mirrorline, with_forked_children

SMALL = ("--model=mlp", "--augment=", "--batch_size=32")
LEARNING_RATE = ("find", "--learning_rate", *SMALL, "--find_steps=40")


def digests(folder):
    """Returns {path: digest} of every file in a folder."""
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
            for path in folder.rglob("*") if path.is_file()}


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    """{name: (code, output, errors)} of commands in one folder, and what they left there."""
    folder = tmp_path_factory.mktemp("find")
    assert answers([["train", *SMALL, "--steps=30", "--workdir=run"]], folder)[0][0] == 0
    run = digests(folder)
    lines = {
        "found": [*LEARNING_RATE, "--optimizer=sgd", "--schedule=constant", "--plot=curve.png"],
        "quiet": [*LEARNING_RATE, "--quiet", "--recipe=mnist-cnn", "--dataset=digits", "--initialize_from=run"],
        "nothing": [*LEARNING_RATE, "--lowest=1e-30", "--highest=1e-29", "--find_steps=20"],
        "of a run": [*LEARNING_RATE, "--workdir=run"],
        "no setting": ["find", *SMALL],
        "two": ["find", "--learning_rate", "--batch_size", *SMALL],
        "stray": ["find", "--batch_size", *SMALL, "--lowest=1e-6"],
        "order": [*LEARNING_RATE, "--lowest=1", "--highest=0.1"],
        "no image format": [*LEARNING_RATE, "--plot=curve.txt"],
        "too few": ["find", "--learning_rate", "--find_steps=2"],
        "option": [*LEARNING_RATE, "--optimizer=adam", "--nesterov"]}
    found = dict(zip(lines, answers(lines.values(), folder), strict=True))
    return {**found, "folder": folder, "run": run, "files": digests(folder)}


def test_the_curve_its_suggestions_and_the_flag_to_use(done):
    code, output, errors = done["found"]
    assert (code, errors) == (0, ""), errors
    lines = output.splitlines()
    assert lines[0].startswith("find    learning rate: 1e-07 to 10 in 40 steps of 32 examples, sgd, 1 replica")
    assert lines[-1].startswith("use     --learning_rate=")
    rate = float(lines[-1].partition("=")[2])
    assert 1e-4 < rate < 1
    assert [line for line in lines if line.startswith("valley ")][0].split()[1] == f"{rate:g}"
    assert {"valley", "steepest", "lowest"} <= {word for line in lines if "e-" in line for word in line.split()}
    with Image.open(done["folder"] / "curve.png") as image:
        assert image.width > 800 and len(set(image.convert("RGB").get_flattened_data())) > 20


def test_quiet_prints_json_and_a_recipe_may_have_a_rate(done):
    code, output, errors = done["quiet"]
    assert (code, errors) == (0, ""), errors
    found = json.loads(output)
    # The defaults of digits have a schedule with warm-up.
    assert found["flags"] == f"--learning_rate={found['suggestions']['steepest']:g}"
    assert len(found["losses"]) == len(found["learning_rates"]) == len(found["smoothed"]) <= 40
    assert set(found["suggestions"]) == {"valley", "steepest", "lowest"} and found["batch_size"] == 32


def test_a_run_is_left_alone_and_its_weights_may_be_begun_from(done):
    code, _, errors = done["of a run"]
    assert code == 2 and "--initialize_from=run" in errors and len(errors.splitlines()) == 1
    curve = done["files"].pop("curve.png")
    assert curve and done["files"] == done["run"]
    assert json.loads(done["quiet"][1])["losses"][0] < 0.9 * float(done["found"][1].splitlines()[4].split()[1])


def test_without_a_suggestion_it_says_why_and_fails(done):
    code, output, errors = done["nothing"]
    assert code == 1 and len(errors.splitlines()) == 1
    assert "no learning rate can be suggested" in errors and "--highest=1e-28" in errors
    assert "use " not in output and "learning rate" in output  # The curve is shown.


@pytest.mark.parametrize("name, words", [
    ("no setting", ["--learning_rate", "found none"]), ("two", ["found --learning_rate and --batch_size"]),
    ("stray", ["--lowest", "--batch_size"]), ("order", ["--lowest=1 --highest=0.1"]),
    ("no image format", ["curve.txt", ".png"]), ("too few", ["--find_steps", "20", "2"]), ("option", ["--nesterov"])])
def test_wrong_use_is_one_line(done, name, words):
    code, output, errors = done[name]
    assert (code, output, len(errors.splitlines())) == (2, "", 1)
    assert [word for word in words if word not in errors] == []


def test_the_batch_sizes_that_were_tried_and_the_flags_to_use(tmp_path):
    # With a batch of data there is one size to try.
    done = with_forked_children("find", "--batch_size", *SMALL, "--optimizer=adam", "--learning_rate=0.02",
                                "--subset=1", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, ""), done.stderr
    lines = done.stdout.splitlines()
    assert lines[0].startswith("find    batch size: mlp, digits, adam, 1 CPU replica, at most ")
    assert lines[-4:-1] == [
        "largest   16, 16 a replica: 32 is more than the 16 training examples",
        lines[-3],
        "rate      0.02 for 32 is 0.0141 for 16: by the square root of the batch, as the update does not grow with the "
        "gradient (adam)"]
    assert lines[-3].startswith("fastest   16: ") and lines[-1] == "use       --batch_size=16 --learning_rate=0.0141"
    assert list(tmp_path.iterdir()) == []


LIMITED = """
import resource, sys
from launch.__main__ import main
resource.setrlimit(resource.RLIMIT_DATA, (1200 * 2**20,) * 2)
sys.exit(main(sys.argv[1:]))
"""


def test_a_run_out_of_memory_names_what_would_fit(tmp_path):
    (tmp_path / "limited.py").write_text(LIMITED)
    done = mirrorline("train", "--dataset=synthetic:64x64x3", "--model=mlp", "--optimizer=sgd", "--batch_size=16384",
                      "--tensorboard=scalars", "--workdir=run", cwd=tmp_path, module="limited")
    assert done.returncode == 1, done.stderr
    assert "out of memory with --batch_size=16384: --accumulate_steps=2 computes the same step in parts of 8192; " \
        "'mirrorline find --batch_size'" in done.stderr.splitlines()[-1]
    assert "Traceback" not in done.stderr


def test_an_automatic_batch_size_is_kept_by_the_run(tmp_path, monkeypatch):
    automatic = ("train", "--model=mlp", "--augment=", "--optimizer=sgd", "--subset=1", "--batch_size=32",
                 "--batch_size=auto", "--workdir=run", "--tensorboard=scalars")
    begun = with_forked_children(*automatic, "--steps=2", cwd=tmp_path)
    assert begun.returncode == 0, begun.stderr
    config = json.loads((tmp_path / "run" / "config.json").read_text())["config"]
    # Of a batch of 32 the default rate of digits is 5e-4.
    assert (config["batch_size"], config["learning_rate"]) == (16, 0.00025)
    assert "batch   16, the fastest; the largest is 16; learning rate 0.00025, in proportion" in begun.stdout
    again = with_forked_children(*automatic, "--steps=2", cwd=tmp_path)
    assert again.returncode == 0 and "batch   16, as the run began" in again.stdout and "trying" not in again.stdout
    monkeypatch.setenv("TF_CONFIG", json.dumps({"cluster": {"worker": ["127.0.0.1:1", "127.0.0.1:2"]},
                                                "task": {"type": "worker", "index": 1}}))
    [several, launched] = answers([[*automatic, "--workdir=other"], ["launch", "--workers=2", "--", *automatic]],
                                  tmp_path)
    assert several[0] == launched[0] == 2
    assert "with several workers" in several[2] and "not with workers" in launched[2]
    assert not (tmp_path / "other").exists()
