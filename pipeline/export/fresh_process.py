"""An exported form loaded and run in a process that knows nothing of training."""
import dataclasses
import os
import sys
import tempfile

import numpy as np

from pipeline import extension
from pipeline.errors import RunFailure
from pipeline.export.extras import check_extra
from pipeline.export.latency import SECONDS, summaries
from pipeline.processes import Processes

JUDGE = os.path.join(os.path.dirname(os.path.abspath(__file__)), "run_exported.py")
ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
WEIGHTS_MAKER = "pipeline.export.weights_file:load"
TIMEOUT = 1800.0  # Seconds for loading, judging a split and measuring.
PACKAGES = {"tensorflow": "tensorflow", "keras": "keras", "litert": "ai_edge_litert", "onnxruntime": "onnxruntime"}


@dataclasses.dataclass(frozen=True)
class Judged:
    """What a form said in a process of its own.

    Attributes:
      probabilities: float32 [N, classes].
      latencies: see pipeline.export.latency.summaries; on the CPU.
      load_seconds: to import the runtime and load the model.
      threads: how many the runtime may use.
      runtime: what loaded it, with its version, as "onnxruntime 1.31.1".
    """

    probabilities: np.ndarray
    latencies: dict
    load_seconds: float
    threads: int
    runtime: str


def judge(form, folder, images, batch_sizes=(), *, signature=None, seconds=SECONDS, timeout=TIMEOUT):
    """Loads a form in a fresh process, without this process's state, and runs it.

    Args:
      form: Form.
      folder: that Form.write wrote its file into, or was given itself; for the weights metadata.json is beside them.
      images: uint8 [N, H, W, C], or the path of a .npy file of them.
      batch_sizes: to measure the latency of; none: it is not measured.
      signature: of a SavedModel, if not serving_default; whatever it takes is made of the images.
      seconds: to measure each batch size for.
      timeout: seconds that the process may take.

    Returns:
      Judged.

    Raises:
      RunFailure: it cannot be loaded or run, or not in time; holds the last line that the process wrote.
      UsageError: the packages that run it are missing.
    """
    check_extra(form)
    # Ctrl-C and every other exception kill the process as this block is left.
    with tempfile.TemporaryDirectory(prefix="mirrorline-export-") as own, Processes(timeout) as processes:
        output = os.path.join(own, "found.npz")
        if not isinstance(images, (str, os.PathLike)):
            np.save(os.path.join(own, "images.npy"), images)
            images = os.path.join(own, "images.npy")
        process = processes.start(
            "-I", JUDGE, f"--runtime={form.runtime}", f"--model={os.path.join(folder, form.file)}",
            f"--images={images}", f"--output={output}", f"--batch_sizes={','.join(map(str, batch_sizes))}",
            f"--seconds={seconds}", f"--parent={os.getpid()}", *_loading(form, folder, signature))
        try:
            processes.finish(process)
        except RunFailure as failure:
            raise RunFailure(f"form {form.name} in a process of its own: {failure}") from None
        return _read(output, form.runtime, batch_sizes)


def _loading(form, folder, signature):
    """Returns the arguments that say what a form is loaded with."""
    arguments = [f"--path={path}" for path in _package_folders(PACKAGES[form.runtime])]
    if form.runtime == "keras":
        arguments += [f"--path={ROOT}", "--import=pipeline.models"]
        arguments += [f"--extension={record['name']}" for record in extension.records()]
    if form.name == "weights":
        arguments += [f"--metadata={os.path.join(folder, 'metadata.json')}", f"--maker={WEIGHTS_MAKER}"]
    return arguments + ([f"--signature={signature}"] if signature else [])


def _package_folders(package):
    """Returns the folders of this process's path with a runtime in them: -I leaves out a user's own and PYTHONPATH."""
    return [path for path in sys.path
            if path and any(os.path.isdir(os.path.join(path, name)) for name in (package, "numpy"))]


def _read(path, runtime, batch_sizes):
    with np.load(path) as found:
        calls = {size: found[f"latency_{size}"] for size in batch_sizes}
        return Judged(found["probabilities"], summaries(calls), float(found["load_seconds"]),
                      int(found["threads"]), f"{runtime} {found['version']}")
