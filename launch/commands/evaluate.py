"""mirrorline evaluate: evaluates the model of a run on the test split or another, every example exactly once."""
import json
import os
import sys
from typing import Any

from absl import flags as absl_flags

import flags
from pipeline import run_directory
from pipeline.config import ExperimentConfig, keeps_average
from pipeline.errors import UsageError
from pipeline.evaluation.selection import MOST_VIEWS, WeightSelection, open_runs
from pipeline.paths import folder_obstacle, local_path
from pipeline.quantities import counted
from pipeline.runs import console_for

# Imports inside functions: `--help` and wrong usage answer without TensorFlow.

SUMMARY = "evaluate a trained model on the test split, and write a report on it"
PLACE = 20
GROUPS = ()
ONLY = ("workdir", "dataset", "model", "data_dir", "extension", "batch_size", "replicas", "devices", "force",
        "allow", "verbosity")


def define(flag_values: absl_flags.FlagValues) -> None:
    """Defines the flags that only evaluation has."""
    flags.define_path("checkpoint", "latest", "latest, best, a step (270), or a path without suffix", flag_values)
    absl_flags.DEFINE_enum("split", None, ["test", "validation", "train"], "part of the data; default test, or "
                           "validation where the data have no test split",
                           flag_values=flag_values)
    absl_flags.DEFINE_bool("ema", None, "evaluate the moving average of the weights, or the weights as trained "
                           "(--noema); default: the average where the run has one (--ema_decay)",
                           flag_values=flag_values)
    absl_flags.DEFINE_integer("average_checkpoints", 1, "evaluate the mean of the weights of the last so many "
                              "checkpoints; statistics of batch normalization are averaged too (checkpoints)",
                              flag_values=flag_values)
    absl_flags.DEFINE_integer("tta", 1, "test-time augmentation: the mean of the probabilities over so many views of "
                              "each image, shifted by 1 or 2 pixels, and mirrored where training used --augment=flip "
                              f"(views, 1 to {MOST_VIEWS})", flag_values=flag_values)
    flags.define_paths("compare", "directory of another run to compare with, evaluated on the same examples with "
                       "the same options; several with commas; default none", flag_values)
    # Of text, yet with the form --noreport.
    absl_flags.DEFINE_flag(absl_flags.Flag(
        absl_flags.ArgumentParser(), None, "report", None, "write report.json and index.html; --report=DIR: into "
        "another folder; default WORKDIR/report", boolean=True), flag_values)


def report_folder(value: str | None, directory: run_directory.RunDirectory) -> str | None:
    """Returns the folder of the report, or None where none is wanted or the run's directory cannot be written.

    Args:
      value: of --report.
      directory: RunDirectory.

    Raises:
      UsageError: the folder that was given cannot be written.
    """
    if value == "false":
        return None
    chosen = value not in (None, "true")
    folder = local_path(str(value), "--report") if chosen else directory.file("report")
    problem = folder_obstacle(folder)
    if problem and chosen:
        raise UsageError(f"--report={folder} cannot be written: {problem}; give a folder that exists or "
                         "can be created, or --noreport")
    if problem:
        print(f"no report: {folder} cannot be written ({problem}); --report=DIR puts it elsewhere, --noreport leaves "
              "it out", file=sys.stderr)
    return None if problem else folder


def typed(flag_values: absl_flags.FlagValues) -> str:
    """Returns the command line that gives these flags."""
    parts = []
    for name in flag_values:
        flag = flag_values[name]
        if flag.using_default_value:
            continue
        if name == "report":
            parts.append({"true": "--report", "false": "--noreport"}.get(str(flag.value), f"--report={flag.value}"))
        else:
            parts += flag.serialize().split("\n")
    return " ".join(["mirrorline evaluate", *parts])


def run(config: ExperimentConfig, flag_values: absl_flags.FlagValues) -> int:
    """Runs the command; returns the exit code."""
    weights = WeightSelection(flag_values.checkpoint, flag_values.ema, flag_values.average_checkpoints, flag_values.tta)
    # The verbosity of this command, not of the training.
    options = {**flags.given_options(flag_values), "verbosity": config.runtime.verbosity}
    runs = open_runs(config.runtime.workdir or run_directory.default_path(config), weights, flag_values.split,
                     compared(flag_values), options)
    first, quiet = runs[0], config.runtime.verbosity == "quiet"
    from pipeline.evaluation.evaluator import Evaluator  # TensorFlow is loaded from here on.
    evaluator = Evaluator(runs, weights)
    folder = report_folder(flag_values.report, first.directory)
    evaluator.open(flag_values.split, console_for(first.config))
    whole = folder is not None or len(runs) > 1 or (not quiet and flag_values.report != "false")
    found = evaluator.evaluate(first, whole, held_out=whole)
    print_metrics(found, evaluator.split)
    if not whole:
        return 0
    if len(runs) == 1 and found.predictions is not None and not found.predictions.finite:
        print(found.not_finite(), file=sys.stderr)
        return 0
    from pipeline.evaluation.run_report import report_runs, write_report
    report = report_runs(evaluator, found, typed(flag_values))
    path = folder and write_report(report, evaluator.split, folder)  # Before the table: its reader may stop early.
    if not quiet:
        from pipeline.evaluation.tables import print_report
        print_report(report)
        if path:
            print(f"look    {path}")
    return 0


def compared(flag_values: absl_flags.FlagValues) -> list[str]:
    """Returns the directories of --compare, each flag one or several with commas."""
    return [path for text in flag_values.compare
            for path in ([text] if os.path.isdir(text) else
                         [local_path(part, "--compare") for part in text.split(",")])]


def print_metrics(found: Any, split: Any) -> None:
    """Prints the metrics of a RunEvaluation: a line, or JSON where it is to be quiet."""
    run, evaluation, step = found.run, found.evaluation, found.checkpoints[0].step
    if run.config.runtime.verbosity == "quiet":
        print(json.dumps({"step": step, "split": split.name, "weights": found.weights, **evaluation.figures}))
        return
    seen = f", mean over {len(found.views)} views of each" if len(found.views) > 1 else ""
    plain = len(found.checkpoints) == 1 and not keeps_average(run.config.optimizer)
    which = "" if plain else f", {found.weights},"
    print(f"{run.directory.path} at step {step}{which} on {split.name}: accuracy {evaluation.accuracy:.4%}, loss "
          f"{evaluation.loss:.6f}, {counted(evaluation.examples, 'example')}{seen}")
