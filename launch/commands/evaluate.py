"""mirrorline evaluate: judges the model of a run on the test split or another, every example counted exactly once."""
import json
import os
import sys

from absl import flags as absl_flags

import flags
from pipeline import extension, run_directory
from pipeline.dataset_name import may_be_same
from pipeline.errors import RunFailure, UsageError
from pipeline.evaluation.evaluator import Run, Weights, describe, judge, nothing_to_say
from pipeline.paths import folder_obstacle, local_path
from pipeline.quantities import counted
from pipeline.runs import console_for

SUMMARY = "evaluate a trained model on the test split, and write a report on it"
PLACE = 20
GROUPS = ()
ONLY = ("workdir", "dataset", "model", "data_dir", "extension", "batch_size", "replicas", "devices", "force",
        "verbosity")
MOST_VIEWS = 16


def define(flag_values):
    """Defines the flags that only evaluation has."""
    flags.define_path("checkpoint", "newest", "newest, best, a step (270), or a path without suffix", flag_values)
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
    flags.define_paths("compare", "directory of another run to judge on the same examples with the same options; "
                       "several with commas; default none", flag_values)
    # Of text, yet with the form --noreport.
    absl_flags.DEFINE_flag(absl_flags.Flag(
        absl_flags.ArgumentParser(), None, "report", None, "write report.json and index.html; --report=DIR: into "
        "another folder; default WORKDIR/report", boolean=True), flag_values)


def merged(stored, given):
    """Returns the run's configuration with the options given for this evaluation.

    Raises:
      UsageError: an option that only training can set was given another value.
    """
    for name in ("dataset", "model"):
        if name in given and not may_be_same(given[name], stored["config"][name]):
            raise UsageError(f"--{name}={given[name]}: the run in this workdir was trained with "
                             f"{stored['config'][name]}")
    return run_directory.evaluation_config(stored, given)


def runs_to_judge(config, flag_values):
    """Returns the Run of --workdir and those of --compare.

    Raises:
      UsageError: a directory without a run, a run on other data, or one without what is asked for.
    """
    given = flags.given_options(flag_values)
    workdir = config.runtime.workdir or run_directory.default_path(config)
    directory, stored = run_directory.stored_config(workdir)
    runs = [Run(directory, stored, merged(stored, given))]
    if flag_values.split == "validation" and not stored["data"]["num_validation"]:
        raise UsageError("--split=validation: this run has no validation split, neither of its data nor held out "
                         "(--validation_split); use --split=test")
    if flag_values.split == "test" and not stored["data"]["num_test"]:
        raise UsageError("--split=test: the data of this run have no test split; use --split=validation")
    for text in flag_values.compare:
        for path in [text] if os.path.isdir(text) else [local_path(part, "--compare") for part in text.split(",")]:
            runs.append(_compared(path, runs, {name: value for name, value in given.items()
                                               if name not in ("workdir", "dataset", "model")}))
    for run in runs:
        if flag_values.ema and not run.config.optimizer.ema_decay:
            which = "this run" if run is runs[0] else run.directory.path
            raise UsageError(f"--ema: {which} kept no moving average of the weights; train with --ema_decay=0.999")
    if len(runs) > 1 and os.path.dirname(flag_values.checkpoint):
        raise UsageError(f"--checkpoint={flag_values.checkpoint} is of one run; with --compare give newest, best or a "
                         "step")
    return runs


def _compared(path, runs, given):
    """Returns the Run of a directory given with --compare."""
    if run_directory.RunDirectory(path).config is None:
        raise UsageError(f"--compare={path} holds no run (no config.json): give the --workdir of a run")
    if os.path.realpath(path) in [os.path.realpath(run.directory.path) for run in runs]:
        raise UsageError(f"--compare={path} is compared with itself: give each run once")
    directory, stored = run_directory.stored_config(path)
    data, first = stored["data"], runs[0]
    if data["fingerprint"] != first.stored["data"]["fingerprint"]:
        raise UsageError(
            f"--compare={path} has other data ({data['name']}, fingerprint {data['fingerprint'][:12]}) than "
            f"{first.directory.path} ({first.stored['data']['name']}, fingerprint "
            f"{first.stored['data']['fingerprint'][:12]}): runs compare on the same examples alone, with the same "
            "--dataset, --image_size, --validation_split and --subset")
    return Run(directory, stored, merged(stored, given))


def wanted_weights(flag_values):
    """Returns the Weights that flags ask for; raises UsageError for numbers that cannot be."""
    if not 1 <= flag_values.tta <= MOST_VIEWS:
        raise UsageError(f"--tta must be from 1 to {MOST_VIEWS} views; found {flag_values.tta}")
    if flag_values.average_checkpoints < 1:
        raise UsageError(f"--average_checkpoints must be at least 1; found {flag_values.average_checkpoints}")
    return Weights(flag_values.checkpoint, flag_values.ema, flag_values.average_checkpoints, flag_values.tta)


