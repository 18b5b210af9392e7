"""Classifies image files and writes what was asked for: rows, explanations, a figure, and lines about them."""
import contextlib
import dataclasses
import os
from collections.abc import Sequence
from typing import Any, TextIO

from pipeline.console import STANDARD
from pipeline.data.image_search import is_image
from pipeline.errors import RunFailure, UsageError
from pipeline.evaluation import prediction, prediction_output
from pipeline.evaluation.prediction import Prediction
from pipeline.evaluation.prediction_tables import PredictionDisplay, TableWriter
from pipeline.paths import check_file, check_folder
from pipeline.quantities import counted
from pipeline.terminal import printable

EXPLANATIONS = "explanations"
MOST_DRAWN = 24  # Images of a figure.
MOST_SKIPPED = 10  # Names in the line about files that are no images.


@dataclasses.dataclass(frozen=True)
class PredictionOptions:
    """What is predicted and written.

    Attributes:
      top: number of classes of each prediction; 0: all.
      recursive: search folders inside of folders.
      invert: invert light and dark first.
      format: "table", "csv" or "json"; None: by the suffix of `output`, else "table".
      output: file of the rows; None: standard output.
      figure: file of a figure of the first MOST_DRAWN images, or None.
      explain: compute which pixels the predicted class depends on: in `figure` where that is given, else in a folder.
      explain_dir: folder of an explanation of each image, or None.
      quiet: print rows and problems alone.

    Raises:
      UsageError: a file or folder that cannot be written, or of an unknown kind.
    """

    top: int = 3
    recursive: bool = True
    invert: bool = False
    format: str | None = None
    output: str | None = None
    figure: str | None = None
    explain: bool = False
    explain_dir: str | None = None
    quiet: bool = False

    def __post_init__(self) -> None:
        if self.explain and not self.figure and not self.explain_dir:
            object.__setattr__(self, "explain_dir", EXPLANATIONS)
        object.__setattr__(self, "format", prediction_output.choose_format(self.format, self.output))
        object.__setattr__(self, "output", None if self.output == "-" else self.output)
        if self.output:
            check_file("--output", self.output)
            if is_image(self.output):
                raise UsageError(f"--output={self.output} is an image, which the predictions would replace: give a "
                                 "file that ends in .csv or .json")
        if self.figure:
            from pipeline.evaluation.prediction_figure import check_figure  # Matplotlib is loaded only for a figure.
            check_figure(self.figure)
        if self.explain_dir:
            check_folder("--explain_dir", self.explain_dir)


