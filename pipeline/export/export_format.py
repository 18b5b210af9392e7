"""What an export format is. The built-in ones are in `formats`, a file each; users register theirs.

    from pipeline import register
    from pipeline.export.export_format import ExportFormat

    @register.export_format("mine", summary="one line for the help")
    class Mine(ExportFormat): ...
"""
from __future__ import annotations

import dataclasses
import importlib.util
import inspect
import textwrap
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from pipeline.choices import EXPORT_FORMATS
from pipeline.errors import UsageError
from pipeline.quantities import plural
from pipeline.registration import Location, raise_with_location

if TYPE_CHECKING:
    import numpy as np  # The help of a command reads this file, and waits for nothing.


@dataclasses.dataclass(frozen=True)
class Tolerance:
    """How far an exported model may be from the trained model on the examples of a split.

    Attributes:
      probability: largest difference of a probability; None: not bounded.
      equal: smallest share of examples whose predicted class is the same; None: not bounded.
      accuracy_lost: largest loss of accuracy, as a share (0.005 is half a point); None: not bounded.
    """

    probability: float | None = None
    equal: float | None = None
    accuracy_lost: float | None = None


FLOAT32 = Tolerance(probability=1e-5)
FLOAT16 = Tolerance(probability=1e-2, equal=0.998)
INT8 = Tolerance(equal=0.99, accuracy_lost=0.005)


class ExportFormat:
    """Base class of export formats.

    Attributes:
      name: value of --format, set by `find_format`.
      location: (file, line) of its registration; None for a built-in one.
      file: name of the file in the version's folder; "" where the export is the folder itself.
      tolerance: Tolerance within which it is published.
      runtime: module that runs it, as "onnxruntime"; named in the report with its version.
      runtime_package: that module's import name where it is another one.
      requirements: modules that write or load it and are not installed with Mirrorline itself.
      install: what pip has to install for them.
      needs_mirrorline: whether `load` imports Mirrorline; if not, it cannot be imported there.
      calibrated: whether `write` needs images of the training split.
      decodes_files: whether the exported model takes image files as they are.
      library: library_name of the model card on Hugging Face, or None.
      usage: section Usage of the model card, with code that runs as it stands in the folder of the export: Markdown, a
        Jinja2 template of `shape` (H, W, C), `array` (the same as text, "28, 28, 1"), `runtime` and `imports` (a
        sentence about the user's extensions that have to be imported first, or "").
    """

    name = ""
    location: Location | None = None
    file = ""
    tolerance = FLOAT32
    runtime = ""
    runtime_package = ""
    requirements: tuple[str, ...] = ()
    install = ""
    needs_mirrorline = False
    calibrated = False
    decodes_files = False
    library: str | None = None
    usage = "Loaded with {{ runtime }}."

    def write(self, trained: Any, path: str, metadata: dict, calibration: np.ndarray | None = None) -> None:
        """Writes the model.

        Args:
          trained: TrainedModel whose model computes in float32.
          path: of `file` in the version's folder, or of that folder.
          metadata: dict of JSON types, see pipeline.export.metadata; stored in the file where the format allows it.
          calibration: uint8 [n, H, W, C] images of the training split where the format is `calibrated`, or None.

        Raises:
          UsageError: a package is missing, or the model has an operation that the format lacks; names it.
        """
        raise NotImplementedError

    @staticmethod
    def load(path: str, threads: int) -> tuple[Callable, Callable]:
        """Loads what `write` wrote, in a fresh process.

        The source of this function is all that runs there: it imports what it needs inside, and uses nothing else of
        its file.

        Args:
          path: as for `write`.
          threads: to compute with.

        Returns:
          (prepare, compute): prepare(images uint8 [n, H, W, C]) returns the batch that the model takes, and
          compute(batch) its probabilities, float32 [n, classes]. Latency is that of `compute`.
        """
        raise NotImplementedError

    def read_variables(self, path: str) -> dict[str, np.ndarray]:
        """Returns {name: array} of the model's variables in order, for --initialize_from.

        Raises:
          UsageError: the file cannot be read.
        """
        raise NotImplementedError

    def remark(self, output: str) -> str | None:
        """Returns a note for the user about exports into the folder `output`, or None."""
        return None

    @property
    def reads_variables(self) -> bool:
        """Whether training can start from such a file."""
        return type(self).read_variables is not ExportFormat.read_variables

    def check_requirements(self) -> None:
        """Raises UsageError where packages are missing."""
        missing = [name for name in self.requirements if importlib.util.find_spec(name) is None]
        if missing:
            how = f": pip install '{self.install}'" if self.install else ""
            verb = plural(len(missing), "is", "are")
            raise UsageError(f"format {self.name} needs {', '.join(missing)}, which {verb} not installed{how}")

    def write_checked(self, trained: Any, path: str, metadata: dict, calibration: np.ndarray | None = None) -> None:
        """Writes the model; what a user's own code raises is a UsageError with its place."""
        if self.location is None:
            self.write(trained, path, metadata, calibration)
            return
        with raise_with_location(f"export format {self.name}", self.location):
            self.write(trained, path, metadata, calibration)

    def load_source(self) -> str:
        """Returns the source of `load`; raises UsageError where it has none."""
        try:
            source = inspect.getsource(type(self).load)
        except OSError:
            raise UsageError(f"export format {self.name}: the source of `load` is not available; define it in a "
                             "file") from None
        # Its annotations name modules that are not imported there.
        return f"from __future__ import annotations\n\n{textwrap.dedent(source)}"


def find_format(name: str) -> ExportFormat:
    """Returns the ExportFormat of a name; raises UsageError for an unknown one."""
    entry = EXPORT_FORMATS.find(name, "format")
    if entry.location is None:
        made = entry.load()()
    else:
        with raise_with_location(f"export format {name}", entry.location):
            made = entry.load()()
    made.name, made.location = name, entry.location
    return made


def find_formats(names: Sequence[str]) -> dict[str, ExportFormat]:
    """Returns {name: ExportFormat} in that order; raises UsageError for an unknown one or a missing package."""
    found = {name: find_format(name) for name in names}
    for export_format in found.values():
        export_format.check_requirements()
    return found


def summary(name: str) -> str:
    """Returns the line about a format in the help."""
    return EXPORT_FORMATS[name].row.summary
