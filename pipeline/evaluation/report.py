"""What is said of a trained model on the examples of a split: the contents of report.json."""
import dataclasses

import numpy as np

from pipeline.evaluation import calibration, comparison
from pipeline.evaluation.curves import MOST_CLASSES, CurveSet, classes_to_show
from pipeline.evaluation.history import learning_curves
from pipeline.evaluation.probabilities import Predictions
from pipeline.files import plain
from pipeline.metrics import classification, evaluation, intervals

SCHEMA = 1
MOST_SHOWN = 24  # Pictures of a kind.
LARGEST_CONFUSION = 200  # Classes; the matrix of more is neither read nor drawn.


@dataclasses.dataclass(frozen=True, eq=False)
class Judged:
    """One trained model's judgement of a split.

    Attributes:
      name: the directory of its run.
      evaluation: evaluation.Evaluation, of the same arithmetic as during training.
      predictions: Predictions of the same examples.
      records: iterable of those of its evaluation.jsonl, gone through once.
    """

    name: str
    evaluation: evaluation.Evaluation
    predictions: Predictions
    records: object


def make_report(judged, names, split, described, held_out=None, compared=()):
    """Puts report.json together.

    Args:
      judged: Judged.
      names: class names, in the order of the logits.
      split: name of the split.
      described: what is known of run and machine: {"created", "command", "run", "goodput", "cost"}.
      held_out: Predictions of a part held out of training on which a temperature may be fitted, or None.
      compared: Judged of other runs on the same examples.

    Returns:
      A dict of JSON types; what is not a number is None.
    """
    predictions = judged.predictions
    figures = classification.per_class(predictions.labels, predictions.predicted, len(names))
    shown = classes_to_show(figures["f1"])
    curves = CurveSet(predictions, shown)
    averages = classification.averages(predictions.labels, predictions.predicted)
    calibrated = calibration.calibrate(predictions, split, held_out)
    confusion = evaluation.confusion_matrix(judged.evaluation.rows, len(names))
    return plain({
        "schema": SCHEMA, **{name: described[name] for name in ("created", "command", "run")},
        "headline": headline(judged, averages, curves, calibrated), "classes": list(names),
        "per_class": [{"name": name, "precision": float(figures["precision"][i]), "recall": float(figures["recall"][i]),
                       "f1": float(figures["f1"][i]), "support": int(figures["support"][i]),
                       "roc_auc": float(curves.roc_auc[i]), "average_precision": float(curves.average_precision[i])}
                      for i, name in enumerate(names)],
        "averages": {kind: {**averages[kind], "roc_auc": curves.mean(curves.roc_auc, weights),
                            "average_precision": curves.mean(curves.average_precision, weights)}
                     for kind, weights in (("macro", np.ones(len(names))), ("weighted", figures["support"]))},
        "confusion": confusion.tolist() if len(names) <= LARGEST_CONFUSION else None,
        "confused_pairs": classification.confused_pairs(confusion, names),
        "roc": curves.roc(names), "pr": curves.pr(names), "calibration": calibrated,
        "mistakes": _examples(predictions, names, ~predictions.hit, -predictions.confidence),
        "unsure_hits": _examples(predictions, names, predictions.hit, predictions.confidence),
        "curves": learning_curves(judged.records), "goodput": described["goodput"], "cost": described["cost"],
        "compared": compare_all(judged, compared, names) or None,
        "notes": _notes(predictions, names, len(shown)),
    })


def headline(judged, averages, curves, calibrated):
    """Returns the figures that come first: [{"name", "value", "low", "high", "interval"}].

    Args:
      judged: Judged.
      averages: see classification.averages.
      curves: CurveSet.
      calibrated: see calibration.calibrate.
    """
    predictions = judged.predictions
    drawn, count = intervals.bootstrap(predictions), predictions.examples

    def figure(name, value, low_high, kind):
        return {"name": name, "value": value, "low": low_high[0], "high": low_high[1], "interval": f"95%, {kind}"}

    area = curves.macro_roc_auc
    found = [
        figure("accuracy", judged.evaluation.accuracy, intervals.wilson(predictions.hit.sum(), count), "Wilson"),
        figure("loss", judged.evaluation.loss, drawn["loss"], "bootstrap"),
        figure("macro F1", averages["macro"]["f1"], drawn["macro_f1"], "bootstrap"),
        figure("macro ROC AUC", area, intervals.delong(area, curves.influence), "DeLong")]
    if predictions.num_classes > 5:
        near = int((judged.evaluation.rows[:, evaluation.RANK] < 5).sum())
        found.append(figure("top-5 accuracy", near / count, intervals.wilson(near, count), "Wilson"))
    return [*found, figure("calibration error", calibrated["before"]["ece"], drawn["calibration_error"],
                           "basic bootstrap, approximate")]


def compare_all(first, others, names):
    """Returns the entries of report.json about other runs on the same examples, see comparison.compare.

    Args:
      first: Judged.
      others: list of Judged.
      names: class names.
    """
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


def named_examples(report):
    """Returns int64 [n], ascending: the examples of the split whose pictures a report shows."""
    return np.unique([example["index"] for example in _listed(report)]).astype(np.int64)


def name_files(report, files):
    """Says which "file" each example is that a report lists; files: names by the number of the example, or None."""
    for example in _listed(report) if files else ():
        example["file"] = files[example["index"]]


def _listed(report):
    lists = [report["mistakes"], report["unsure_hits"], *(other["differing"] for other in report["compared"] or [])]
    return [example for examples in lists for example in examples]


def _examples(predictions, names, wanted, order):
    """Lists the wanted examples, bool [N], lowest `order` [N] first, at most MOST_SHOWN."""
    index = np.flatnonzero(wanted)
    index = index[np.argsort(order[index], kind="stable")[:MOST_SHOWN]]
    own = predictions.true_probability
    return [{"index": int(i), "true": names[predictions.labels[i]], "predicted": names[predictions.predicted[i]],
             "confidence": float(predictions.confidence[i]), "true_probability": float(own[i])} for i in index]


def _notes(predictions, names, shown):
    """Says what a reader would otherwise take for complete or for certain."""
    notes, support = [], np.bincount(predictions.labels, minlength=len(names))
    there = np.count_nonzero(support)
    if there > MOST_CLASSES:
        notes.append(f"The curves are those of {shown} of {there:,} classes, of the lowest F1; means go over all.")
    if len(names) > LARGEST_CONFUSION:
        notes.append(f"A confusion matrix of {len(names):,} classes is left out; the most confused pairs are there.")
    missing = [names[i] for i in np.flatnonzero(support == 0)]
    if missing:
        listed = ", ".join(missing[:10]) + (f" and {len(missing) - 10} more" if len(missing) > 10 else "")
        notes.append(f"Without examples in this split: {listed}; these count in no mean.")
    return notes
