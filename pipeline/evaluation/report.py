"""The content of report.json: metrics, curves, examples and comparisons of a model on a split."""
import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from pipeline.evaluation import calibration, comparison
from pipeline.evaluation.curves import MOST_CLASSES, CurveSet, classes_to_show
from pipeline.evaluation.history import learning_curves
from pipeline.evaluation.probabilities import Predictions
from pipeline.files import plain
from pipeline.metrics import classification, intervals
from pipeline.metrics.evaluation import LOSS, RANK, Evaluation, confusion_matrix

SCHEMA = 1
MOST_SHOWN = 24  # Images of each kind.
LARGEST_CONFUSION = 200  # Classes of a confusion matrix.


@dataclasses.dataclass(frozen=True, eq=False)
class EvaluatedRun:
    """One run evaluated on a split, for a report.

    Attributes:
      name: the directory of its run.
      evaluation: Evaluation, of the same arithmetic as during training.
      predictions: Predictions of the same examples.
      records: iterable of the records of its metrics.jsonl, read once.
    """

    name: str
    evaluation: Evaluation
    predictions: Predictions
    records: Iterable[dict]


def make_report(first: EvaluatedRun, names: Sequence[str], split: str, described: Mapping[str, Any],
                held_out: Predictions | None = None, compared: Sequence[EvaluatedRun] = ()) -> dict[str, Any]:
    """Returns the content of report.json.

    Args:
      first: EvaluatedRun.
      names: class names, in the order of the logits.
      split: name of the split.
      described: facts about run and machine: {"created", "command", "run", "goodput", "cost"}.
      held_out: Predictions of a part held out of training on which a temperature may be fitted, or None.
      compared: EvaluatedRun of other runs on the same examples.

    Returns:
      A dict of JSON types; values that are not finite are None.
    """
    predictions = first.predictions
    metrics = classification.per_class(predictions.labels, predictions.predicted, len(names))
    shown = classes_to_show(metrics["f1"])
    curves = CurveSet(predictions, shown)
    averages = classification.averages(predictions.labels, predictions.predicted)
    calibrated = calibration.calibrate(predictions, split, held_out)
    confusion = confusion_matrix(first.evaluation.rows, len(names))
    return plain({
        "schema": SCHEMA, **{name: described[name] for name in ("created", "command", "run")},
        "headline": headline(first, averages, curves, calibrated), "classes": list(names),
        "per_class": [{"name": name, "precision": float(metrics["precision"][i]), "recall": float(metrics["recall"][i]),
                       "f1": float(metrics["f1"][i]), "support": int(metrics["support"][i]),
                       "roc_auc": float(curves.roc_auc[i]), "average_precision": float(curves.average_precision[i])}
                      for i, name in enumerate(names)],
        "averages": {kind: {**averages[kind], "roc_auc": curves.mean(curves.roc_auc, weights),
                            "average_precision": curves.mean(curves.average_precision, weights)}
                     for kind, weights in (("macro", np.ones(len(names))), ("weighted", metrics["support"]))},
        "confusion": confusion.tolist() if len(names) <= LARGEST_CONFUSION else None,
        "confused_pairs": classification.confused_pairs(confusion, names),
        "roc": curves.roc(names), "pr": curves.pr(names), "calibration": calibrated,
        "mistakes": _examples(predictions, names, ~predictions.correct, -predictions.confidence),
        "unsure_hits": _examples(predictions, names, predictions.correct, predictions.confidence),
        "curves": learning_curves(first.records), "goodput": described["goodput"], "cost": described["cost"],
        "compared": compare_all(first, compared, names) or None,
        "notes": _notes(predictions, names, len(shown)),
    })


