"""mirrorline predict: classes and probabilities of image files, by the model of a run."""
from collections.abc import Sequence
from typing import Any

from absl import flags as absl_flags

import flags
from pipeline import onednn, run_directory
from pipeline.activity import activity
from pipeline.config import ExperimentConfig, keeps_average
from pipeline.evaluation.selection import StoredRun

# Imports inside functions: `--help` and wrong usage answer without TensorFlow.

SUMMARY = "classify image files, or all files in folders, with probabilities"
PLACE = 30
GROUPS = ()
ONLY = ("workdir", "dataset", "model", "extension", "batch_size", "devices", "verbosity")
TAKES_FILES = "FILE_OR_FOLDER"


def define(flag_values: absl_flags.FlagValues) -> None:
    """Defines the flags that only prediction has."""
    def define_boolean(name, default, text):
        absl_flags.DEFINE_bool(name, default, text, flag_values=flag_values)

    def define_path(name, default, text):
        flags.define_path(name, default, text, flag_values)

    define_path("checkpoint", "latest", "latest, best, a step (270), or a path without suffix")
    define_boolean("ema", None, "use the moving average of the weights, or the weights as trained (--noema); default: "
                   "the average where the run has one (--ema_decay)")
    absl_flags.DEFINE_integer("average_checkpoints", 1, "use the mean of the weights of this many checkpoints, the "
                              "given one and those before it", lower_bound=1, flag_values=flag_values)
    absl_flags.DEFINE_integer("top", 3, "number of classes listed for each image; 0: all", lower_bound=0,
                              flag_values=flag_values)
    define_boolean("recursive", True, "search folders inside of folders; hidden files are never included")
    define_boolean("invert", False, "invert light and dark first: for dark-on-light images, as ink on paper, with a "
                   "model trained on light-on-dark ones, as mnist")
    absl_flags.DEFINE_enum("format", None, ["table", "csv", "json"], "csv: a line for each file; json: one list, an "
                           "object a line; default: by the suffix of --output, else table", flag_values=flag_values)
    define_path("output", None, "write the predictions to this file, - for standard output; until they are complete "
                "it is called FILE.partial")
    define_path("figure", None, "draw the images, the first 24, with bars of their classes into this file: .png, .pdf "
                "or .svg")
    define_boolean("explain", False, "show which pixels the predicted class of an image depends on (SmoothGrad): in "
                   "--figure where that is given, else in --explain_dir")
    define_path("explain_dir", None, "folder for a PNG of every image next to its explanation; default explanations "
                "where --explain is given without --figure")


def run(config: ExperimentConfig, flag_values: absl_flags.FlagValues, files: Sequence[str]) -> int:
    """Runs the command on the paths `files`; returns the exit code.

    Raises:
      UsageError: before anything is computed: a path, a run, a checkpoint or a folder does not exist.
      RunFailure: images could not be read, or given files are none, after all others were predicted.
    """
    from pipeline.evaluation.prediction_run import PredictionOptions, PredictionRun
    options = PredictionOptions(
        flag_values.top, flag_values.recursive, flag_values.invert, flag_values.format, flag_values.output,
        flag_values.figure, flag_values.explain, flag_values.explain_dir, quiet=config.runtime.verbosity == "quiet")
    prediction = PredictionRun(files, options)
    stored = StoredRun.open(config.runtime.workdir or run_directory.default_path(config),
                            flags.given_options(flag_values))
    onednn.choose_as_begun(stored.stored)
    with activity("loading the model"):
        model, remark = load(stored, config, flag_values)
    prediction.run(model, f"{stored.directory.path} at step {model.step:,}{remark}")
    return 0


def load(stored: StoredRun, config: ExperimentConfig, flag_values: absl_flags.FlagValues) -> tuple[Any, str]:
    """Returns the TrainedModel, on one GPU where there is one, and a remark on its weights and precision."""
    from pipeline import runs
    from pipeline.distributed.devices import FLOAT16_COST
    model = runs.load(stored.directory.path, flag_values.checkpoint, flag_values.ema, flag_values.average_checkpoints,
                      config.runtime.devices, config.training.batch_size, config.data.extension)
    values = stored.stored["config"]
    plain = len(model.steps) == 1 and not keeps_average(model.config.optimizer)
    which = "" if plain else f", {model.weights}"
    emulated = model.config.runtime.precision != values["precision"]
    return model, which + (f", in float32, since {FLOAT16_COST}" if emulated else "")
