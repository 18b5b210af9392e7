"""mirrorline benchmark: throughput of the training step over precisions, workers, replicas, batches and models."""
import os
import re
import sys
from collections.abc import Sequence
from typing import Any

from absl import flags as absl_flags

import flags
from flags import projection as projection_flags
from launch.cluster.benchmark_workers import CellWorkers
from launch.commands.launch import MOST_WORKERS, visible_gpus
from pipeline import config as configuration
from pipeline import onednn
from pipeline.augmentation import check_strengths
from pipeline.benchmark import grid
from pipeline.benchmark.store import Store
from pipeline.config import ExperimentConfig
from pipeline.console import Console
from pipeline.distributed import cuda, machine
from pipeline.errors import RunFailure, UsageError, unknown_name
from pipeline.paths import check_folder
from pipeline.quantities import counted, plural

# Imports inside functions: `--help` and wrong usage answer without TensorFlow.

SUMMARY = "measure how fast the training step is, over precisions, workers, replicas, batches and models"
PLACE = 70
GROUPS = ("data", "model", "optimizer", "training", "runtime")
WITHOUT = ("image_sizes",)  # That of this command is another.
EXIT_INTERRUPTED = 75
FEWEST_REPEATS = 5
QUICK_SECONDS = 0.2
# Default axes; a few minutes on two CPU cores.
CPU_AXES = {"precisions": ("float32", "mixed_bfloat16"), "replica_counts": (1, 2), "batch_sizes": (16, 32, 64)}
CPU_QUICK_AXES = {"precisions": ("float32",), "replica_counts": (1, 2), "batch_sizes": (32, 64)}
GPU_AXES = {"precisions": ("float32", "mixed_float16", "mixed_bfloat16"), "batch_sizes": (64, 128, 256, 512)}
GPU_QUICK_AXES = {"precisions": ("float32", "mixed_float16"), "batch_sizes": (64, 256)}
# The option of train that, if given, is the only value of an axis.
SINGLE = {"models": "model", "precisions": "precision", "replica_counts": "replicas", "batch_sizes": "batch_size"}


def define(flag_values: absl_flags.FlagValues) -> None:
    """Defines the flags of this command alone."""
    def define_list(name, text):
        absl_flags.DEFINE_list(name, None, text, flag_values=flag_values)

    define_list("models", "models to measure; default --model")
    define_list("image_sizes", "sizes of random images, e.g. 28x28x1,32x32x3; default the images of --dataset")
    define_list("precisions", "precisions to measure; default float32,mixed_bfloat16, on GPUs mixed_float16 too")
    define_list("workers", "numbers of processes of this machine that train together, each with the replicas of "
                "--replica_counts; default 1")
    define_list("replica_counts", "numbers of replicas; default 1,2, on GPUs 1,2,4 and so on to all of them, with "
                "several workers 1")
    define_list("batch_sizes", "global batch sizes; default 16,32,64, on GPUs 64,128,256,512")
    define_list("xla_modes", "off, on or both; on with several replicas needs --nosync_batch_norm; default off")
    absl_flags.DEFINE_integer("repeats", FEWEST_REPEATS, f"windows measured of each cell, at least {FEWEST_REPEATS}",
                              flag_values=flag_values)
    absl_flags.DEFINE_float("repeat_seconds", 0.5, "length of a window, as many steps as fit (seconds)",
                            flag_values=flag_values)
    absl_flags.DEFINE_boolean("quick", False, "fewer cells and shorter windows, unless given",
                              flag_values=flag_values)
    absl_flags.DEFINE_integer("memory_limit", 0, "main memory that a cell may use; a batch that does not fit is "
                              "halved; 0: no limit (MiB)", flag_values=flag_values)
    flags.define_path("output", os.path.join("runs", "benchmark"), "folder of benchmark.json, .csv, .md "
                      "and .html; the same command resumes there", flag_values)
    flags.define_path("compare", None, "an earlier benchmark.json: show what changed; exit code 1 on a regression",
                      flag_values)
    absl_flags.DEFINE_float("tolerance", 0.05, "loss of throughput that --compare accepts, as a share",
                            flag_values=flag_values)
    projection_flags.define(flag_values)


