"""Loads and runs an exported model in a process that has nothing of training."""
import dataclasses
import os
import sys
import tempfile
from collections.abc import Mapping, Sequence

import numpy as np

from pipeline import extension
from pipeline.errors import RunFailure
from pipeline.export.export_format import ExportFormat
from pipeline.export.latency import SECONDS, summaries
from pipeline.processes import Processes

SCRIPT = os.path.join(os.path.dirname(os.path.abspath(__file__)), "run_exported.py")
ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
TIMEOUT = 1800.0  # Seconds to load, run a split and measure.


@dataclasses.dataclass(frozen=True)
class ExportedRun:
    """What an exported model computed in a fresh process.

    Attributes:
      probabilities: float32 [N, classes].
      latencies: see pipeline.export.latency.summaries; on the CPU.
      load_seconds: to import the runtime and load the model.
      threads: how many the runtime may use.
      runtime: what loaded it, with its version, as "onnxruntime 1.31.1".
    """

    probabilities: np.ndarray
    latencies: Mapping[str, Mapping[str, float]]
    load_seconds: float
    threads: int
    runtime: str


def run(export_format: ExportFormat, folder: str | os.PathLike, images: np.ndarray | str | os.PathLike,
        batch_sizes: Sequence[int] = (), *, seconds: float = SECONDS, timeout: float = TIMEOUT) -> ExportedRun:
    """Loads an export in a fresh process, without this process's state, and runs it.

    Args:
      export_format: ExportFormat that wrote it.
      folder: of its version; holds metadata.json too.
      images: uint8 [N, H, W, C], or the path of a .npy file of them.
      batch_sizes: to measure the latency of; none: it is not measured.
      seconds: to measure each batch size for.
      timeout: seconds that the process may take.

    Raises:
      RunFailure: it cannot be loaded or run, or not in time; holds the last line that the process wrote.
      UsageError: the packages that run it are missing.
    """
    export_format.check_requirements()
    # Ctrl-C and every other exception kill the process as this block is left.
    with tempfile.TemporaryDirectory(prefix="mirrorline-export-") as own, Processes(timeout) as processes:
        output, source = os.path.join(own, "found.npz"), os.path.join(own, "load.py")
        with open(source, "w", encoding="utf-8") as file:
            file.write(export_format.load_source())
        if not isinstance(images, (str, os.PathLike)):
            np.save(os.path.join(own, "images.npy"), images)
            images = os.path.join(own, "images.npy")
        package = export_format.runtime_package or export_format.runtime
        process = processes.start(
            "-I", SCRIPT, f"--load={source}", f"--package={package}",
            f"--model={os.path.join(folder, export_format.file)}", f"--images={images}", f"--output={output}",
            f"--batch_sizes={','.join(map(str, batch_sizes))}", f"--seconds={seconds}", f"--parent={os.getpid()}",
            *_surroundings(export_format, package))
        try:
            processes.finish(process)
        except RunFailure as failure:
            raise RunFailure(f"format {export_format.name} in a fresh process: {failure}") from None
        with np.load(output) as found:
            calls = {size: found[f"latency_{size}"] for size in batch_sizes}
            return ExportedRun(found["probabilities"], summaries(calls), float(found["load_seconds"]),
                               int(found["threads"]), f"{export_format.runtime} {found['version']}".strip())


def _surroundings(export_format: ExportFormat, package: str) -> list[str]:
    """Returns the arguments about modules that can be imported: -I leaves out a user's own packages and PYTHONPATH."""
    arguments = [f"--path={path}" for path in sys.path
                 if path and any(os.path.isdir(os.path.join(path, name)) for name in (package, "numpy"))]
    if export_format.needs_mirrorline:
        return [*arguments, f"--path={ROOT}", *(f"--extension={record['name']}" for record in extension.records())]
    without = ["pipeline"] if package == "tensorflow" else ["pipeline", "tensorflow", "keras"]
    return [*arguments, *(f"--without={name}" for name in without)]
