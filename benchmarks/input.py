"""Compares the input pipeline with its peers: python -m benchmarks.input [--rounds=15] [--seconds=2] [--only=TEXT].

Images a second and processor time an image of Mirrorline's training stream, of the fastest form in tf.data, of Keras's
image_dataset_from_directory and of PyTorch's DataLoader with torchvision: photographs from files, and images in memory.
The streams take turns, each resting meanwhile; those of TensorFlow share a process. Prints tables.
"""
import argparse
import contextlib
import dataclasses
import datetime
import functools
import importlib.metadata
import os
import pathlib
import platform
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from benchmarks import photographs, table
from benchmarks.processes import Process, in_order
from benchmarks.pulling import pull
from benchmarks.ratios import PAIRS, median_ratio
from pipeline.errors import RunFailure, UsageError, unknown_name
from pipeline.processor import cpu_model

CROP, STRETCH, MEMORY = "Mirrorline, resized_crop and flip", "Mirrorline, stretch", "Mirrorline, crop and flip"
FUSED, KERAS, TORCH = "tf.data, fused", "Keras image_dataset_from_directory", "PyTorch DataLoader, torchvision"
TF_DATA = "tf.data"
TORCH_PROGRAM = "benchmarks.torch_input"


@dataclasses.dataclass(frozen=True)
class InputWorkload:
    """Images that are read.

    Attributes:
      height, width: of the photographs; of images in memory with size None.
      size: that they are resized to.
      count: how many there are.
      noise: see photographs.photograph; None for images in memory.
      batch_size: small for large photographs, so that a turn has several batches.
      targets: least ratio of (own stream, peer) in images a second, or None.
    """

    height: int
    width: int
    size: int | None
    count: int
    noise: int | None
    batch_size: int
    targets: Mapping[tuple[str, str], float | None]


WORKLOADS = {
    "photographs of 500x375 to 224": InputWorkload(375, 500, 224, 256, 20, 64, {
        (CROP, FUSED): 0.9, (CROP, KERAS): 1.5, (STRETCH, KERAS): None, (CROP, TORCH): 1.2}),
    "photographs of 4000x3000 to 224": InputWorkload(3000, 4000, 224, 16, 10, 8, {
        (CROP, FUSED): None, (CROP, KERAS): 6.0, (STRETCH, KERAS): 6.0, (CROP, TORCH): 6.0}),
    "32x32 in memory": InputWorkload(32, 32, None, 10_000, None, 128, {(MEMORY, TF_DATA): 0.9, (MEMORY, TORCH): 1.2})}


@dataclasses.dataclass(frozen=True)
class TorchPython:
    """A Python that has torch and torchvision.

    Attributes:
      path: of its interpreter.
      versions: {package: version}.
    """

    path: str
    versions: Mapping[str, str]


@dataclasses.dataclass(frozen=True)
class InputSettings:
    """What a measurement depends on.

    Attributes:
      rounds: turns of every stream.
      seconds: of a turn.
      torch: None: PyTorch is left out.
      folder: for data, kept.
    """

    rounds: int
    seconds: float
    torch: TorchPython | None
    folder: pathlib.Path


def measure(workload: InputWorkload, settings: InputSettings, info: Callable[[str], Any] = print) -> dict[str, Any]:
    """Lets the streams of a workload take turns.

    Args:
      workload: what is read.
      settings: of the run.
      info: takes a line a round.

    Returns:
      {"images/s", "processor ms": {stream: [rounds]}, "ratios": as table.ratio_lines takes them}.

    Raises:
      RunFailure: the process of PyTorch ended.
    """
    with contextlib.ExitStack() as stack:
        pullers = start(workload, settings, stack)
        rates, costs = ({name: [] for name in pullers} for _ in range(2))
        for number in range(settings.rounds):
            for name in in_order(pullers, number):
                found = pullers[name](settings.seconds)
                rates[name].append(found["images"] / found["seconds"])
                costs[name].append(found["processor"] / found["images"] * 1e3)
            info(f"round {number + 1} of {settings.rounds}: "
                 + "; ".join(f"{name} {rates[name][-1]:,.0f}/s, {costs[name][-1]:.2f} ms" for name in pullers))
    ratios = []
    for (own, peer), bound in workload.targets.items():
        if peer in rates:
            what = f"{own}, over {peer}"
            ratios += [{"what": what, "ratio": median_ratio(rates[own], rates[peer]), "bound": bound, "at_least": True},
                       {"what": f"{what}, by processor time", "ratio": median_ratio(costs[peer], costs[own]),
                        "bound": None, "at_least": True}]
    return {"images/s": rates, "processor ms": costs, "ratios": ratios}


