"""Runs an exported model in a process that has nothing of training: its probabilities, and how long it takes.

A script that imports nothing of this project:

    python -I run_exported.py --load=load.py --model=model.onnx --images=images.npy --output=found.npz

`load.py` defines load(path, threads), see ExportFormat. It reads uint8 images [N, H, W, C] and writes `probabilities`
float32 [N, classes], `load_seconds`, `threads`, `version` (of --package) and, for each of --batch_sizes,
`latency_<size>`: milliseconds of each call. Everything is computed on the CPU, so that all formats are compared on the
same device. On failure: exit code 1, and one line on standard error.
"""
import argparse
import importlib
import os
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

# Imports inside functions: each runtime is loaded in a process that needs no other.

BATCH = 64  # Images at once where time is not measured: memory does not grow with the split.
WARM_CALLS, FEWEST_CALLS, MOST_CALLS = 3, 20, 100_000
POLL_SECONDS = 0.5


def probabilities(prepare: Callable, compute: Callable, images: Any) -> Any:
    """Returns float32 [N, classes] for uint8 [N, H, W, C] images, a batch at a time."""
    import numpy as np
    return np.concatenate([np.asarray(compute(prepare(images[first:first + BATCH])), np.float32)
                           for first in range(0, len(images), BATCH)])


def latencies(compute: Callable, batch: Any, seconds: float, clock: Callable[[], float] = time.perf_counter
              ) -> list[float]:
    """Measures calls one after another.

    Args:
      compute: function of a batch.
      batch: its input, prepared.
      seconds: how long to measure; at least FEWEST_CALLS calls.
      clock: returns seconds.

    Returns:
      Milliseconds of each call after the first WARM_CALLS, which trace, compile and allocate.
    """
    for _ in range(WARM_CALLS):
        compute(batch)
    found: list[float] = []
    end = clock() + seconds
    while len(found) < FEWEST_CALLS or clock() < end and len(found) < MOST_CALLS:
        start = clock()
        compute(batch)
        found.append(1000 * (clock() - start))
    return found


def repeated(images: Any, size: int) -> Any:
    """Returns `size` images [size, H, W, C], repeated from the first on where there are fewer."""
    import numpy as np
    return images[np.arange(size) % len(images)]


def run(options: argparse.Namespace) -> None:
    """Loads, computes, measures and writes."""
    import numpy as np
    images = np.load(options.images, mmap_mode="r")
    names: dict[str, Any] = {}
    with open(options.load, encoding="utf-8") as file:
        exec(compile(file.read(), options.load, "exec"), names)
    start = time.perf_counter()
    prepare, compute = names["load"](options.model, options.threads)
    load_seconds = time.perf_counter() - start
    found = {"probabilities": probabilities(prepare, compute, images), "load_seconds": load_seconds,
             "threads": options.threads, "version": getattr(sys.modules.get(options.package), "__version__", "")}
    for size in options.batch_sizes:
        found[f"latency_{size}"] = latencies(compute, prepare(repeated(images, size)), options.seconds)
    np.savez(options.output, **found)


def end_with(parent: int) -> None:
    """Ends this process soon after its parent is gone, however that ended."""
    def watch():
        while os.getppid() == parent:
            time.sleep(POLL_SECONDS)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def main(arguments: list[str]) -> int:
    """Runs one model; returns the exit code."""
    parser = argparse.ArgumentParser(allow_abbrev=False)
    for name in ("load", "model", "images", "output"):
        parser.add_argument(f"--{name}", required=True)
    parser.add_argument("--package", default="", help="module whose version is written")
    parser.add_argument("--without", action="append", default=[], help="module that cannot be imported")
    parser.add_argument("--batch_sizes", type=lambda text: [int(size) for size in text.split(",") if size], default=[])
    parser.add_argument("--seconds", type=float, default=1.0, help="to measure each batch size for")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--path", action="append", default=[], help="folder to import from, after all others")
    parser.add_argument("--extension", action="append", default=[], help="as --extension of mirrorline")
    parser.add_argument("--parent", type=int, help="process to end with")
    options = parser.parse_args(arguments)
    if options.parent:
        end_with(options.parent)
    for name in [name for name in os.environ if name.startswith("KERAS_")]:
        del os.environ[name]
    # Keras finds no file of a user's there, and matplotlib, which it imports, needs no module of a notebook's.
    os.environ.update(CUDA_VISIBLE_DEVICES="-1", TF_CPP_MIN_LOG_LEVEL="3", KERAS_BACKEND="tensorflow",
                      KERAS_HOME=os.devnull, MPLBACKEND="Agg")
    sys.modules.update(dict.fromkeys(options.without))
    sys.path += [path for path in options.path if path not in sys.path]
    try:
        if options.extension:
            importlib.import_module("pipeline.extension").load(tuple(options.extension))
        run(options)
    except Exception as error:
        print(f"{type(error).__name__}: {' '.join(str(error).split()) or 'no reason given'}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
