"""Names that the terminal cannot show, files that are UTF-8 wherever they are written, and nothing left open."""
import ast
import re
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from tests.commands import environment, mirrorline, start
from tests.test_structure import SOURCES

ASCII = {"PYTHONIOENCODING": "ascii", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "LC_ALL": "C"}
NAMES = ("Kätzchen", "犬")
SHOWN = (r"K\xe4tzchen", r"\u72ac")
QUICK = ("--steps=1", "--batch_size=4", "--model=mlp", "--augment=", "--tensorboard=scalars")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with images of two classes in `images` and a run of them in `run`, by a terminal that knows ASCII."""
    folder = tmp_path_factory.mktemp("encodings")
    for label, name in enumerate(NAMES):
        (folder / "images" / name).mkdir(parents=True)
        for number in range(4):
            Image.fromarray(np.full([8, 8], 40 * number + label, np.uint8)).save(
                folder / "images" / name / f"{name}-{number}.png")
    run(folder, "train", "--dataset=folder:images", "--validation_split=0.5", *QUICK, "--workdir=run")
    return folder


def run(folder, *arguments):
    """Runs a command where standard output is ASCII; returns it."""
    process = start(*arguments, cwd=folder, more=ASCII, fresh=arguments[0] == "predict")
    out, errors = process.communicate(timeout=300)
    assert process.returncode == 0 and "Traceback" not in errors, errors
    return out


def test_evaluate_prints_the_names_of_classes(folder):
    out = run(folder, "evaluate", "--workdir=run")
    assert SHOWN[0] in out and out.isascii()


@pytest.mark.acceptance  # From nothing.
def test_predict_prints_the_names_of_classes(folder):
    """What it writes is for other programs too, and UTF-8 everywhere."""
    assert NAMES[0] in run(folder, "predict", "--workdir=run", f"images/{NAMES[0]}/{NAMES[0]}-0.png")


def without_encoding(text):
    """Returns the lines of a source on which a text file is opened, or a process read, in the locale's encoding."""
    found = []
    for node in ast.walk(ast.parse(text)):
        if not isinstance(node, ast.Call):
            continue
        name, named = ast.unparse(node.func), {keyword.arg: keyword.value for keyword in node.keywords}
        mode = named.get("mode", node.args[1] if name in ("open", "os.fdopen") and len(node.args) > 1 else (
            node.args[0] if "tempfile" in name and node.args else None))
        mode = getattr(mode, "value", "w+b" if "tempfile" in name else "r")
        opens = re.fullmatch(r"open|os\.fdopen|tempfile\.(Named)?TemporaryFile|.*path.*\.(read|write)_text", name)
        reads = name.startswith("subprocess.") and {"text", "universal_newlines"} & set(named)
        given = {"encoding", None} & set(named) or name.endswith("read_text") and node.args or (
            name.endswith("write_text") and len(node.args) > 1)
        if (opens and "b" not in str(mode) or reads) and not given:
            found.append(node.lineno)
    return found


@pytest.mark.parametrize("text", ["open(path)", "open(path, 'w')", "tempfile.NamedTemporaryFile('w')",
                                  "subprocess.run(['ls'], text=True)", "path.read_text()"])
def test_the_check_of_encodings_sees_what_has_none(text):
    assert without_encoding(text) == [1]


@pytest.mark.parametrize("text", ["open(path, 'rb')", "open(path, encoding='utf-8')", "tempfile.TemporaryFile()",
                                  "open(path, 'w', **ENCODING)", "subprocess.run(['ls'])",
                                  "path.read_text('utf-8')", "path.write_text(text, 'utf-8')"])
def test_the_check_of_encodings_lets_others_pass(text):
    assert without_encoding(text) == []


def test_every_text_file_has_an_encoding():
    assert {path: lines for path, text in SOURCES.items() if (lines := without_encoding(text))} == {}


STOP = """
import gc
from pipeline.training.preemption import StopRequest
with StopRequest() as stop:
    pass
gc.collect()
"""


def test_nothing_is_left_open(tmp_path):
    done = subprocess.run([sys.executable, "-X", "dev", "-c", STOP], capture_output=True, encoding="utf-8", timeout=120,
                          cwd=tmp_path, env=environment())
    assert (done.returncode, done.stderr) == (0, "")
    assert mirrorline("--help", cwd=tmp_path).stderr == ""