def run(config: ExperimentConfig, flag_values: absl_flags.FlagValues) -> int:
    """Runs the command; returns the exit code.

    Raises:
      UsageError: invalid values, before anything is measured or written.
      RunFailure: a cell failed, or --compare found a regression; the report is written anyway.
    """
    from pipeline.benchmark import comparison, projection
    from pipeline.benchmark import run as benchmark
    from pipeline.benchmark.display import create_display, print_table
    check_strengths(config.data.augment)
    gpus = cuda.count_gpus()
    config = with_image_sizes(config, flag_values)
    cells = grid.cells(resolve_axes(config, flag_values, gpus))
    check(cells, config, flag_values, gpus)
    links = projection.given_links(flag_values.link_inside, flag_values.link_between, flag_values.gpus_per_machine)
    old = comparison.read(flag_values.compare) if flag_values.compare else None
    check_output(flag_values.output, flag_values.compare)
    extent = {"repeats": flag_values.repeats, "repeat_seconds": repeat_seconds(flag_values)}
    onednn.choose(config.runtime.onednn, Console(config.runtime.verbosity == "quiet"),
                  cache_dir=config.data.cache_dir)
    store = Store(flag_values.output, {"measuring": {**extent, "memory_limit": flag_values.memory_limit},
                                       "versions": machine.versions(), "machine": machine.machine()})
    display = create_display(config.runtime.verbosity)
    try:
        found, complete = benchmark.measure_cells(
            cells, config, store, extent, display, flag_values.memory_limit,
            lambda folder: CellWorkers(folder, visible_gpus(gpus)))
    finally:
        display.close()
    if not found:
        return interrupted(0, len(cells))
    start = projection.choose(found) if flag_values.project else None
    projected = start and projection.project(start, flag_values.project, links or projection.DEFAULT_LINKS,
                                             flag_values.link_efficiency, flag_values.project_step_ms or None)
    given = [flag_values[name].serialize() for name in flag_values if not flag_values[name].using_default_value]
    command = " ".join(["mirrorline benchmark", *" ".join(given).split()])
    report = benchmark.write_report(found, complete, store, config, command, projected, shared_cores=not gpus)
    if config.runtime.verbosity != "quiet":
        print_table(report)
        print(f"look    {store.file('benchmark.html')}\n        {store.file('benchmark.md')}")
    return conclude(report, cells, old, flag_values.tolerance)


def with_image_sizes(config: ExperimentConfig, flag_values: absl_flags.FlagValues) -> ExperimentConfig:
    """Returns the configuration for --image_sizes: random images, without the defaults of another data set."""
    sizes, given = flag_values.image_sizes, flags.given_options(flag_values)
    if sizes is None:
        return config
    for name in ("dataset", "image_size"):
        if name in given:
            raise UsageError(f"--image_sizes generates random images; found --{name}={given[name]} too: give one")
    for size in sizes:
        if not re.fullmatch(r"[1-9]\d*x[1-9]\d*x[1-9]\d*", size):
            raise UsageError("--image_sizes must be height x width x channels, such as 28x28x1,32x32x3; found "
                             f"'{size}'")
    return ExperimentConfig.from_flat({**given, "dataset": f"synthetic:{sizes[0]}"})


def resolve_axes(config: ExperimentConfig, flag_values: absl_flags.FlagValues, gpus: int) -> dict[str, Any]:
    """Returns {axis: values}: those given for the axis, else the value of train's option if given, else defaults.

    Raises:
      UsageError: a list that is empty, or has a value twice or of another kind.
    """
    defaults = (GPU_QUICK_AXES if flag_values.quick else GPU_AXES) if gpus else (
        CPU_QUICK_AXES if flag_values.quick else CPU_AXES)
    defaults = {"replica_counts": tuple(n for n in (1, 2, 4, 8, 16) if n <= gpus), "xla_modes": ("off",),
                "models": (config.model.model,), "workers": (1,), **defaults}
    if flag_values.workers not in (None, ["1"]):
        defaults["replica_counts"] = (1,)
    given, axes = flags.given_options(flag_values), {}
    for name, values in defaults.items():
        if getattr(flag_values, name) is not None:
            values = tuple(getattr(flag_values, name))
        elif name in SINGLE and given.get(SINGLE[name]):
            values = (given[SINGLE[name]],)
        axes[name] = _read_list(name, values)
    if flag_values.xla_modes is None and config.runtime.xla == "on":
        axes["xla_modes"] = ("on",)
    axes["datasets"] = tuple(f"synthetic:{s}" for s in _read_list("image_sizes", flag_values.image_sizes)) if (
        flag_values.image_sizes is not None) else (config.data.dataset,)
    return axes


