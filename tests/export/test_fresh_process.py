"""An export in a fresh process: what it computes, how it fails, and that the process never stays behind."""
import os
import shlex
import signal
import subprocess
import sys
import threading
import time

import numpy as np
import onnxruntime
import psutil
import pytest

from pipeline.errors import RunFailure
from pipeline.export import fresh_process, run_exported
from pipeline.export.export_format import find_format
from pipeline.files import write_json
from tests.export.fresh_models import metadata, pixels, trained_model
from tests.selection import quick
from tests.test_structure import PACKAGES, imports, under


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """(TrainedModel, {format name: folder}) of an mlp in two formats."""
    trained, folders = trained_model("mlp"), {}
    for name in ("onnx", "tflite_int8"):
        folders[name] = tmp_path_factory.mktemp(name)
        written = find_format(name)
        written.write(trained, str(folders[name] / written.file), metadata(trained), pixels(trained, 50))
    return trained, folders


def test_probabilities_and_latency(exported):
    trained, folders = exported
    images = pixels(trained, 2 * run_exported.BATCH + 5)  # Three batches, the last one short.
    found = fresh_process.run(find_format("onnx"), folders["onnx"], images, (1, 200), seconds=0.05)
    assert found.probabilities.dtype == np.float32
    np.testing.assert_allclose(found.probabilities, trained.probabilities(images), rtol=0, atol=1e-5)
    assert list(found.latencies) == ["1", "200"]  # More than there are images, too.
    assert found.latencies["1"]["calls"] >= run_exported.FEWEST_CALLS and found.latencies["1"]["p50"] > 0
    assert found.threads == len(os.sched_getaffinity(0)) and found.load_seconds > 0
    assert found.runtime == f"onnxruntime {onnxruntime.__version__}"


def test_quantized_inputs_and_outputs_are_those_of_the_model(exported, tmp_path):
    trained, folders = exported
    images = pixels(trained, 9)
    np.save(tmp_path / "images.npy", images)
    found = fresh_process.run(find_format("tflite_int8"), folders["tflite_int8"], tmp_path / "images.npy")
    assert np.abs(found.probabilities - trained.probabilities(images)).max() < 0.03 and found.latencies == {}
    np.testing.assert_allclose(found.probabilities * 256, np.rint(found.probabilities * 256), atol=1e-4)


@pytest.mark.parametrize("name", quick(["saved_model", "keras", "weights"], 0))
def test_formats_of_tensorflow_and_keras_are_loaded_alike(name, tmp_path):
    trained, written, images = trained_model("three_apis"), find_format(name), pixels(trained_model("three_apis"), 5)
    path = os.path.join(tmp_path, written.file)
    written.write(trained, path, metadata(trained))
    write_json(os.path.join(tmp_path, "metadata.json"), metadata(trained))
    signatures = ("serving_default", "serving_uint8", "serving_bytes") if name == "saved_model" else ()
    for signature in ([name] for name in signatures) if signatures else [()]:
        prepare, compute = written.load(path, 1, *signature)
        np.testing.assert_allclose(run_exported.probabilities(prepare, compute, images), trained.probabilities(images),
                                   rtol=0, atol=1e-5)


def test_the_process_imports_nothing_of_this_project(tmp_path):
    with open(fresh_process.SCRIPT, encoding="utf-8") as file:
        assert not [name for name in imports(file.read()) if under(name, *PACKAGES)]
    (tmp_path / "load.py").write_text("import pipeline")
    np.save(tmp_path / "images.npy", np.zeros(1))
    done = subprocess.run([sys.executable, "-I", fresh_process.SCRIPT, "--load=load.py", "--model=x",
                           "--images=images.npy", "--output=x", f"--path={fresh_process.ROOT}", "--without=pipeline"],
                          cwd=tmp_path, capture_output=True, text=True, timeout=600)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == "ModuleNotFoundError: import of pipeline halted; None in sys.modules\n"


def test_what_cannot_be_loaded_fails_in_one_line(exported, tmp_path, capfd):
    (tmp_path / "model.onnx").write_bytes(b"no model")
    with pytest.raises(RunFailure, match=r"^format onnx in a fresh process: InvalidProtobuf: .*model.onnx.*"):
        fresh_process.run(find_format("onnx"), tmp_path, pixels(exported[0]))
    assert capfd.readouterr() == ("", "")


@pytest.fixture
def endless(tmp_path):
    """A path that nothing is ever read from: who opens it waits."""
    os.mkfifo(tmp_path / "images.npy")
    return tmp_path / "images.npy"


def runners(path):
    """Returns the running processes that have been given a path."""
    found = []
    for process in psutil.process_iter(["cmdline", "status"]):
        if f"--images={path}" in (process.info["cmdline"] or ()) and process.info["status"] != psutil.STATUS_ZOMBIE:
            found.append(process)
    return found


def test_the_process_has_a_time_limit(exported, endless):
    with pytest.raises(RunFailure, match="format onnx .*: a process did not end within 0.5 s"):
        fresh_process.run(find_format("onnx"), exported[1]["onnx"], endless, timeout=0.5)
    assert runners(endless) == []


def test_an_interruption_ends_the_process(exported, endless):
    def interrupt():
        with open(endless, "wb"):  # Until it is read from.
            os.kill(os.getpid(), signal.SIGINT)

    before, thread = signal.signal(signal.SIGINT, signal.default_int_handler), threading.Thread(target=interrupt)
    thread.start()
    try:
        with pytest.raises(KeyboardInterrupt):
            fresh_process.run(find_format("onnx"), exported[1]["onnx"], endless, timeout=60)
    finally:
        signal.signal(signal.SIGINT, before)
        thread.join()
    assert runners(endless) == []


def test_the_process_ends_with_its_killed_parent(endless):
    command = shlex.join([sys.executable, "-I", str(fresh_process.SCRIPT), "--load=x", "--model=x",
                          f"--images={endless}", "--output=x"]) + " --parent=$$ & wait"
    parent = subprocess.Popen(["sh", "-c", command], stdin=subprocess.DEVNULL)
    with open(endless, "wb"):
        assert len(runners(endless)) == 1
        parent.kill()
        parent.wait()
        deadline = time.monotonic() + 600
        while runners(endless) and time.monotonic() < deadline:
            time.sleep(0.1)
    assert runners(endless) == []