class PredictionRun:
    """The predictions of files, in progress."""

    def __init__(self, arguments: Sequence[str], options: PredictionOptions):
        """Finds the files.

        Raises:
          UsageError: there is no such file or folder, or none is given.
          RunFailure: the folders hold no file.
        """
        if not arguments:
            raise UsageError("no image is given: mirrorline predict photo.jpg, or a folder of images")
        folder = options.explain_dir
        if folder and os.path.realpath(folder) in map(os.path.realpath, filter(os.path.isdir, arguments)):
            raise UsageError(f"--explain_dir={folder} is a folder of the images to predict: explanations would be "
                             f"taken for images the next time; give another, e.g. {EXPLANATIONS}")
        self.arguments, self.options = arguments, options
        written = (options.output, f"{options.output}.partial", options.figure, options.explain_dir)
        self.files, self.problems = prediction.find_files(arguments, options.recursive,
                                                          without=[path for path in written if path])
        if not self.files and not self.problems:
            raise RunFailure(f"there is no file in {', '.join(arguments)}")
        self.skipped: list[str] = []
        self.drawn: list[Prediction] = []
        self.unread, self.predicted, self.on_light = 0, 0, 0

    def run(self, model: Any, described: str) -> None:
        """Predicts the files, and prints the outcome.

        Raises:
          RunFailure: some images could not be read, or there is none, after all others were predicted.
        """
        options = self.options
        rows = None if options.output else "table" if options.format == "table" else "other"
        with prediction_output.output_file(options.output, STANDARD.warning) as file, PredictionDisplay(
                len(self.files), rows, file, options.quiet) as display:
            if rows != "other":
                display.info(described)
            for folder, reason in self.problems:
                self._unreadable(display, folder, reason)
            self._predict(model, display, file)
        self._report_result(model, display)

    def _predict(self, model: Any, display: PredictionDisplay, file: TextIO) -> None:
        """Writes rows and explanations batch by batch, and keeps the predictions of the figure."""
        options, classes = self.options, len(model.class_names)
        explained = len(self.files) if options.explain_dir else MOST_DRAWN if options.explain else 0
        top = min(options.top or classes, classes)
        predictions = prediction.predict(model, self.files, lambda path, why: self._unreadable(display, path, why),
                                         top, options.invert, explained)
        name_of, folder = prediction.short_names(self.files), options.explain_dir or ""
        with contextlib.closing(self._writer(model, display, file, top)) as writer:
            for found in predictions:
                writer.write(found)
                for one in found if folder else ():
                    from pipeline.evaluation.prediction_figure import write_explanation  # Matplotlib, only for this.
                    write_explanation(f"{os.path.join(folder, name_of(one.file))}.png", one.file, one.saliency)
                if options.figure:
                    self.drawn += found[:MOST_DRAWN - len(self.drawn)]
                self.predicted += len(found)
                self.on_light += sum(one.light_background for one in found)
                display.advance(len(found))

    def _writer(self, model: Any, display: PredictionDisplay, file: TextIO, top: int
                ) -> prediction_output.CsvWriter | prediction_output.JsonWriter | TableWriter:
        """Returns the writer of the format."""
        if self.options.format == "csv":
            return prediction_output.CsvWriter(file, top)
        if self.options.format == "json":
            return prediction_output.JsonWriter(file)
        return TableWriter(display.console, self.files, model.class_names, top)

    def _unreadable(self, display: PredictionDisplay, path: str, reason: object) -> None:
        """Reports an image that cannot be read; a file that is no image is skipped, and named at the end."""
        display.advance(1)
        if os.path.isfile(path) and prediction.is_no_image(path, self.arguments):
            self.skipped.append(os.path.basename(path))
            return
        self.unread += 1
        display.warning(f"mirrorline predict: cannot read {printable(path)}: {reason}")

    def _report_result(self, model: Any, display: PredictionDisplay) -> None:
        """Draws the figure, prints where everything is, and fails where files could not be read."""
        options, total = self.options, len(self.files) + len(self.problems) - len(self.skipped)
        if self.skipped and not options.quiet:
            STANDARD.warning(skipped_line(self.skipped))
        if not total:
            raise RunFailure(f"there is no image in {', '.join(self.arguments)}")
        if options.output:
            display.info(f"{options.output}: {self.predicted:,} of {counted(total, 'file')}")
        if self.drawn and options.figure:
            from pipeline.evaluation.prediction_figure import draw_figure  # Matplotlib.
            draw_figure(options.figure, self.drawn, model.step)
            few = f", the first {len(self.drawn)} of {self.predicted:,}" if len(self.drawn) < self.predicted else ""
            display.info(f"{options.figure}: {counted(len(self.drawn), 'image')}{few}")
        if options.explain_dir and self.predicted:
            display.info(f"{os.path.join(options.explain_dir, '')}: {counted(self.predicted, 'image')} explained")
        if 2 * self.on_light > self.predicted and prediction.has_dark_background(model.stored):
            other = "without" if options.invert else "with"
            STANDARD.warning(f"{self.on_light:,} of {self.predicted:,} images have a light background, and this model "
                             f"was trained on light-on-dark ones: try {other} --invert")
        if self.unread:
            raise RunFailure(f"{self.unread:,} of {counted(total, 'file')} could not be read")


def skipped_line(names: Sequence[str]) -> str:
    """Returns the line about files in folders that are no images."""
    listed = ", ".join(map(printable, names[:MOST_SKIPPED]))
    more = f" and {len(names) - MOST_SKIPPED:,} more" if len(names) > MOST_SKIPPED else ""
    return f"skipped {counted(len(names), 'file that is no image', 'files that are no images')}: {listed}{more}"