def start(workload: InputWorkload, settings: InputSettings,
          stack: contextlib.ExitStack) -> dict[str, Callable[[float], Any]]:
    """Makes the data of a workload and opens its streams; returns {stream: function of seconds, as pulling.pull}.

    Args:
      stack: ends the process of PyTorch.
    """
    from benchmarks import input_streams as streams  # TensorFlow, which bad usage need not wait for.

    name = f"{workload.count}-of-{workload.height}x{workload.width}"
    folder, batch = str(settings.folder / name), workload.batch_size
    order = {"size": workload.size, "batch_size": batch, "crop": streams.CROP}
    if workload.noise is None:
        draw = np.random.default_rng(0)
        images = draw.integers(0, 256, (workload.count, workload.height, workload.width, 3), np.uint8)
        labels = draw.integers(0, 10, workload.count, np.int32)
        os.makedirs(folder, exist_ok=True)
        np.save(f"{folder}/images.npy", images)
        np.save(f"{folder}/labels.npy", labels)
        order["arrays"] = folder
        made = {MEMORY: streams.mirrorline_arrays, TF_DATA: streams.fused_arrays}
        datasets = {name: make(images, labels, batch) for name, make in made.items()}
    else:
        photographs.make_folder(pathlib.Path(folder), workload.count, workload.height, workload.width, workload.noise)
        order["folder"] = folder
        made = {CROP: functools.partial(streams.mirrorline_files, augment=("resized_crop", "flip")),
                STRETCH: functools.partial(streams.mirrorline_files, augment=()),
                FUSED: streams.fused_files, KERAS: streams.keras_files}
        datasets = {name: make(folder, workload.size, batch) for name, make in made.items()}
    pullers = {name: functools.partial(pull, streams.opener(dataset)) for name, dataset in datasets.items()}
    if settings.torch:
        process = stack.enter_context(Process(TORCH, order, ("-m", TORCH_PROGRAM), python=settings.torch.path))
        pullers[TORCH] = lambda seconds: process.ask("pull", seconds=seconds)
    return pullers


def markdown(name: str, found: Mapping[str, Any]) -> str:
    """Returns the tables of one workload."""
    lines = [f"## {name}", "", *table.head(["", "images/s", "processor ms an image"])]
    for stream, rates in found["images/s"].items():
        costs = found["processor ms"][stream]
        lines.append(table.row([stream, f"{np.median(rates):,.0f}", f"{np.median(costs):.3g}"]))
    return "\n".join([*lines, "", *table.ratio_lines([found])])


def conditions(settings: InputSettings) -> str:
    """Returns when and under which conditions is measured."""
    versions = {name: importlib.metadata.version(name) for name in ("tensorflow", "keras")}
    versions |= settings.torch.versions if settings.torch else {}
    return (f"{datetime.datetime.now(datetime.UTC):%Y-%m-%d %H:%M} UTC, {cpu_model()}, "
            f"{len(os.sched_getaffinity(0))} cores, Python {platform.python_version()}, "
            + ", ".join(f"{name} {number}" for name, number in versions.items())
            + f"; load before {os.getloadavg()[0]:.1f}; {settings.rounds} rounds of {settings.seconds:g} s")


def find_torch(python: str | None) -> TorchPython | None:
    """Returns the Python that has torch and torchvision, or None where this one lacks them.

    Args:
      python: the one given; None: this one.

    Raises:
      UsageError: the one given lacks them.
    """
    path = python or sys.executable
    program = "import numpy, torch, torchvision; print(torch.__version__, torchvision.__version__)"
    try:
        said = subprocess.run([path, "-c", program], check=True, capture_output=True, text=True).stdout
    except (OSError, subprocess.CalledProcessError):
        if python is None:
            return None
        raise UsageError(f"--torch_python={python} cannot import torch, torchvision and NumPy: give a Python where "
                         "'pip install torch torchvision numpy' was run") from None
    return TorchPython(path, dict(zip(("torch", "torchvision"), said.split(), strict=True)))


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command; returns the exit code: 0, 1 a failure, 2 wrong use."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.input", description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=PAIRS,
                        help="turns of every stream; fewer than 15 resolve nothing")
    parser.add_argument("--seconds", type=float, default=2.0, help="of a turn")
    parser.add_argument("--only", default="", help=f"text in the names of what to measure: {'; '.join(WORKLOADS)}")
    parser.add_argument("--torch_python", help="Python interpreter with torch and torchvision; default: this one, if "
                                               "it has them")
    parser.add_argument("--folder", type=pathlib.Path, help="where data are made, and kept for the next time; default: "
                                                            "one for temporary files, removed")
    given = parser.parse_args(arguments)
    try:
        if given.rounds < 1:
            raise UsageError(f"--rounds must be at least 1; found {given.rounds}")
        if not given.seconds > 0:
            raise UsageError(f"--seconds must be above 0; found {given.seconds:g}")
        names = [name for name in WORKLOADS if given.only in name]
        if not names:
            raise unknown_name("workload", given.only, WORKLOADS)
        with tempfile.TemporaryDirectory(prefix="mirrorline-input-") as made:
            folder = (given.folder or pathlib.Path(made)).resolve()
            settings = InputSettings(given.rounds, given.seconds, find_torch(given.torch_python), folder)
            print(conditions(settings), flush=True)
            if not settings.torch:
                print(f"{TORCH}: left out, since torch and torchvision are not installed: pip install '.[peers]', or "
                      "give another Python with --torch_python", flush=True)
            for name in names:
                found = measure(WORKLOADS[name], settings, lambda line: print(line, file=sys.stderr, flush=True))
                print(f"\n{markdown(name, found)}", flush=True)
    except (UsageError, RunFailure) as error:
        print(error, file=sys.stderr)
        return 2 if isinstance(error, UsageError) else 1
    return 0


if __name__ == "__main__":
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    code = main()
    sys.stdout.flush()
    os._exit(code)  # Threads of a stream that call Python and the end of the interpreter may wait for each other.
