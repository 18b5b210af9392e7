"""An extension on the command line: the run finds it again, and notices what has changed."""
import json
import os
import shutil

import pytest

from pipeline.extension import digest
from tests.commands import REPOSITORY, answers, mirrorline, result

TRAIN = ("train", "--dataset=shapes", "--model=small_net", "--model_options=width=4", "--batch_size=50", "--augment=",
         "--schedule=constant", "--workdir=run", "--verbosity=quiet")


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A folder with mine.py and a run of three steps that was trained with it."""
    folder = tmp_path_factory.mktemp("extension")
    shutil.copy(REPOSITORY / "docs" / "example_extension.py", folder / "mine.py")
    done = mirrorline(*TRAIN, "--steps=3", "--extension=mine.py", cwd=folder)
    assert (done.returncode, done.stderr) == (0, "")
    return folder


@pytest.fixture
def copy(run, tmp_path):
    """A folder with a copy of that run, whose extension lies where it lay."""
    shutil.copytree(run / "run", tmp_path / "run")
    stored = (tmp_path / "run" / "config.json").read_text()
    (tmp_path / "run" / "config.json").write_text(stored.replace(str(run), str(tmp_path)))
    shutil.copy(run / "mine.py", tmp_path)
    return tmp_path


def test_the_run_records_path_and_checksum(run):
    stored = json.loads((run / "run" / "config.json").read_text())
    assert stored["config"]["extension"] == [str(run / "mine.py")]
    record, = stored["extensions"]
    assert (record["kind"], record["name"]) == ("file", str(run / "mine.py"))
    assert list(record["files"]) == ["mine.py"] and len(record["files"]["mine.py"]) == 64


def test_changed_code_is_refused_until_it_is_allowed(copy):
    with open(copy / "mine.py", "a") as file:
        file.write("# Changed.\n")
    before = (copy / "run" / "config.json").read_bytes()
    (code, _, errors), (evaluated, _, warning) = answers([
        (*TRAIN, "--steps=4", "--extension=mine.py"),
        ("evaluate", "--workdir=run", "--noreport", "--verbosity=quiet")], copy)
    assert code == 2 and errors.count("\n") == 1
    assert "run holds a run with other settings: extension mine.py " in errors
    assert "continue anyway with --allow=extension" in errors
    assert (copy / "run" / "config.json").read_bytes() == before
    assert evaluated == 0 and warning.startswith("the code of this run's model or data has changed since")
    allowed = mirrorline(*TRAIN, "--steps=4", "--allow=extension", cwd=copy)  # It knows where the file lies.
    assert (allowed.returncode, allowed.stderr, result(copy / "run")["step"]) == (0, "", 4)
    record, = json.loads((copy / "run" / "config.json").read_text())["extensions"]
    assert record["files"]["mine.py"] == digest(copy / "mine.py")  # From now on the changed code is this run's.


def test_a_moved_file_is_named_and_found_where_it_is_given(copy):
    (copy / "mine.py").rename(copy / "there.py")
    lost = mirrorline("predict", "--workdir=run", str(REPOSITORY / "docs" / "report.png"), cwd=copy)
    assert lost.returncode == 2
    assert lost.stderr == (f"mirrorline predict: --extension={copy / 'mine.py'}: no such file or directory; where it "
                           "has moved, give its new place\n")
    os.mkdir(copy / "new")
    (copy / "there.py").rename(copy / "new" / "mine.py")
    found = mirrorline("predict", "--workdir=run", "--extension=new/mine.py", "--format=csv", "--verbosity=quiet",
                       str(REPOSITORY / "docs" / "report.png"), cwd=copy)
    assert (found.returncode, found.stderr) == (0, "") and found.stdout.splitlines()[1].count(",") == 6


def test_an_error_is_reported_before_anything_is_loaded_or_written(tmp_path):
    (tmp_path / "mine.py").write_text("def f(:\n")
    for command in ("train", "benchmark"):
        done = mirrorline(command, "--extension=mine.py", cwd=tmp_path)
        assert (done.returncode, done.stdout) == (2, "")
        assert done.stderr == (f"mirrorline {command}: --extension={tmp_path / 'mine.py'}, line 1: invalid syntax\n")
    assert os.listdir(tmp_path) == ["mine.py"]


def test_inspect_shows_its_models(tmp_path):
    shown = mirrorline("inspect", f"--extension={REPOSITORY / 'docs' / 'example_extension.py'}", "--model=small_net",
                       cwd=tmp_path)
    assert shown.returncode == 0 and "conv2d" in shown.stdout and "24x24x1" in shown.stdout
