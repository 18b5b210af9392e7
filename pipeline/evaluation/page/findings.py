"""The key findings of a report, as sentences."""
from collections.abc import Iterator, Mapping
from typing import Any

from pipeline.quantities import counted, plural

CLOSE = 0.01  # Difference of confidence and accuracy within which a model is well calibrated.
WORSE = 1.1  # Factor over its lowest value above which the final loss counts as risen.
LEAST_WAITING = 0.1  # Share of the time of the steps above which waiting for input is reported.


def findings(report: Mapping[str, Any]) -> list[str]:
    """Returns the key findings, the most important first."""
    found = [*_compared(report), _weakest(report), _confused(report), _confidence(report["calibration"]),
             _overfitting(report["curves"]), _goodput(report.get("goodput"))]
    return [sentence for sentence in found if sentence]


def _compared(report: Mapping[str, Any]) -> Iterator[str]:
    for other in report.get("compared") or []:
        yield (f"{other['name']} against this run: {other['verdict']} (only it is correct on "
               f"{counted(other['only_this_right'], 'example')}, only this run on {other['only_the_first_right']:,}).")


def _weakest(report: Mapping[str, Any]) -> str | None:
    known = [one for one in report["per_class"] if one["support"] and one["f1"] is not None]
    if len(known) < 2:
        return None
    weakest, best = (choose(known, key=lambda one: one["f1"]) for choose in (min, max))
    if weakest["f1"] == best["f1"]:
        return f"Every class has the same F1, {best['f1']:.3f}."
    missed = round(weakest["support"] * (1 - weakest["recall"]))
    return (f"Weakest class: {weakest['name']} (F1 {weakest['f1']:.3f}); {missed:,} of its "
            f"{counted(weakest['support'], 'example')} {plural(missed, 'is', 'are')} misclassified, and "
            f"{1 - weakest['precision']:.1%} of its predictions are wrong.")


def _confused(report: Mapping[str, Any]) -> str:
    if not report["confused_pairs"]:
        return "No example is misclassified."
    pair = report["confused_pairs"][0]
    return (f"Most confused pair: true {pair['true']}, predicted {pair['predicted']} ("
            f"{counted(pair['count'], 'example')}, {pair['share']:.1%} of class {pair['true']}).")


def _confidence(calibration: Mapping[str, Any]) -> str | None:
    before, after = calibration["before"], calibration.get("after")
    bins = [one for one in before["reliability"] if one["count"]]
    count = sum(one["count"] for one in bins)
    if not count:
        return None
    confidence, accuracy = (sum(one[name] * one["count"] for one in bins) / count
                            for name in ("confidence", "accuracy"))
    means = f"mean confidence {confidence:.1%}, accuracy {accuracy:.1%}"
    word = "well calibrated on average" if abs(confidence - accuracy) < CLOSE else \
        "overconfident" if confidence > accuracy else "underconfident"
    if not after or before["ece"] is None or after["ece"] is None:
        return f"The model is {word}: {means}."
    change = "reduces" if after["ece"] < before["ece"] else "does not help: it changes"
    return (f"The model is {word}: {means}. Temperature scaling {change} the calibration error from "
            f"{before['ece']:.4f} to {after['ece']:.4f}.")


def _overfitting(curves: Mapping[str, Any]) -> str | None:
    for split, columns in (curves.get("evaluation") or {}).items():
        known = [(loss, step) for step, loss in zip(columns["step"], columns["loss"], strict=True) if loss is not None]
        if len(known) > 2:
            lowest, (last, _) = min(known), known[-1]
            if lowest[0] > 0 and last > WORSE * lowest[0]:
                return (f"The {split} loss was lowest at step {lowest[1]:,.0f} ({lowest[0]:.4f}) and ended at "
                        f"{last:.4f}: the model overfits after that step.")
    return None


def _goodput(goodput: Mapping[str, Any] | None) -> str | None:
    if not goodput or not sum(goodput["seconds"].values()):
        return None
    seconds = goodput["seconds"]
    waiting = seconds.get("input", 0.0) / max(1e-9, seconds.get("steps", 0.0) + seconds.get("input", 0.0))
    if waiting > LEAST_WAITING:
        return f"The steps spent {waiting:.0%} of their time waiting for input."
    return None
