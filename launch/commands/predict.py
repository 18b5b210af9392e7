"""mirrorline predict: classes and probabilities for a user's image files, by the model of a run."""
import contextlib
import os

from absl import flags as absl_flags

import flags
from pipeline import run_directory
from pipeline.activity import activity
from pipeline.console import STANDARD
from pipeline.data.image_search import is_image
from pipeline.dataset_name import may_be_same
from pipeline.errors import RunFailure, UsageError
from pipeline.paths import check_file, check_folder
from pipeline.quantities import counted

SUMMARY = "name the classes of image files, or of all files in folders, with their probabilities"
PLACE = 30
GROUPS = ()
ONLY = ("workdir", "dataset", "model", "extension", "batch_size", "devices", "verbosity")
TAKES_FILES = "FILE_OR_FOLDER"
EXPLANATIONS = "explanations"
MOST_PICTURES = 24  # Of a figure.
MOST_SKIPPED = 10  # Names of files that are no image in the line about them.


def define(flag_values):
    """Defines the flags that only prediction has."""
    def define_boolean(name, default, text):
        absl_flags.DEFINE_bool(name, default, text, flag_values=flag_values)

    def define_path(name, default, text):
        flags.define_path(name, default, text, flag_values)

    define_path("checkpoint", "newest", "newest, best, a step (270), or a path without suffix")
    define_boolean("ema", None, "take the moving average of the weights, or the weights as trained (--noema); default: "
                   "the average where the run has one (--ema_decay)")
    absl_flags.DEFINE_integer("average_checkpoints", 1, "take the mean of the weights of this many checkpoints, the "
                              "named one and those before it", lower_bound=1, flag_values=flag_values)
    absl_flags.DEFINE_integer("top", 3, "classes told of each picture; 0: all", lower_bound=0, flag_values=flag_values)
    define_boolean("recursive", True, "folders inside of folders count; hidden files never do")
    define_boolean("invert", False, "exchange light and dark first: for ink on paper where the model was trained on "
                   "light strokes on black, as mnist's")
    absl_flags.DEFINE_enum("format", None, ["table", "csv", "json"], "csv: a line a file; json: one list, an object a "
                           "line; default: what --output ends in, else table", flag_values=flag_values)
    define_path("output", None, "write the predictions to this file, - for standard output; until they are complete "
                  "it is called FILE.partial")
    define_path("figure", None, f"draw the pictures, the first {MOST_PICTURES}, with bars of their classes into this "
                  "file: .png, .pdf or .svg")
    define_boolean("explain", False, "show which pixels the first class of a picture depends on (SmoothGrad): in "
                   "--figure where that is given, else in --explain_dir")
    define_path("explain_dir", None, "folder for a PNG of every picture, beside it the same with the explanation "
                  f"drawn over it; default {EXPLANATIONS} where --explain is given without --figure")


def run(config, flag_values, files):
    """Runs the command on the paths `files`; returns the exit code.

    Raises:
      UsageError: before anything is computed: a path, a run, a checkpoint or a folder that is not there.
      RunFailure: there were images that cannot be read, or named files that are none, after all others were predicted.
    """
    from pipeline.evaluation import prediction
    explain_dir = flag_values.explain_dir
    if flag_values.explain and not flag_values.figure and not explain_dir:
        explain_dir = EXPLANATIONS
    form = check(files, flag_values, explain_dir)
    written = (flag_values.output, f"{flag_values.output}.partial", flag_values.figure, explain_dir)
    found, problems = prediction.find_files(files, flag_values.recursive, without=filter(None, written))
    directory, stored = run_directory.stored_config(config.runtime.workdir or run_directory.default_path(config))
    for name, value in flags.given_options(flag_values).items():
        if name in ("dataset", "model") and not may_be_same(value, stored["config"][name]):
            raise UsageError(f"--{name}={value}: the run in {directory.path} was trained with {stored['config'][name]}")
    if not found and not problems:
        raise RunFailure(f"there is no file in {', '.join(files)}")
    with activity("loading the model"):
        model, remark = load(directory, stored, config, flag_values)
    quiet = config.runtime.verbosity == "quiet"
    return PredictionRun(flag_values, files, form, explain_dir, quiet).predict_all(
        model, found, problems, f"{directory.path} at step {model.step:,}{remark}")


