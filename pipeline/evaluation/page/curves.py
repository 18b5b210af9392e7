"""The parts of the page that are drawn: learning curves, ROC and precision-recall curves, calibration."""
from pipeline.evaluation.page import plots
from pipeline.evaluation.tables import number
from pipeline.pages.markup import escape, table, tag
from pipeline.quantities import plural

HIGHLIGHTED = 5  # Classes of the smallest areas, each in a colour of its own.
QUANTITIES = {"loss": "Loss", "accuracy": "Accuracy", "learning_rate": "Learning rate"}
_DASHARRAYS = ("", "6 2", "2.5 2", "6 2 1.5 2")  # As plots.DASHES, for the line of a swatch.


def swatch(place, dashed=False, width=2.5):
    """Returns a short line as a series is drawn; `place` is its number, or a colour of the page."""
    color = f"var(--{place})" if isinstance(place, str) else f"var(--series-{place % 8 + 1})"
    dashes = _DASHARRAYS[place % len(_DASHARRAYS)] if dashed else ""
    line = tag("line", x1=0, y1=5, x2=28, y2=5, style=f"stroke:{color};stroke-width:{width};stroke-dasharray:{dashes}")
    return tag("svg", line, "swatch", viewBox="0 0 28 10", aria_hidden="true")


def legend(entries):
    """Returns a legend of (swatch, HTML; text)."""
    return tag("ul", "".join(tag("li", mark + escape(text)) for mark, text in entries), "legend")


def figure(title, svg):
    """Returns a plot under its title, "" without one."""
    return tag("figure", tag("figcaption", escape(title)) + svg) if svg else ""


def learning(report):
    """Returns loss, accuracy and learning rate over the steps of the run."""
    curves, step = report["curves"], report["run"]["step"]
    drawn = [figure(title, plots.learning_curve([curves], name, f"{title} by step", step))
             for name, title in QUANTITIES.items()]
    if not any(drawn):
        return tag("p", "No plot: the run has no metrics.jsonl.", "soft")
    entries = [(swatch(plots.EVALUATED + place), f"{split} split")
               for place, split in enumerate(curves.get("evaluation") or {})]
    if any((curves.get("train") or {}).get("step") or []):
        means = plots.smoothed(curves["train"]["loss"])[1]
        entries.insert(0, (swatch(plots.TRAIN), "training batches, as augmented"
                           + f"; strong: means of {means} points" * (means > 1)))
    entries.append((swatch("soft", width=1), f"dotted: step {step:,}, which is judged here"))
    return legend(entries) + tag("div", "".join(drawn), "plots three")


def highlighted(report):
    """Returns the names of the classes that have colours of their own, smallest average precision first."""
    known = [one for one in report["pr"]["classes"] if one]
    return [one["name"] for one in sorted(known, key=lambda one: one["area"])[:HIGHLIGHTED]]


def ranking(report):
    """Returns ROC and precision-recall curves of the classes and their means, with areas."""
    roc, pr = report.get("roc"), report.get("pr")
    if not roc or not pr or not roc["macro"] or not pr["macro"]:
        return tag("p", "No plot: no class has examples of its own and others.", "soft")
    names = highlighted(report)
    count = sum(one is not None for one in roc["classes"])
    drawn = [figure("ROC: each class against the rest",
                    plots.roc(_lines(roc, names), f"ROC curves of {count} classes and their mean")),
             figure("Precision and recall",
                    plots.precision_recall(_lines(pr, names), f"Precision-recall curves of {count} classes, and mean"))]
    faint = count - len(names)
    words = (f"The {len(names)} classes of the smallest average precision stand out; the {faint} others are faint. "
             if faint else "") + "The areas of every class stand in its table."
    areas = {kind: {one["name"]: one["area"] for one in curves["classes"] if one}
             for kind, curves in (("roc", roc), ("pr", pr))}
    rows = [_area_row(swatch("ink", width=4), "mean of the classes", roc["macro"]["area"], pr["macro"]["area"])]
    rows += [_area_row(swatch(place, dashed=True), name, areas["roc"].get(name), areas["pr"].get(name))
             for place, name in enumerate(names)]
    head = tag("th", "class") + tag("th", "ROC AUC") + tag("th", "average precision")
    return tag("div", "".join(drawn) + tag("div", table(head, rows, **box_of("Areas")) + tag("p", words, "soft")),
               "plots three")


def box_of(name):
    """Returns the attributes of a box that scrolls: reached by keyboard, and named."""
    return {"tabindex": 0, "role": "region", "aria_label": name}


def _lines(curves, names):
    def style(name):
        return plots.series_style(names.index(name), dashed=True) if name in names else plots.FAINTEST

    return [*((one, style(one["name"])) for one in curves["classes"] if one), (curves["macro"], plots.STRONGEST)]


def _area_row(mark, name, *areas):
    return tag("tr", tag("th", mark + escape(name), scope="row")
               + "".join(tag("td", number("area", area)) for area in areas))


def calibration(report):
    """Returns reliability diagrams before and after temperature scaling, and what it was fitted on."""
    found = report["calibration"]
    before, after = found["before"], found.get("after")
    drawn = [figure(f"Before: calibration error {number('ece', before['ece'])}",
                    plots.reliability(before["reliability"], "Reliability diagram before temperature scaling"))]
    if after:
        drawn.append(figure(f"After temperature scaling: {number('ece', after['ece'])}",
                            plots.reliability(after["reliability"], "Reliability diagram after temperature scaling")))
    entries = [(tag("span", kind="patch", style="--c:var(--series-1)"),
                f"share of hits (pale: fewer than {plots.FEW} examples)"), (swatch(1), "mean confidence"),
               (swatch("soft", width=1), "dotted: as sure as right")]
    return legend(entries) + tag("div", "".join(drawn) + tag("div", _calibration_table(found)), "plots three")


def _calibration_table(found):
    before, after = found["before"], found.get("after")
    heads = ["", "before"] + ["after"] * bool(after)
    rows = []
    for name, key in (("calibration error (ECE)", "ece"), ("loss (nats)", "nll"), ("Brier score, 0 to 2", "brier")):
        values = [part[key] for part in (before, after) if part]
        rows.append(tag("tr", tag("th", name, scope="row") + "".join(tag("td", number(key, v)) for v in values)))
    said = f"The calibration error is the mean distance of confidence and accuracy in {found['bins']} bins. "
    if after:
        given = after["temperature"] if isinstance(after["temperature"], list) else [after["temperature"]]
        rows.append(tag("tr", tag("th", plural(len(given), "temperature"), scope="row") + tag("td", "1")
                        + tag("td", " and ".join(f"{one:.3f}" for one in given))))
        said += "Temperature scaling divides the logits by a number, which changes no prediction. It was fitted on "
    else:
        said += "No temperature was fitted: there was "
    return (table("".join(tag("th", name) for name in heads), rows, **box_of("Calibration"))
            + tag("p", escape(f"{said}{found['fitted_on']}."), "soft"))
