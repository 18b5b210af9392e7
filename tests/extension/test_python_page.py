"""The page about Python holds: its blocks run as they stand, and do what the commands do."""
import json
import os
import re
import shutil

import pytest

from tests.commands import REPOSITORY, metrics, mirrorline, result

PAGE = REPOSITORY / "docs" / "python.md"
EXAMPLE = REPOSITORY / "docs" / "example_extension.py"


@pytest.fixture(scope="module")
def ran(tmp_path_factory):
    """(folder, lines) of one process that has run the blocks of the page."""
    folder = tmp_path_factory.mktemp("page")
    return folder, run("\n".join(blocks()), folder)


def blocks():
    """Returns the text of each block of Python that runs."""
    return re.findall(r"^```python\n(.*?)^```", PAGE.read_text(), re.MULTILINE | re.DOTALL)


def run(text, folder):
    """Runs blocks of the page in a process of their own; returns the lines that they print."""
    shutil.copy(EXAMPLE, folder)
    # What TensorBoard shows apart from scalars is a third of a short run, as in tests.commands.
    (folder / "page.py").write_text(text.replace('"verbosity": "quiet"',
                                                 '"verbosity": "quiet", "tensorboard": "scalars"'))
    done = mirrorline(cwd=folder, module="page")
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


@pytest.mark.acceptance
def test_the_first_blocks_of_the_page_configure_and_its_last_take_an_extension(tmp_path):
    """With one epoch instead of six, and nothing exported."""
    configuration, invalid = blocks()[:2]
    own, = [block for block in blocks() if block.startswith("mine = ")]
    names = "from pipeline.runs import evaluate, load, train\n"
    lines = run(configuration + invalid + names + own.replace('"epochs": 6', '"epochs": 1, "subset": 3'), tmp_path)
    accuracy = result(tmp_path / "runs" / "shapes")["test_accuracy"]
    assert lines[0] == "64 float32" and lines[1].startswith("unknown --optimizer 'adm': did you mean 'adam'?")
    assert float(lines[2]) == accuracy and lines[3] == f"{accuracy} ('disc', 'square', 'cross')"


@pytest.mark.acceptance
def test_the_blocks_of_the_page_print_what_it_promises(ran):
    folder, lines = ran
    first, whole = (json.loads((folder / "runs" / name / "result.json").read_text()) for name in ("first", "shapes"))
    assert lines[0] == "64 float32"
    assert lines[1].startswith("unknown --optimizer 'adm': did you mean 'adam'? known: adafactor, adam, adamw, lamb, ")
    status, _, sha256 = lines[2].split()
    assert status == "finished" and len(sha256) == 64
    assert lines[3] == "45 steps in runs/first" and first["step"] == 45
    assert lines[4].split()[2] == "360"
    assert lines[5] == "accuracy True ['as it is', '1 right', '1 left']"
    assert lines[6] == f"{tuple(map(str, range(10)))} (28, 28, 1) 45"
    assert re.fullmatch(r"white\.png \(\('\d', 0\.\d+\), \('\d', 0\.\d+\)\)", lines[7])
    assert lines[8] == "1 []" and sorted(os.listdir(folder / "runs" / "first" / "export")) == [
        "keras", "reports", "zipped"]
    assert lines[9].split()[0] == "keras" and "'loss'" in lines[10] and float(lines[11]) > 0
    assert lines[12:14] == ["windows: True metric: True", "finished"]
    assert lines[14] == "4"
    assert float(lines[15]) == whole["test_accuracy"] > 0.6
    assert lines[16] == f"{whole['test_accuracy']} ('disc', 'square', 'cross')"
    assert lines[17] == "[] True" and len(lines) == 18


@pytest.mark.acceptance
def test_a_run_in_python_equals_that_of_the_command(ran):
    folder, lines = ran
    options = ["--dataset=digits", "--model=three_apis", "--augment=crop", "--learning_rate=3e-3", "--verbosity=quiet"]
    unlike = ["--batch_size=64", "--schedule=constant", "--warmup=0", "--optimizer=adam", "--ema_decay=0"]
    done = mirrorline("train", *options, *unlike, "--epochs=1", "--workdir=command", cwd=folder)
    assert done.returncode == 0, done.stderr
    assert result(folder / "command")["weights_sha256"] == lines[2].split()[2]
    losses = [r["loss"] for r in metrics(folder / "runs" / "first", "train")]
    assert losses[:23] == [r["loss"] for r in metrics(folder / "command", "train")]
    evaluated = mirrorline("evaluate", "--workdir=runs/first", "--verbosity=quiet", "--noreport", "--checkpoint=best",
                        cwd=folder)
    assert evaluated.returncode == 0, evaluated.stderr
    assert json.loads(evaluated.stdout)["accuracy"] == float(lines[4].split()[0])


def test_the_page_shows_the_names_of_the_example():
    names = re.findall(r'register\.\w+\("(\w+)"', EXAMPLE.read_text())
    assert names == ["small_net", "shapes"] and all(name in PAGE.read_text() for name in names)
    assert "docs/python.md" in (REPOSITORY / "README.md").read_text()