def headline(first: EvaluatedRun, averages: dict, curves: CurveSet, calibrated: dict) -> list[dict[str, Any]]:
    """Returns the headline metrics: [{"name", "value", "low", "high", "interval"}]."""
    predictions, evaluation = first.predictions, first.evaluation
    drawn, count = intervals.bootstrap(predictions, evaluation.rows[:, LOSS]), predictions.examples

    def figure(name, value, low_high, kind):
        return {"name": name, "value": value, "low": low_high[0], "high": low_high[1], "interval": f"95%, {kind}"}

    area = curves.macro_roc_auc
    found = [
        figure("accuracy", evaluation.accuracy, intervals.wilson(predictions.correct.sum(), count), "Wilson"),
        figure("loss", evaluation.loss, drawn["loss"], "bootstrap"),
        figure("macro F1", averages["macro"]["f1"], drawn["macro_f1"], "bootstrap"),
        figure("macro ROC AUC", area, intervals.delong(area, curves.influence), "DeLong")]
    if predictions.num_classes > 5:
        near = int((evaluation.rows[:, RANK] < 5).sum())
        found.append(figure("top-5 accuracy", near / count, intervals.wilson(near, count), "Wilson"))
    return [*found, figure("calibration error", calibrated["before"]["ece"], drawn["calibration_error"],
                           "basic bootstrap, approximate")]


def compare_all(first: EvaluatedRun, others: Sequence[EvaluatedRun], names: Sequence[str]) -> list[dict]:
    """Returns the entries of report.json about other runs on the same examples, see comparison.compare."""
    found = []
    for other in others:
        predictions = other.predictions
        curves = CurveSet(predictions, ())
        calibrated = calibration.figures(predictions)
        found.append({
            "name": other.name, "accuracy": other.evaluation.accuracy, "loss": other.evaluation.loss,
            "macro_f1": classification.averages(predictions.labels, predictions.predicted)["macro"]["f1"],
            "calibration_error": calibrated["ece"], **comparison.compare(first.predictions, predictions, names),
            "roc_macro": curves.roc(names)["macro"], "pr_macro": curves.pr(names)["macro"],
            "reliability": calibrated["reliability"], "curves": learning_curves(other.records)})
    for entry, p_value in zip(found, comparison.holm([e["mcnemar_p"] for e in found]), strict=True):
        entry["mcnemar_p_adjusted"] = p_value
        entry["verdict"] = comparison.verdict(p_value, entry["only_this_right"], entry["only_the_first_right"])
    return found


def named_examples(report: dict) -> np.ndarray:
    """Returns int64 [n], ascending: the examples of the split whose images a report shows."""
    return np.unique([example["index"] for example in _listed(report)]).astype(np.int64)


def name_files(report: dict, files: Sequence[str] | None) -> None:
    """Adds "file" to each example that a report lists; files: names by number of the example, or None."""
    if files:
        for example in _listed(report):
            example["file"] = files[example["index"]]


def _listed(report: dict) -> list[dict]:
    lists = [report["mistakes"], report["unsure_hits"], *(other["differing"] for other in report["compared"] or [])]
    return [example for examples in lists for example in examples]


def _examples(predictions: Predictions, names: Sequence[str], wanted: np.ndarray, order: np.ndarray) -> list[dict]:
    """Returns the wanted examples, bool [N], lowest `order` [N] first, at most MOST_SHOWN."""
    index = np.flatnonzero(wanted)
    index = index[np.argsort(order[index], kind="stable")[:MOST_SHOWN]]
    own = predictions.true_probability
    return [{"index": int(i), "true": names[predictions.labels[i]], "predicted": names[predictions.predicted[i]],
             "confidence": float(predictions.confidence[i]), "true_probability": float(own[i])} for i in index]


def _notes(predictions: Predictions, names: Sequence[str], shown: int) -> list[str]:
    """Returns what a reader has to know of the limits of the report, as sentences."""
    notes, support = [], np.bincount(predictions.labels, minlength=len(names))
    there = np.count_nonzero(support)
    if there > MOST_CLASSES:
        notes.append(f"The curves are those of {shown} of {there:,} classes, of the lowest F1; means are over all.")
    if len(names) > LARGEST_CONFUSION:
        notes.append(f"A confusion matrix of {len(names):,} classes is left out; the most confused pairs are listed.")
    missing = [name for name, count in zip(names, support, strict=True) if not count]
    if missing:
        listed = ", ".join(missing[:10]) + (f" and {len(missing) - 10} more" if len(missing) > 10 else "")
        notes.append(f"Without examples in this split: {listed}; these count in no mean.")
    return notes