def report_folder(value, directory):
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
    folder = local_path(value, "--report") if chosen else directory.file("report")
    problem = folder_obstacle(folder)
    if problem and chosen:
        raise UsageError(f"--report={folder} cannot be written: {problem}; give a folder that is there or can be made, "
                         "or --noreport")
    if problem:
        print(f"no report: {folder} cannot be written ({problem}); --report=DIR puts it elsewhere, --noreport leaves "
              "it out", file=sys.stderr)
    return None if problem else folder


def typed(flag_values):
    """Returns the command line that gives these flags."""
    parts = []
    for name in flag_values:
        flag = flag_values[name]
        if flag.using_default_value:
            continue
        if name == "report":
            parts.append({"true": "--report", "false": "--noreport"}.get(flag.value, f"--report={flag.value}"))
        else:
            parts += flag.serialize().split("\n")
    return " ".join(["mirrorline evaluate", *parts])


def run(config, flag_values):
    """Runs the command; returns the exit code."""
    weights = wanted_weights(flag_values)
    runs = runs_to_judge(config, flag_values)
    first = runs[0]
    for one in runs:
        weights.find(one)  # Before the long way to its use.
    folder = report_folder(flag_values.report, first.directory)
    strategy, source, split = open_data(runs, flag_values.split)
    whole = folder is not None or len(runs) > 1 or (
        first.config.runtime.verbosity != "quiet" and flag_values.report != "false")
    judgement = judge(first, weights, source, split, strategy, whole, held_out=whole)
    print_figures(first, weights, judgement, split)
    if not whole:
        return 0
    if len(runs) == 1 and not judgement.predictions.finite:
        print(nothing_to_say(first, judgement), file=sys.stderr)
        return 0
    report = make_report(runs, weights, judgement, source, split, strategy, typed(flag_values))
    path = folder and write_report(report, split, folder)  # Before the table: who reads that may stop early.
    if first.config.runtime.verbosity != "quiet":
        from pipeline.evaluation.tables import print_report
        print_report(report)
        if path:
            print(f"look    {path}")
    return 0


def open_data(runs, split):
    """Starts the devices and loads the data.

    Args:
      runs: list of Run.
      split: name of the part to judge, "test", "validation" or "train"; None: see --split.

    Returns:
      (strategy, Source, the Split of that name).

    Raises:
      UsageError: devices or data are not what a run needs.
    """
    from pipeline.distributed import devices
    first = runs[0]
    console = console_for(first.config)
    from pipeline.evaluation.stored_run import choose_split, reopen_data  # TensorFlow is loaded from here on.
    strategy, source = reopen_data(first.config, first.stored, console)
    kind = "GPU" if "GPU" in strategy.extended.worker_devices[0] else "CPU"
    for other in runs[1:]:
        devices.check_precision(other.config.runtime.precision, kind, other.config.runtime.force,
                                devices.cpu_features())
        extension.load(other.config.data.extension, other.stored.get("extensions"))
    return strategy, source, choose_split(source, split)


def print_figures(run, weights, judgement, split):
    """Prints the figures of a run: a line, or JSON where it is to be quiet."""
    evaluation, step = judgement.evaluation, judgement.checkpoints[0].step
    if run.config.runtime.verbosity == "quiet":
        print(json.dumps({"step": step, "split": split.name, "weights": weights.describe(run, judgement.checkpoints),
                          **evaluation.figures}))
        return
    seen = f", mean over {len(judgement.views)} views of each" if len(judgement.views) > 1 else ""
    plain = len(judgement.checkpoints) == 1 and not run.config.optimizer.ema_decay
    which = "" if plain else f", {weights.describe(run, judgement.checkpoints)},"
    print(f"{run.directory.path} at step {step}{which} on {split.name}: accuracy {evaluation.accuracy:.4%}, loss "
          f"{evaluation.loss:.6f}, {counted(evaluation.examples, 'example')}{seen}")


def make_report(runs, weights, judgement, source, split, strategy, command):
    """Judges the runs to compare with, and returns what report.json holds."""
    from pipeline.evaluation.report import Judged, make_report, name_files
    judged = []
    for run in runs:
        found = judgement if run is runs[0] else judge(run, weights, source, split, strategy)
        if not found.predictions.finite:
            raise RunFailure(nothing_to_say(run, found))
        judged.append(Judged(run.directory.path, found.evaluation, found.predictions, run.records))
    described = describe(runs[0], weights, judgement, split, command)
    report = make_report(judged[0], source.class_names, split.name, described, judgement.held_out, judged[1:])
    name_files(report, split.files)
    return report


def write_report(report, split, folder):
    """Writes report.json and index.html into a folder; returns the path of the page."""
    from pipeline.data.stream import examples
    from pipeline.evaluation.page.document import write_page
    from pipeline.evaluation.report import named_examples
    from pipeline.files import write_json
    os.makedirs(folder, exist_ok=True)
    write_json(os.path.join(folder, "report.json"), report)
    index, page = named_examples(report), os.path.join(folder, "index.html")
    images, _ = examples(split, index)
    write_page(report, dict(zip(index.tolist(), images, strict=True)), page)
    return page