def _read_list(name, values):
    if not values:
        raise UsageError(f"--{name} is empty: give at least one value, or leave it out")
    if name in ("workers", "replica_counts", "batch_sizes"):
        wrong = [value for value in values if not re.fullmatch(r"[1-9]\d{0,8}", str(value))]
        if wrong:
            raise UsageError(f"--{name} must be whole numbers from 1, such as 1,2; found '{wrong[0]}'")
        values = tuple(map(int, values))
    known = {"precisions": configuration.PRECISIONS, "xla_modes": ("off", "on")}.get(name)
    for value in values:
        if known and value not in known:
            raise unknown_name(f"value of --{name}", value, known)
        if values.count(value) > 1:
            raise UsageError(f"--{name} holds {value} twice: give each value once")
    return tuple(values)


def check(cells: Sequence[grid.Cell], config: ExperimentConfig, flag_values: absl_flags.FlagValues, gpus: int) -> None:
    """Raises UsageError for cells or settings that cannot be measured."""
    from pipeline.distributed import devices
    if flag_values.repeats < FEWEST_REPEATS:
        raise UsageError(f"--repeats must be at least {FEWEST_REPEATS}, or the spread means nothing; found "
                         f"{flag_values.repeats}")
    for name, least in (("repeat_seconds", 0.001), ("memory_limit", 0), ("tolerance", 0)):
        if not least <= getattr(flag_values, name) < 1e9:
            raise UsageError(f"--{name} must be a number from {least:g}; found {getattr(flag_values, name):g}")
    if flag_values.tolerance >= 1:
        raise UsageError(f"--tolerance={flag_values.tolerance:g}: give a share below 1, such as 0.05")
    projection_flags.check(flag_values)
    for cell in cells:
        if cell.workers > 1:
            check_workers(cell, config, gpus)
        kind, indices = devices.choose_devices(gpus // cell.workers, config.runtime.devices, cell.replicas)
        devices.check_cross_device_reduction(config.runtime.cross_device_reduction, kind, len(indices))
        grid.check(cell, config)


def check_workers(cell: grid.Cell, config: ExperimentConfig, gpus: int) -> None:
    """Raises UsageError where this machine or these settings do not allow the workers of a cell."""
    from pipeline.distributed import devices
    if cell.workers > MOST_WORKERS:
        raise UsageError(f"--workers={cell.workers}: give at most {MOST_WORKERS}, all on this machine")
    if gpus and cell.all_replicas > gpus:
        raise UsageError(f"--workers={cell.workers} with --replica_counts={cell.replicas} on {gpus} "
                         f"{plural(gpus, 'GPU')}: each worker has GPUs of its own; give fewer of either")
    if config.runtime.devices:
        raise UsageError(f"--devices={','.join(config.runtime.devices)} is of one process: with --workers each worker "
                         "has its share of the GPUs; choose them with CUDA_VISIBLE_DEVICES")
    devices.check_workers(config.runtime)


def check_output(folder: str, compared: str | None) -> None:
    """Raises UsageError where the report could not be written, or would replace the one it is compared with."""
    check_folder("--output", folder)
    if compared and os.path.realpath(compared) == os.path.realpath(os.path.join(folder, "benchmark.json")):
        raise UsageError(f"--compare={compared} is what this benchmark writes: give another folder with --output")


def repeat_seconds(flag_values: absl_flags.FlagValues) -> float:
    """Returns the length of a window in seconds."""
    quick = flag_values.quick and flag_values["repeat_seconds"].using_default_value
    return QUICK_SECONDS if quick else flag_values.repeat_seconds


def conclude(report: dict[str, Any], cells: Sequence[grid.Cell], old: dict[str, Any] | None, tolerance: float) -> int:
    """Compares; returns the exit code, or raises RunFailure for cells that failed and for regressions."""
    from pipeline.benchmark import comparison
    if not report["complete"]:
        return interrupted(len(report["cells"]), len(cells))
    failed = [cell for cell in report["cells"] if cell["status"] == "failed"]
    wrong = []
    if failed:
        first = f"{grid.name_of(failed[0])}: {failed[0]['error']}"
        wrong.append(f"{len(failed)} of {counted(len(cells), 'cell')} failed: {first}")
    if old:
        rows, regressed = comparison.compare(old, report, tolerance)
        comparison.print_table(rows)
        if regressed:
            wrong.append(f"slower than before by more than {tolerance:.3g} of the speed: "
                         f"{next(row.cell for row in rows if row.verdict == comparison.REGRESSED)}")
    if wrong:
        raise RunFailure("; ".join(wrong))
    return 0


def interrupted(done: int, cells: int) -> int:
    """Reports the interruption; returns the exit code."""
    print(f"stopped with {done} of {counted(cells, 'cell')} measured; run the same command again to continue",
          file=sys.stderr)
    return EXIT_INTERRUPTED
