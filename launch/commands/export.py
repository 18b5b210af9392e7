"""mirrorline export: the model of a run in the forms its users need, each one proved before it is published."""
import json
import os
import re
import sys

from absl import flags as absl_flags

import flags
from launch.commands.evaluate import merged
from pipeline import run_directory, runs
from pipeline.console import Console
from pipeline.errors import UsageError, did_you_mean, unknown_name
from pipeline.export.extras import check_extra
from pipeline.export.formats import FORMS
from pipeline.export.publish import REPORTS
from pipeline.paths import folder_obstacle

SUMMARY = "write a trained model as SavedModel, Keras file, TFLite or ONNX, each proved to say what the model says"
PLACE = 40
GROUPS = ()
ONLY = ("workdir", "dataset", "model", "data_dir", "extension", "verbosity")
DEFAULT_FORMS = ("saved_model", "keras", "weights")
BATCH_SIZES = ("1", "8", "64")


def define(flag_values):
    """Defines the flags that only export has."""
    flags.define_path("checkpoint", "newest", "newest, best, a step (270), or a path without suffix", flag_values)
    absl_flags.DEFINE_list("format", list(DEFAULT_FORMS), "forms to write, any of "
                           + "; ".join(f"{form.name}: {form.summary}" for form in FORMS.values()),
                           flag_values=flag_values)
    flags.define_path("output", None, "folder of all exports of the model, each in FORM/VERSION; a version that is "
                      "there is never overwritten; default WORKDIR/export", flag_values)
    absl_flags.DEFINE_bool("ema", None, "export the moving average of the weights, or the weights as trained "
                           "(--noema); default: the average where the run has one (--ema_decay)",
                           flag_values=flag_values)
    absl_flags.DEFINE_integer("average_checkpoints", 1, "export the mean of the weights of this many checkpoints, the "
                              "named one and those before it (checkpoints)", flag_values=flag_values)
    absl_flags.DEFINE_bool("latency", True, "measure how long each form takes", flag_values=flag_values)
    absl_flags.DEFINE_list("batch_sizes", list(BATCH_SIZES), "batches that latency is measured with (images)",
                           flag_values=flag_values)


def run(config, flag_values):
    """Runs the command; returns the exit code: 1 where a form is not published."""
    names, batch_sizes = wanted_forms(flag_values.format), wanted_batch_sizes(flag_values)
    if flag_values.average_checkpoints < 1:
        raise UsageError(f"--average_checkpoints must be at least 1; found {flag_values.average_checkpoints}")
    directory, options = run_to_export(config, flag_values)
    check_checkpoint(directory.file("checkpoints"), flag_values.checkpoint)
    output = flag_values.output if flag_values.output is not None else directory.file("export")
    check_output(output, names)
    # All forms run on the CPU where they are compared: GPUs round float32 otherwise by default.
    os.environ["CUDA_VISIBLE_DEVICES"] = "-1"
    quiet = config.runtime.verbosity == "quiet"
    exported = runs.export(directory.path, names, output, flag_values.checkpoint, flag_values.ema,
                           flag_values.average_checkpoints, batch_sizes, Console(quiet), **options)
    return report_result(exported, output, quiet)


def wanted_forms(given):
    """Returns the names of forms without repetition; raises UsageError for those that cannot be written here."""
    names = list(dict.fromkeys(given))
    for name in names:
        if name not in FORMS:
            raise unknown_name("format", name, FORMS)
        check_extra(FORMS[name])
    if not names:
        raise UsageError(f"--format= names no form; give some of {', '.join(FORMS)}")
    return names


def wanted_batch_sizes(flag_values):
    """Returns the batch sizes to measure, () for none; raises UsageError for what is no size."""
    wrong = [text for text in flag_values.batch_sizes if not re.fullmatch(r"[1-9]\d{0,5}", text)]
    if wrong or not flag_values.batch_sizes:
        raise UsageError(f"--batch_sizes must be whole numbers from 1 on, as 1,8,64; found '{','.join(wrong)}'; "
                         "--nolatency measures nothing")
    return tuple(dict.fromkeys(map(int, flag_values.batch_sizes))) if flag_values.latency else ()


def run_to_export(config, flag_values):
    """Returns the RunDirectory of --workdir, and {option: value} of what is to be other than in training.

    Raises:
      UsageError: there is no run, it is another one, or it has not what is asked for.
    """
    directory, stored = run_directory.stored_config(config.runtime.workdir or run_directory.default_path(config))
    given = flags.given_options(flag_values)
    chosen = merged(stored, given)
    if stored["config"]["precision"] == "float64":
        raise UsageError(f"{directory.path} was trained in float64, which is for tests: forms hold float32; train with "
                         "--precision=float32")
    if flag_values.ema and not chosen.optimizer.ema_decay:
        raise UsageError("--ema: this run kept no moving average of the weights; train with --ema_decay=0.999")
    # How much is said is a matter of this command, not of the training.
    return directory, {**{name: given[name] for name in ("data_dir", "extension") if name in given},
                       "verbosity": config.runtime.verbosity}


def check_checkpoint(folder, name):
    """Raises UsageError where a checkpoint is clearly not there: before the long way to finding out.

    Args:
      folder: `checkpoints/` of the run.
      name: as --checkpoint takes it.
    """
    if os.path.dirname(name):
        folder, name = os.path.dirname(name), os.path.basename(name)
    folder = os.path.join(folder, "best") if name == "best" else folder
    steps = sorted({int(match[1]) for entry in (os.listdir(folder) if os.path.isdir(folder) else ())
                    if (match := re.fullmatch(r"ckpt-(\d+)\.index", entry))}, reverse=True)
    if not steps:
        raise UsageError(f"--checkpoint={name}: no checkpoint in {folder} yet")
    wanted = re.fullmatch(r"(?:ckpt-)?(\d+)", name)
    if name not in ("newest", "best") and not (wanted and int(wanted[1]) in steps):
        raise UsageError(f"no checkpoint '{name}' in {folder}{did_you_mean(name, ('newest', 'best'))}; steps there: "
                         f"{', '.join(map(str, steps))}; or newest, best, a path")


def check_output(output, names):
    """Raises UsageError where nothing can be written into the folders of an export; leaves nothing behind."""
    for folder in (output, *(os.path.join(output, name) for name in (*names, REPORTS))):
        problem = folder_obstacle(folder)
        if problem:
            raise UsageError(f"--output={output}: {folder} cannot be written: {problem}; give a folder of your own "
                             "that is there or can be made")


def report_result(exported, output, quiet):
    """Says what came of it; returns the exit code."""
    from pipeline.export.tables import print_table, remark
    report = exported.report
    if quiet:
        print(json.dumps({"version": exported.version, "forms": report["forms"]}))
    else:
        for path in exported.replaced:
            print(f"removed {path}, which an export that has ended had left unproved")
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
