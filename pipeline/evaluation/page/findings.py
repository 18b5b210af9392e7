"""The key findings of a report, as sentences."""
from pipeline.quantities import counted, plural

CLOSE = 0.01  # Of confidence and accuracy, within which a model is well calibrated.
WORSE = 1.1  # Times its lowest value, from which on a loss at the end counts as risen.
SLOW = 0.9


def findings(report):
    """Returns the key findings, the most important first.

    Args:
      report: what report.json holds.
    """
    found = [*_compared(report), _weakest(report), _confused(report), _confidence(report["calibration"]),
             _overfitting(report["curves"]), _goodput(report.get("goodput"))]
    return [sentence for sentence in found if sentence]


def _compared(report):
    for other in report.get("compared") or []:
        yield (f"{other['name']} against this run: {other['verdict']} (only it is correct on "
               f"{counted(other['only_this_right'], 'example')}, only this run on {other['only_the_first_right']:,}).")


def _weakest(report):
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


def _confused(report):
    if not report["confused_pairs"]:
        return "No example is misclassified."
    pair = report["confused_pairs"][0]
    return (f"Most confused pair: true {pair['true']}, predicted {pair['predicted']} ("
            f"{counted(pair['count'], 'example')}, {pair['share']:.1%} of class {pair['true']}).")


def _confidence(calibration):
    before, after = calibration["before"], calibration.get("after")
    bins = [one for one in before["reliability"] if one["count"]]
    count = sum(one["count"] for one in bins)
    if not count:
        return None
    confidence, accuracy = (sum(one[name] * one["count"] for one in bins) / count
                            for name in ("confidence", "accuracy"))
    said = f"mean confidence {confidence:.1%}, accuracy {accuracy:.1%}"
    word = "well calibrated on average" if abs(confidence - accuracy) < CLOSE else \
        "overconfident" if confidence > accuracy else "underconfident"
    scaled = after and before["ece"] is not None and after["ece"] is not None
    if not scaled:
        return f"The model is {word}: {said}."
    change = "reduces" if after["ece"] < before["ece"] else "does not help: it changes"
    return (f"The model is {word}: {said}. Temperature scaling {change} the calibration error from {before['ece']:.4f} "
            f"to {after['ece']:.4f}.")


def _overfitting(curves):
    for split, columns in (curves.get("evaluation") or {}).items():
        known = [(loss, step) for step, loss in zip(columns["step"], columns["loss"], strict=True) if loss is not None]
        if len(known) > 2:
            lowest, (last, _) = min(known), known[-1]
            if lowest[0] > 0 and last > WORSE * lowest[0]:
                return (f"The {split} loss was lowest at step {lowest[1]:,.0f} ({lowest[0]:.4f}) and ended at "
                        f"{last:.4f}: the model overfits after that step.")
    return None


def _goodput(goodput):
    if not goodput or not sum(goodput["seconds"].values()):
        return None
    seconds = goodput["seconds"]
    waiting = seconds.get("input", 0.0) / max(1e-9, seconds.get("steps", 0.0) + seconds.get("input", 0.0))
    if waiting > 1 - SLOW:
        return f"The steps spent {waiting:.0%} of their time waiting for input."
    return None