def check(files, flag_values, explain_dir):
    """Checks what can be checked without the model; returns the format of the output."""
    from pipeline.evaluation import prediction_output
    if not files:
        raise UsageError("no picture is given: mirrorline predict photo.jpg, or a folder of pictures")
    form = prediction_output.choose_format(flag_values.format, flag_values.output)
    if flag_values.output not in (None, "-"):
        check_file("--output", flag_values.output)
        if is_image(flag_values.output):
            raise UsageError(f"--output={flag_values.output} is an image, which the predictions would replace: give a "
                             "file that ends in .csv or .json")
    if flag_values.figure:
        from pipeline.evaluation.prediction_figure import check_figure
        check_figure(flag_values.figure)
    if explain_dir:
        check_folder("--explain_dir", explain_dir)
        if os.path.realpath(explain_dir) in map(os.path.realpath, filter(os.path.isdir, files)):
            raise UsageError(f"--explain_dir={explain_dir} is a folder of the pictures to predict: explanations would "
                             f"be taken for pictures the next time; give another, e.g. {EXPLANATIONS}")
    return form


def load(directory, stored, config, flag_values):
    """Returns the TrainedModel, on one GPU where there is one, and what to remark on it."""
    from pipeline import runs
    from pipeline.distributed.devices import FLOAT16_COST
    model = runs.load(directory.path, flag_values.checkpoint, flag_values.ema, flag_values.average_checkpoints,
                      config.runtime.devices, config.training.batch_size, config.data.extension)
    emulated = model.config.runtime.precision != stored["config"]["precision"]
    which = f", {model.weights}" if stored["config"].get("ema_decay") or len(model.steps) > 1 else ""
    return model, which + (f", in float32, since {FLOAT16_COST}" if emulated else "")


