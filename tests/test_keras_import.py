"""A user's Keras settings, environment or notebook do not change the results."""
import json
import os
import subprocess
import sys

import keras
import pytest

from pipeline import keras_import, runs
from pipeline.config import ExperimentConfig
from pipeline.console import Console
from pipeline.errors import UsageError
from tests.commands import environment, mirrorline, result, start

RUN = ("--dataset=digits", "--model=mlp", "--batch_size=100", "--steps=3", "--subset=2", "--augment=",
       "--tensorboard=scalars")
NOTEBOOK = "module://matplotlib_inline_of_elsewhere.backend_inline"
FILES = [
    {"image_data_format": "channels_first", "floatx": "float64", "epsilon": 0.1, "backend": "torch",
     "nnx_enabled": True},
    {"image_data_format": "nchw", "floatx": "bfloat16", "epsilon": 1},  # Each ends the import of Keras.
]
VARIABLES = {"KERAS_BACKEND": "jax", "KERAS_MAX_EPOCHS": "one", "KERAS_NNX_ENABLED": "1", "MPLBACKEND": NOTEBOOK,
             "TF_USE_LEGACY_KERAS": "1", **dict.fromkeys(keras_import.OF_ARITHMETIC[:-1], "BF16"),
             "TF_FUNCTION_JIT_COMPILE_DEFAULT": "1"}


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    """A folder with a run in `plain`, and the checksum of its weights."""
    folder = tmp_path_factory.mktemp("keras")
    assert mirrorline("train", *RUN, "--workdir=plain", cwd=folder).returncode == 0
    return folder, result(folder / "plain")["weights_sha256"]


def settings(folder, content):
    """Writes keras.json; returns the environment of a user with it."""
    (folder / ".keras").mkdir(exist_ok=True)
    (folder / ".keras" / "keras.json").write_text(json.dumps(content))
    return {"HOME": str(folder), "KERAS_HOME": str(folder / ".keras"), **VARIABLES}


def test_run_has_the_same_weights(plain, tmp_path):
    folder, weights = plain
    process = start("train", *RUN, "--workdir=hostile", cwd=folder, fresh=True, more=settings(tmp_path, FILES[0]))
    _, errors = process.communicate(timeout=300)
    assert (process.returncode, errors) == (0, "")
    assert result(folder / "hostile")["weights_sha256"] == weights


@pytest.mark.acceptance
def test_export_verification_in_its_own_process(plain, tmp_path):
    folder, _ = plain
    process = start("export", "--workdir=plain", "--format=keras", "--nolatency", f"--output={tmp_path / 'out'}",
                    cwd=folder, more=settings(tmp_path, FILES[1]))
    printed, errors = process.communicate(timeout=300)
    assert process.returncode == 0, printed + errors
    assert json.loads((tmp_path / ".keras" / "keras.json").read_text()) == FILES[1]  # A user's file stays.


def test_no_variable_changes_the_precision(monkeypatch):
    names = {"DNNL_DEFAULT_FPMATH_MODE", "ONEDNN_DEFAULT_FPMATH_MODE", "TF_SET_ONEDNN_FPMATH_MODE",
             "TF_FUNCTION_JIT_COMPILE_DEFAULT"}
    for name in names:
        monkeypatch.setenv(name, "BF16")
    keras_import.install()
    assert not names & set(os.environ)


@pytest.mark.acceptance
def test_downloads_are_in_the_folder_of_the_user_whatever_is_imported_first(tmp_path):
    code = ("import pipeline, tensorflow; from pipeline.internals.keras_internals import home; "
            "from pipeline.models import registry; print(home())")
    done = subprocess.run([sys.executable, "-c", code], env={**environment(), "KERAS_HOME": str(tmp_path)}, text=True,
                          capture_output=True, check=True)
    assert done.stdout.strip() == str(tmp_path)


PYTHON = """
import keras
before = keras.config.image_data_format(), keras.config.epsilon()
from pipeline import runs
from pipeline.config import ExperimentConfig
from pipeline.console import Console
runs.build(ExperimentConfig.from_flat({"dataset": "digits", "model": "cnn"}), console=Console(quiet=True))
print(before, keras.config.image_data_format(), keras.config.epsilon(), keras.config.floatx())
"""


@pytest.mark.acceptance
def test_python_with_keras_imported_before(tmp_path):
    content = {"image_data_format": "channels_first", "floatx": "float16", "epsilon": 0.1}
    done = subprocess.run([sys.executable, "-c", PYTHON], capture_output=True, text=True, timeout=300, cwd=tmp_path,
                          env={**environment(), "KERAS_HOME": settings(tmp_path, content)["KERAS_HOME"]})
    assert done.stdout == "('channels_first', 0.1) channels_last 1e-07 float32\n", done.stderr


def test_python_with_another_keras_backend(plain, monkeypatch, tmp_path):
    monkeypatch.setattr(keras.config, "backend", lambda: "torch")  # It would have to be installed.
    for use in (lambda: runs.train(ExperimentConfig.from_flat({"workdir": str(tmp_path / "run")}), Console(quiet=True)),
                lambda: runs.load(str(plain[0] / "plain")), keras_import.set_defaults):
        with pytest.raises(UsageError, match="Keras computes with torch in this process.*KERAS_BACKEND=tensorflow"):
            use()
    assert not os.path.exists(tmp_path / "run")
