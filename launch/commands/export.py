"""mirrorline export: writes the model of a run in several formats, each verified before it is published."""
import json
import os
import re
import sys
from collections.abc import Sequence
from typing import Any

from absl import flags as absl_flags

import flags
from pipeline import extension, run_directory, runs
from pipeline.choices import EXPORT_FORMATS
from pipeline.config import ExperimentConfig, keeps_average
from pipeline.console import Console
from pipeline.errors import UsageError
from pipeline.evaluation.selection import StoredRun
from pipeline.export import export_format
from pipeline.export.publish import REPORTS
from pipeline.paths import folder_obstacle

# Imports inside functions: `--help` and wrong usage answer without TensorFlow.

SUMMARY = "write a trained model as SavedModel, Keras file, TFLite or ONNX, each verified against the trained model"
PLACE = 40
GROUPS = ()
ONLY = ("workdir", "dataset", "model", "data_dir", "extension", "allow", "verbosity")
DEFAULT_FORMATS = ("saved_model", "keras", "weights")
BATCH_SIZES = ("1", "8", "64")


def define(flag_values: absl_flags.FlagValues) -> None:
    """Defines the flags that only export has."""
    flags.define_path("checkpoint", "latest", "latest, best, a step (270), or a path without suffix", flag_values)
    absl_flags.DEFINE_list("format", list(DEFAULT_FORMATS), "formats to write, any of "
                           + "; ".join(f"{name}: {export_format.summary(name)}" for name in EXPORT_FORMATS),
                           flag_values=flag_values)
    flags.define_path("output", None, "folder of all exports of the model, each in FORMAT/VERSION; an existing "
                      "version is never overwritten; default WORKDIR/export", flag_values)
    absl_flags.DEFINE_bool("ema", None, "export the moving average of the weights, or the weights as trained "
                           "(--noema); default: the average where the run has one (--ema_decay)",
                           flag_values=flag_values)
    absl_flags.DEFINE_integer("average_checkpoints", 1, "export the mean of the weights of this many checkpoints, the "
                              "named one and those before it (checkpoints)", flag_values=flag_values)
    absl_flags.DEFINE_bool("latency", True, "measure the latency of each format", flag_values=flag_values)
    absl_flags.DEFINE_list("batch_sizes", list(BATCH_SIZES), "batches that latency is measured with (images)",
                           flag_values=flag_values)


def run(config: ExperimentConfig, flag_values: absl_flags.FlagValues) -> int:
    """Runs the command; returns the exit code: 1 where a format is not published."""
    batch_sizes = wanted_batch_sizes(flag_values)
    if flag_values.average_checkpoints < 1:
        raise UsageError(f"--average_checkpoints must be at least 1; found {flag_values.average_checkpoints}")
    directory, options, extensions = run_to_export(config, flag_values)
    # All formats run on the CPU where they are compared: GPUs round float32 otherwise by default.
    os.environ["CUDA_VISIBLE_DEVICES"] = "-1"
    names = wanted_formats(flag_values.format, extensions)
    output = flag_values.output if flag_values.output is not None else directory.file("export")
    check_output(output, names)
    quiet = config.runtime.verbosity == "quiet"
    exported = runs.export(directory.path, names, output, flag_values.checkpoint, flag_values.ema,
                           flag_values.average_checkpoints, batch_sizes, Console(quiet), **options)
    return report_result(exported, output, quiet)


def wanted_formats(given: Sequence[str], extensions: Sequence[str]) -> list[str]:
    """Returns the names of formats without repetition; raises UsageError for an unknown one.

    Extensions are loaded only for a name that is not built in: a mistake is found before TensorFlow loads.
    """
    names = list(dict.fromkeys(given))
    if not set(names) <= set(EXPORT_FORMATS):
        extension.load(extensions)
    for name in names:
        EXPORT_FORMATS.find(name, "format")
    if not names:
        raise UsageError(f"--format= names no format; give some of {', '.join(EXPORT_FORMATS)}")
    return names


def wanted_batch_sizes(flag_values: absl_flags.FlagValues) -> tuple[int, ...]:
    """Returns the batch sizes to measure, () for none; raises UsageError for anything else."""
    wrong = [text for text in flag_values.batch_sizes if not re.fullmatch(r"[1-9]\d{0,5}", text)]
    if wrong or not flag_values.batch_sizes:
        raise UsageError(f"--batch_sizes must be whole numbers from 1 on, as 1,8,64; found '{','.join(wrong)}'; "
                         "--nolatency measures nothing")
    return tuple(dict.fromkeys(map(int, flag_values.batch_sizes))) if flag_values.latency else ()


def run_to_export(config: ExperimentConfig, flag_values: absl_flags.FlagValues
                  ) -> tuple[run_directory.RunDirectory, dict, Sequence[str]]:
    """Returns the RunDirectory of --workdir, {option: value} other than in training, and names of its extensions.

    Raises:
      UsageError: there is no run, it is another one, or it lacks what is asked for.
    """
    given = flags.given_options(flag_values)
    run = StoredRun.open(config.runtime.workdir or run_directory.default_path(config), given)
    if run.stored["config"]["precision"] == "float64":
        raise UsageError(f"{run.directory.path} was trained in float64, which is for tests: exports are in float32; "
                         "train with --precision=float32")
    if flag_values.ema and not keeps_average(run.config.optimizer):
        raise UsageError("--ema: this run kept no moving average of the weights; train with --ema_decay=0.999")
    # The verbosity of this command, not of the training.
    return run.directory, {**{name: given[name] for name in ("data_dir", "extension", "allow") if name in given},
                       "verbosity": config.runtime.verbosity}, run.config.data.extension


def check_output(output: str, names: Sequence[str]) -> None:
    """Raises UsageError where nothing can be written into the folders of an export; leaves nothing behind."""
    for folder in (output, *(os.path.join(output, name) for name in (*names, REPORTS))):
        problem = folder_obstacle(folder)
        if problem:
            raise UsageError(f"--output={output}: {folder} cannot be written: {problem}; give a folder of your own "
                             "that exists or can be created")


def report_result(exported: Any, output: str, quiet: bool) -> int:
    """Prints the outcome; returns the exit code."""
    from pipeline.export.tables import print_table, remark
    report = exported.report
    if quiet:
        print(json.dumps({"version": exported.version, "forms": report["forms"]}))
    else:
        for path in exported.replaced:
            print(f"removed {path}, an unverified leftover of an export that has ended")
        print(f"export  version {exported.version} in {output}:")
        print_table(report)
        if remark(report):
            print(f"note    {remark(report)}")
        if exported.folder:
            print(f"look    {os.path.join(exported.folder, 'proof.md')}")
    sys.stdout.flush()
    for name in exported.failed:
        record = report["forms"][name]
        left = f"; its files are in {record['path']}" if os.path.exists(record["path"]) else ""
        print(f"mirrorline export: {name} is not published: {'; '.join(record['problems'])}{left}", file=sys.stderr)
    return 1 if exported.failed else 0
