"""Export formats of a user's file: listed, written, verified in a fresh process, named in metadata and model card."""
import json
import re

import pytest

from pipeline.errors import UsageError
from tests.commands import answers, mirrorline, succeed

MINE = '''
import numpy as np

from pipeline import register
from pipeline.export.export_format import ExportFormat


@register.export_format("npz", summary="the weights of mlp for NumPy alone")
class Npz(ExportFormat):
    file = "model.npz"
    runtime = "numpy"
    usage = """Numbers of shape {{ array }}:

```python
import numpy as np
print(sorted(np.load("model.npz")))
```
"""

    def write(self, trained, path, metadata, calibration=None):
        np.savez(path, **{v.path.replace("mlp/", ""): v.numpy() for v in trained.model.variables})

    @staticmethod
    def load(path, threads):
        import importlib

        import numpy as np
        for name in ("pipeline", "tensorflow", "keras"):
            try:
                importlib.import_module(name)
            except ImportError:
                continue
            raise ValueError(f"{name} is there")
        held = np.load(path)
        w1, b1, w2, b2 = (held[name] for name in ("hidden/w", "hidden/b", "classifier/w", "classifier/b"))

        def compute(images):
            hidden = np.maximum(images.reshape(len(images), -1) @ w1 + b1, 0)
            exponents = np.exp(hidden @ w2 + b2)
            return exponents / exponents.sum(axis=1, keepdims=True)

        return lambda images: np.float32(images) / np.float32(255), compute


@register.export_format("swapped", summary="a format that mixes the classes up")
class Swapped(Npz):
    @staticmethod
    def load(path, threads):
        import numpy as np
        return np.asarray, lambda images: np.full((len(images), 10), 0.1, np.float32)


@register.export_format("raising")
class Raising(ExportFormat):
    def write(self, trained, path, metadata, calibration=None):
        raise KeyError(trained.image_shape)


@register.export_format("lacking")
class Lacking(ExportFormat):
    requirements, install = ("no_such_runtime",), "some-runtime"
'''
RAISES = MINE.splitlines().index("        raise KeyError(trained.image_shape)") + 1


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder outside of the package with mine.py and a run of mlp without it."""
    made = tmp_path_factory.mktemp("mine")
    (made / "mine.py").write_text(MINE)
    succeed("train", "--dataset=digits", "--model=mlp", "--steps=3", "--workdir=run", "--quiet", cwd=made)
    return made


@pytest.fixture(scope="module")
def exported(folder):
    """The completed export of `run` in formats of mine.py and a built-in one."""
    return mirrorline("export", "--workdir=run", "--extension=mine.py", "--format=npz,swapped,raising,tflite",
                      "--nolatency", cwd=folder)


def test_the_help_lists_them(folder):
    words = re.sub(r"\s+", " ", succeed("export", "--help", "--extension=mine.py", cwd=folder).stdout)
    assert "onnx: ONNX, for onnxruntime" in words
    assert "npz: the weights of mlp for NumPy alone; swapped: a format that mixes the classes up; raising:" in words


def test_one_within_its_bounds_is_published_and_named_with_the_others(folder, exported):
    assert exported.returncode == 1, exported.stderr
    out = folder / "run" / "export"
    published = {path.name for path in out.iterdir() if (path / "1").is_dir()}
    assert published == {"npz", "tflite", "reports"}
    assert {path.name for path in (out / "npz" / "1").iterdir()} == {
        "model.npz", "metadata.json", "proof.json", "MODEL_CARD.md"}
    report = json.loads((out / "reports" / "1" / "proof.json").read_text())["forms"]["npz"]
    assert report["proof"]["difference"] < 1e-5 and report["runtime"].startswith("numpy ")
    for name in ("npz", "tflite"):
        assert set(json.loads((out / name / "1" / "metadata.json").read_text())["proof"]) == {"npz", "tflite"}
    card = (out / "npz" / "1" / "MODEL_CARD.md").read_text()
    assert "| npz (this one) |" in card and "Numbers of shape 28, 28, 1:" in card and 'np.load("model.npz")' in card
    assert "| npz |" in (out / "tflite" / "1" / "MODEL_CARD.md").read_text()
    assert "npz/1" in exported.stdout and "verify  npz in a fresh process" in exported.stdout


def test_one_outside_its_bounds_and_one_that_fails_are_not_published(folder, exported):
    lines = exported.stderr.splitlines()
    assert len(lines) == 2
    assert lines[0].startswith("mirrorline export: swapped is not published: the largest difference")
    assert f"raising is not published: export format raising: {folder}/mine.py, line {RAISES}: KeyError" in lines[1]


def test_what_is_missing_is_refused_in_one_line(folder, exported):
    lines = [("export", "--workdir=run", f"--format={name}", *more) for name, more in (
        ("npy", ("--extension=mine.py",)), ("npz", ()), ("lacking", ("--extension=mine.py",)))]
    (first, _, unknown), (second, _, near), (third, _, lacking) = answers(lines[1:2] + lines[:1] + lines[2:], folder)
    assert (first, second, third) == (2, 2, 2)
    assert "unknown format 'npz'" in unknown and "--extension=FILE.py adds your own" in unknown
    assert "unknown format 'npy': did you mean 'npz'" in near
    assert "format lacking needs no_such_runtime, which is not installed: pip install 'some-runtime'" in lacking


@pytest.mark.parametrize("name, origin, says", [
    ("onnx", dict, "export format 'onnx' is built in"),
    ("reports", dict, "export format 'reports' cannot be called so"),
    ("mine", dict, "export format 'mine' is no subclass of pipeline.export.export_format.ExportFormat")])
def test_what_cannot_be_registered_names_its_place(name, origin, says):
    from pipeline import register
    from pipeline.export.export_format import ExportFormat
    with pytest.raises(UsageError, match=says) as raised:
        register.export_format(name)(origin if name != "onnx" else type("Own", (ExportFormat,), {}))
    assert re.match(rf"{re.escape(__file__)}, line \d+: ", str(raised.value))