class PredictionRun:
    """What is made of the predictions: rows, explanations, a figure, and lines about them."""

    def __init__(self, flag_values, arguments, form, explain_dir, quiet):
        """
        Args:
          flag_values: the command's.
          arguments: the paths that were given.
          form: "table", "csv" or "json".
          explain_dir: folder for explanations, or None.
          quiet: whether only rows and what is wrong are shown.
        """
        self.flag_values, self.form, self.explain_dir, self.quiet = flag_values, form, explain_dir, quiet
        self.output = None if flag_values.output == "-" else flag_values.output
        self.arguments, self.skipped = arguments, []
        self.unread, self.predicted, self.on_light, self.drawn = 0, 0, 0, []

    def predict_all(self, model, files, problems, described):
        """Predicts the files, and says what was found; returns the exit code.

        Args:
          model: TrainedModel.
          files: paths.
          problems: [(folder, why it cannot be read)].
          described: which model it is, in words.
        """
        from pipeline.evaluation.prediction_output import output_file
        from pipeline.evaluation.prediction_tables import Screen
        rows = None if self.output else "table" if self.form == "table" else "other"
        with output_file(self.output, STANDARD.warning) as file, Screen(len(files), rows, file, self.quiet) as screen:
            if rows != "other":
                screen.info(described)
            for folder, reason in problems:
                self.unreadable(screen, folder, reason)
            self.predict(model, files, screen, file)
        self.report_result(model, screen, len(files) + len(problems))
        return 0

    def predict(self, model, files, screen, file):
        """Writes rows and explanations as they come, and keeps what the figure is made of."""
        from pipeline.evaluation import prediction
        explained = len(files) if self.explain_dir else MOST_PICTURES if self.flag_values.explain else 0
        top = min(self.flag_values.top or len(model.class_names), len(model.class_names))
        predictions = prediction.predict(
            model, files, lambda path, reason: self.unreadable(screen, path, reason), top=top,
            invert=self.flag_values.invert, explained=explained)
        name_of = prediction.short_names(files)
        with contextlib.closing(self.writer(screen, file, files, model, top)) as writer:
            for found in predictions:
                writer.write(found)
                self.explain(found, name_of)
                self.drawn += found[:MOST_PICTURES - len(self.drawn)] if self.flag_values.figure else []
                self.predicted += len(found)
                self.on_light += sum(one.light_ground for one in found)
                screen.advance(len(found))

    def explain(self, predictions, name_of):
        """Writes a picture of each prediction into the folder of explanations, where there is one."""
        if self.explain_dir:
            from pipeline.evaluation.prediction_figure import write_explanation
            for one in predictions:
                write_explanation(os.path.join(self.explain_dir, name_of(one.file) + ".png"), one)

    def writer(self, screen, file, files, model, top):
        """Returns what writes rows in the format that was chosen."""
        from pipeline.evaluation import prediction_output
        from pipeline.evaluation import prediction_tables as screens
        if self.form == "csv":
            return prediction_output.CsvWriter(file, top)
        if self.form == "json":
            return prediction_output.JsonWriter(file)
        return screens.TableWriter(screen.console, files, model.class_names, top)

    def unreadable(self, screen, path, reason):
        """Names an image that cannot be read; what is none is left out, and named at the end."""
        from pipeline.evaluation.prediction import is_no_image
        from pipeline.terminal import printable
        if os.path.isfile(path) and is_no_image(path, self.arguments):
            self.skipped.append(os.path.basename(path))
            screen.advance(1)
            return
        self.unread += 1
        screen.warning(f"mirrorline predict: cannot read {printable(path)}: {reason}")
        screen.advance(1)

    def report_result(self, model, screen, total):
        """Draws the figure, says where everything is, and fails where files could not be read."""
        from pipeline.evaluation.prediction import has_dark_ground
        total -= len(self.skipped)
        if self.skipped and not self.quiet:
            STANDARD.warning(skipped_line(self.skipped))
        if not total:
            raise RunFailure(f"there is no image in {', '.join(self.arguments)}")
        if self.output:
            screen.info(f"{self.output}: {self.predicted:,} of {counted(total, 'file')}")
        if self.drawn:
            from pipeline.evaluation.prediction_figure import draw_figure
            draw_figure(self.flag_values.figure, self.drawn, model.step)
            few = f", the first {len(self.drawn)} of {self.predicted:,}" if len(self.drawn) < self.predicted else ""
            screen.info(f"{self.flag_values.figure}: {pictures(len(self.drawn))}{few}")
        if self.explain_dir and self.predicted:
            screen.info(f"{os.path.join(self.explain_dir, '')}: {pictures(self.predicted)} explained")
        if 2 * self.on_light > self.predicted and has_dark_ground(model.stored):
            other = "without" if self.flag_values.invert else "with"
            STANDARD.warning(f"{self.on_light:,} of {self.predicted:,} pictures have a light ground, and this model "
                             f"was trained on light on dark ground: try {other} --invert")
        if self.unread:
            raise RunFailure(f"{self.unread:,} of {counted(total, 'file')} could not be read")


def skipped_line(names):
    """Returns the line about files in folders that are no image."""
    from pipeline.terminal import printable
    listed = ", ".join(map(printable, names[:MOST_SKIPPED]))
    more = f" and {len(names) - MOST_SKIPPED:,} more" if len(names) > MOST_SKIPPED else ""
    return f"skipped {counted(len(names), 'file that is no image', 'files that are no images')}: {listed}{more}"


def pictures(count):
    """Returns a number of pictures in words."""
    return counted(count, "picture")
