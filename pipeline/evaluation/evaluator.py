"""Evaluates the models of runs on a split of their data: selected weights, one or several views of each image."""
import dataclasses
from collections.abc import Sequence
from typing import Any

from pipeline import extension
from pipeline.augmentation import augmentations
from pipeline.console import STANDARD, Console
from pipeline.data.source import Source, Split
from pipeline.distributed import devices
from pipeline.evaluation.probabilities import Predictions, averaged
from pipeline.evaluation.selection import StoredRun, WeightSelection
from pipeline.evaluation.stored_run import choose_split, rebuild, reopen_data, same_data
from pipeline.evaluation.views import View, seen, views
from pipeline.metrics.evaluation import Evaluation
from pipeline.preprocessing import Preprocessing
from pipeline.processor import cpu_features
from pipeline.stored_checkpoint import StoredCheckpoint, find_checkpoint
from pipeline.training.stored_weights import described, latest_checkpoints, load_weights


@dataclasses.dataclass(frozen=True, eq=False)
class RunEvaluation:
    """One run on one split.

    Attributes:
      run: StoredRun.
      experiment: pipeline.training.experiment.Experiment with the selected weights.
      checkpoints: StoredCheckpoints of the weights, latest first.
      weights: which weights they are, in words.
      views: views.View of each image.
      evaluation: metrics.Evaluation.
      predictions: Predictions of the split; None where they were not asked for.
      held_out: Predictions of another part held out of training, or None.
    """

    run: StoredRun
    experiment: Any
    checkpoints: Sequence[StoredCheckpoint]
    weights: str
    views: Sequence[View]
    evaluation: Evaluation
    predictions: Predictions | None = None
    held_out: Predictions | None = None

    def not_finite(self) -> str:
        """Returns the line about a model whose outputs are not finite: there is nothing to report about it."""
        return (f"no report: the model of {self.run.directory.path} at step {self.checkpoints[0].step} gives outputs "
                "that are not finite; try an earlier one with --checkpoint=best")


class Evaluator:
    """Evaluates runs on a split of the data that they share.

    Attributes:
      runs: list of StoredRun, the one that is evaluated and those to compare it with.
      strategy: the strategy of this process; source: Source; split: Split. After `open`.
    """

    def __init__(self, runs: Sequence[StoredRun], weights: WeightSelection):
        """Finds the checkpoints, before the devices are started and the data loaded.

        Raises:
          UsageError: a checkpoint is missing, or there are too few.
        """
        self.runs, self.weights = runs, weights
        self.strategy: Any = None
        self._console = STANDARD
        self.source: Source
        self.split: Split
        for run in runs:
            latest_checkpoints(find_checkpoint(run.directory.file("checkpoints"), weights.checkpoint), weights.average)

    def open(self, split: str | None = None, console: Console = STANDARD) -> None:
        """Starts the devices and loads the data.

        Args:
          split: "test", "validation" or "train"; None: test, or validation where the data have no test split.
          console: where messages go.

        Raises:
          UsageError: devices or data are not what a run needs, or a run to compare with has other data.
        """
        first, *others = self.runs
        self._console = console
        self.strategy, self.source = reopen_data(first.config, first.stored, console)
        kind = "GPU" if "GPU" in self.strategy.extended.worker_devices[0] else "CPU"
        for other in others:
            forms = {run.fingerprint for run in (first, other)}
            if len(forms) > 1 and any(self.source.fingerprint_as(form) != form for form in forms):
                raise first.other_data(other)
            devices.check_precision(other.config.runtime.precision, kind, other.config.runtime.force,
                                    cpu_features())
            extension.load(other.config.data.extension, other.stored.get("extensions") or ())
        self.split = choose_split(self.source, split)

    def _source_of(self, run):
        """Returns the data of a run: the same examples for all, but each run with its own images of the files."""
        first = self.runs[0]
        if Preprocessing.of_run(run.stored) == Preprocessing.of_run(first.stored):
            return self.source
        return same_data(run.config, run.stored, self._console)

    def evaluate(self, run: StoredRun, per_example: bool = True, held_out: bool = False) -> RunEvaluation:
        """Evaluates the model of a run, every example of the split exactly once.

        Args:
          run: one of `runs`.
          per_example: keep the predictions of every example.
          held_out: predict the part held out of training too.

        Raises:
          UsageError: its checkpoints do not fit.
        """
        weights, source = self.weights, self._source_of(run)
        chosen_split = choose_split(source, self.split.name)
        # Where examples are cached changes no result; views are made where the host reads them.
        config = run.config.replace(cache="host") if weights.views > 1 else run.config
        experiment: Any = rebuild(config, run.stored, source, self.strategy)
        checkpoints = load_weights(experiment.state.model, run.directory.file("checkpoints"), weights.checkpoint,
                                   weights.average_of(run), weights.average)
        which = described([checkpoint.step for checkpoint in checkpoints], weights.average_of(run))
        chosen = views(weights.views, any(a.name == "flip" for a in augmentations(run.config.data)))

        def predict(part: Split) -> Predictions:
            found = (experiment.outputs(seen(part, view)) for view in chosen)
            parts = (Predictions(outputs.logits, outputs.labels) for outputs in found)
            return averaged(parts) if len(chosen) > 1 else next(parts)

        predictions = predict(chosen_split) if per_example or len(chosen) > 1 else None
        # Without views by the arithmetic of training, to the last digit.
        evaluation = predictions.evaluation() if predictions and len(chosen) > 1 else experiment.evaluate(chosen_split)
        other = source.validation if held_out and source.validation is not chosen_split else None
        return RunEvaluation(run, experiment, checkpoints, which, chosen, evaluation, predictions,
                             predict(other) if other else None)
