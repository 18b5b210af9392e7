"""The sections with plots: learning curves, ROC and precision-recall curves, calibration."""
from collections.abc import Mapping, Sequence
from typing import Any

from pipeline.evaluation.page import plots
from pipeline.evaluation.tables import number

HIGHLIGHTED = 5  # Classes of the smallest areas, which have colors of their own.
QUANTITIES = {"loss": "Loss", "accuracy": "Accuracy", "learning_rate": "Learning rate"}


def drawn(plots: Mapping[str, str]) -> dict[str, str]:
    """Returns {title: <svg> element} without empty ones."""
    return {title: svg for title, svg in plots.items() if svg}


def learning(report: Mapping[str, Any]) -> dict[str, Any] | None:
    """Returns the plots of loss, accuracy and learning rate and their legend; None without any."""
    curves, step = report["curves"], report["run"]["step"]
    train = curves.get("train") or {}
    found = drawn({title: plots.learning_curve([curves], name, f"{title} by step", step)
                   for name, title in QUANTITIES.items()})
    # The legend numbers its lines as plots.TRAIN and plots.EVALUATED do.
    return {"plots": found, "splits": list(curves.get("evaluation") or {}),
            "window": plots.smoothed(train["loss"])[1] if train.get("step") else 0} if found else None


def highlighted(report: Mapping[str, Any]) -> list[str]:
    """Returns the names of the classes that have colors of their own, smallest average precision first."""
    known = [one for one in report["pr"]["classes"] if one]
    return [one["name"] for one in sorted(known, key=lambda one: one["area"])[:HIGHLIGHTED]]


def ranking(report: Mapping[str, Any]) -> dict[str, Any] | None:
    """Returns ROC and precision-recall curves with [(name, area, area)] of the mean and of the highlighted classes.

    None where no class has positive and negative examples.
    """
    roc, pr = report.get("roc"), report.get("pr")
    if not roc or not pr or not roc["macro"] or not pr["macro"]:
        return None
    names, count = highlighted(report), sum(one is not None for one in roc["classes"])
    found = {"ROC, one class against the rest": plots.roc(
                 _lines(roc, names), f"ROC curves of {count} classes and their macro average"),
             "Precision-recall": plots.precision_recall(
                 _lines(pr, names), f"Precision-recall curves of {count} classes and their macro average")}
    areas = [{one["name"]: one["area"] for one in curves["classes"] if one} for curves in (roc, pr)]
    return {"plots": found, "faint": count - len(names),
            "areas": [("macro average", roc["macro"]["area"], pr["macro"]["area"]),
                      *((name, *(of.get(name) for of in areas)) for name in names)]}


def _lines(curves: Mapping, names: Sequence[str]) -> list[tuple]:
    def style(name: str) -> dict:
        return plots.series_style(names.index(name), dashed=True) if name in names else plots.FAINTEST

    return [*((one, style(one["name"])) for one in curves["classes"] if one), (curves["macro"], plots.STRONGEST)]


def calibration(report: Mapping[str, Any]) -> dict[str, str]:
    """Returns {title: reliability diagram} before and, where it was fitted, after temperature scaling."""
    return {f"{title}: ECE {number('ece', part['ece'])}": plots.reliability(
                part["reliability"], f"Reliability diagram {when} temperature scaling")
            for part, when, title in ((report["calibration"]["before"], "before", "Before temperature scaling"),
                                      (report["calibration"].get("after"), "after", "After temperature scaling"))
            if part}
