"""Selects the runs, the weights and the split of an evaluation, without loading TensorFlow."""
import dataclasses
import os
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from pipeline import onednn, run_directory
from pipeline.config import ExperimentConfig, keeps_average
from pipeline.dataset_name import may_be_same
from pipeline.dataset_name import split as split_name
from pipeline.errors import UsageError
from pipeline.monitoring.metrics_log import read_records
from pipeline.run_directory import RunDirectory

MOST_VIEWS = 16
ONE_RUN = ("workdir", "dataset", "model")  # Options that do not hold for the runs to compare with.


@dataclasses.dataclass(frozen=True)
class StoredRun:
    """A run in its directory.

    Attributes:
      directory: RunDirectory.
      stored: content of its config.json.
      config: ExperimentConfig, with the options given for this evaluation.
    """

    directory: RunDirectory
    stored: dict[str, Any]
    config: ExperimentConfig

    @classmethod
    def open(cls, path: str, options: Mapping[str, Any]) -> "StoredRun":
        """Reads the run of a directory.

        Args:
          path: of the directory.
          options: {option: value} that differ from training.

        Raises:
          UsageError: there is no run, it is another one, or an option that only training can set has another value.
        """
        directory, stored = run_directory.stored_config(path)
        for name in ("dataset", "model"):
            if name in options and not may_be_same(options[name], stored["config"][name]):
                raise UsageError(f"--{name}={options[name]}: the run in {directory.path} was trained with "
                                 f"{stored['config'][name]}")
        return cls(directory, stored, run_directory.evaluation_config(stored, {"allow": (), **options}))

    @property
    def records(self) -> Iterator[dict]:
        """The records of its metrics.jsonl, as an iterator: there may be millions."""
        return read_records(self.directory.file("metrics.jsonl"))

    @property
    def fingerprint(self) -> str:
        """Of the data it was trained on."""
        return self.stored["data"]["fingerprint"]

    @property
    def of_folder(self) -> bool:
        """Whether the data are a folder, whose fingerprint has two forms: only with the data can two be compared."""
        return split_name(self.stored["data"]["name"])[0] == "folder"

    def other_data(self, other: "StoredRun") -> UsageError:
        """Returns the error about a run of other data to compare this one with."""
        return UsageError(
            f"--compare={other.directory.path} has other data ({other.stored['data']['name']}, fingerprint "
            f"{other.fingerprint[:12]}) than {self.directory.path} ({self.stored['data']['name']}, fingerprint "
            f"{self.fingerprint[:12]}): only runs on the same examples can be compared, with the same --dataset, "
            "--image_size, --validation_split and --subset")


@dataclasses.dataclass(frozen=True)
class WeightSelection:
    """Which weights of a run are evaluated, and in how many views of each image.

    Attributes:
      checkpoint: "latest", "best", a step, or a path without suffix.
      ema: whether to take their moving average; None: where the run evaluates that.
      average: the mean of this many checkpoints, the given one and those before it.
      views: number of views of each image whose probabilities are averaged.

    Raises:
      UsageError: a number out of range.
    """

    checkpoint: str = "latest"
    ema: bool | None = None
    average: int = 1
    views: int = 1

    def __post_init__(self) -> None:
        if not 1 <= self.views <= MOST_VIEWS:
            raise UsageError(f"--tta must be from 1 to {MOST_VIEWS} views; found {self.views}")
        if self.average < 1:
            raise UsageError(f"--average_checkpoints must be at least 1; found {self.average}")

    def average_of(self, run: StoredRun) -> bool:
        """Returns whether it is the moving average of a run's weights."""
        return run_directory.evaluates_average(run.stored) if self.ema is None else self.ema


def open_runs(workdir: str, weights: WeightSelection, split: str | None = None, compare: Sequence[str] = (),
              options: Mapping[str, Any] | None = None) -> list[StoredRun]:
    """Reads a run and those to compare it with.

    Args:
      workdir: directory of the run.
      weights: WeightSelection.
      split: "test", "validation" or "train"; None: see evaluator.Evaluator.
      compare: directories of other runs on the same data.
      options: {option: value} that differ from training.

    Raises:
      UsageError: a directory without a run, a run on other data, or one without what is asked for.
    """
    runs, options = [StoredRun.open(workdir, options or {})], options or {}
    onednn.choose_as_begun(runs[0].stored)
    data = runs[0].stored["data"]
    if split == "validation" and not data["num_validation"]:
        raise UsageError("--split=validation: this run has no validation split, neither of its data nor held out "
                         "(--validation_split); use --split=test")
    if split == "test" and not data["num_test"]:
        raise UsageError("--split=test: the data of this run have no test split; use --split=validation")
    for path in compare:
        runs.append(_other_run(path, runs, {name: value for name, value in options.items() if name not in ONE_RUN}))
    for run in runs:
        if weights.ema and not keeps_average(run.config.optimizer):
            which = "this run" if run is runs[0] else run.directory.path
            raise UsageError(f"--ema: {which} kept no moving average of the weights; train with --ema_decay=0.999")
    if len(runs) > 1 and os.path.dirname(weights.checkpoint):
        raise UsageError(f"--checkpoint={weights.checkpoint} is of one run; with --compare give latest, best or a step")
    return runs


def _other_run(path: str, runs: Sequence[StoredRun], options: Mapping[str, Any]) -> StoredRun:
    """Returns the StoredRun of a directory to compare with."""
    if RunDirectory(path).config is None:
        raise UsageError(f"--compare={path} holds no run (no config.json): give the --workdir of a run")
    if os.path.realpath(path) in [os.path.realpath(run.directory.path) for run in runs]:
        raise UsageError(f"--compare={path} is compared with itself: give each run once")
    other, first = StoredRun.open(path, options), runs[0]
    if other.fingerprint != first.fingerprint and not all(run.of_folder for run in (first, other)):
        raise first.other_data(other)
    return other
