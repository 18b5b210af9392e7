"""oneDNN is used as the run began, and at first where it is faster; decided before TensorFlow is loaded."""
import json
import sys

import pytest

from pipeline import onednn
from pipeline.console import Console
from tests.commands import mirrorline, result

AVX2, VNNI = {"sse4_1", "avx", "avx2"}, {"avx2", "avx512f", "avx512_vnni"}
RUN = ("train", "--model=mlp", "--batch_size=100", "--subset=2", "--tensorboard=scalars", "--evaluate_every=2")
OFF, ON = {"device": {"kind": "CPU", "onednn": False}}, {"device": {"kind": "CPU", "onednn": True}}


@pytest.fixture
def before_tensorflow(monkeypatch):
    """As in a process that has not loaded TensorFlow and whose environment decides nothing."""
    monkeypatch.delitem(sys.modules, "tensorflow", raising=False)
    monkeypatch.delenv(onednn.VARIABLE, raising=False)
    monkeypatch.setenv("HOME", "/nonexistent")


@pytest.mark.parametrize("features, requested, stored, gain, wanted, line", [
    (VNNI, "auto", None, None, None, None), (AVX2, "auto", None, 2.94, "1", "on, 2.9 times as fast"),
    (AVX2, "auto", None, 1.05, None, None), (AVX2, "auto", OFF, 3.0, "0", None),
    (VNNI, "auto", OFF, None, "0", "onednn  off, as this run began"),
    (AVX2, "auto", ON, None, "1", "onednn  on, as this run began"), (AVX2, "auto", {"device": {}}, 3.0, None, None),
    (VNNI, "off", ON, None, "0", None), (AVX2, "on", OFF, None, "1", None)])
def test_choice(before_tensorflow, monkeypatch, tmp_path, capsys, features, requested, stored, gain, wanted, line):
    """The processor's features are given, and a measurement that was made before."""
    monkeypatch.setattr(onednn, "cpu_features", lambda: features)
    monkeypatch.setattr(onednn, "_measure", lambda value: gain if value == "0" else 1.0)
    monkeypatch.setattr(onednn.os.path, "exists", lambda path: False)  # No GPU.
    onednn.choose(requested, Console(), stored, cache_dir=str(tmp_path))
    found = capsys.readouterr().out
    assert onednn.os.environ.get(onednn.VARIABLE) == wanted
    assert (line in found and found.count("\n") == 1) if line else found == ""


def test_several_workers_and_the_environment_are_not_measured(before_tensorflow, monkeypatch, tmp_path):
    monkeypatch.setattr(onednn, "cpu_features", lambda: AVX2)
    onednn.choose("auto", Console(), None, alone=False, cache_dir=str(tmp_path))
    assert onednn.VARIABLE not in onednn.os.environ
    monkeypatch.setenv(onednn.VARIABLE, "0")
    onednn.choose("auto", Console(), ON, cache_dir=str(tmp_path))
    assert onednn.os.environ[onednn.VARIABLE] == "0" and list(tmp_path.iterdir()) == []


def device(workdir):
    return json.loads((workdir / "config.json").read_text())["device"]["onednn"]


@pytest.fixture
def begun(tmp_path, monkeypatch):
    """A folder with a run of two steps, begun without oneDNN by a process that starts without TensorFlow."""
    monkeypatch.delenv(onednn.VARIABLE, raising=False)
    done = mirrorline(*RUN, "--steps=2", "--onednn=off", "--workdir=run", cwd=tmp_path, fresh=True)
    assert done.returncode == 0 and not done.stderr, done.stderr
    return tmp_path


@pytest.mark.acceptance
def test_the_flag_decides_for_a_run(begun):
    assert device(begun / "run") is False


@pytest.mark.acceptance
def test_a_run_keeps_it_when_it_is_resumed_without_the_flag(begun):
    done = mirrorline(*RUN, "--steps=4", "--allow=steps", "--workdir=run", cwd=begun, fresh=True)
    assert done.returncode == 0 and not done.stderr, done.stderr
    assert device(begun / "run") is False and result(begun / "run")["step"] == 4


@pytest.mark.acceptance
def test_it_is_measured_once(before_tensorflow, tmp_path):
    gain = onednn.measured_gain(Console(quiet=True), str(tmp_path))
    (file,) = tmp_path.iterdir()
    found = json.loads(file.read_text())
    assert gain == found["seconds_without"] / found["seconds_with"] > 0.2
    file.write_text(json.dumps({**found, "seconds_without": 7 * found["seconds_with"]}))
    assert onednn.measured_gain(Console(quiet=True), str(tmp_path)) == pytest.approx(7)
