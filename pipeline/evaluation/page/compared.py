"""The part of the page that sets other runs beside the one that is judged, on the same examples."""
import string

from pipeline.evaluation.page import plots
from pipeline.evaluation.page.curves import QUANTITIES, box_of, figure, legend, swatch
from pipeline.evaluation.page.galleries import gallery
from pipeline.evaluation.tables import number
from pipeline.pages.markup import escape, table, tag

# name on the page, name among the headline's figures, key of a compared run, whether more is better
FIGURES = (("accuracy", "accuracy", "accuracy", True), ("loss", "loss", "loss", False),
           ("macro F1", "macro F1", "macro_f1", True),
           ("calibration error", "calibration error", "calibration_error", False))


def section(report, pictures):
    """Returns the comparison, "" where there is nothing to compare with."""
    others = report.get("compared")
    if not others:
        return ""
    names = [report["run"]["workdir"], *(other["name"] for other in others)]
    entries = [(swatch(place), f"{letter(place)}  {name}") for place, name in enumerate(names)]
    words = ("McNemar's test asks of the examples that one of two models alone gets right whether they are divided as "
             "chance would: p below 0.05 says no. It is about these two models; another seed would give another model. "
             "The difference in accuracy has the 95% score interval for pairs (Tango).")
    parts = [_table(report, names), tag("p", words, "soft"), legend(entries), _plots(report, others)]
    for place, other in enumerate(others, 1):
        parts.append(_differing(other, place, pictures))
    return "".join(parts)


def letter(place):
    """Returns how a run is called beside the others: A, B, ..., Z, A1, ..."""
    letters = string.ascii_uppercase
    return letters[place % len(letters)] + (str(place // len(letters)) if place >= len(letters) else "")


def _table(report, names):
    others = report["compared"]
    figures = {item["name"]: item["value"] for item in report["headline"]}
    columns = [(name, key, [figures.get(of_first), *(other.get(key) for other in others)], more)
               for name, of_first, key, more in FIGURES]
    heads = ["run", *(name for name, _, _, _ in columns), "it alone right", "A alone right", "both wrong",
             "accuracy over A", "p (Holm)" if len(others) > 1 else "p"]
    rows = []
    for place, name in enumerate(names):
        cells = tag("th", swatch(place) + tag("b", letter(place)) + " " + escape(name), scope="row")
        for title, _, values, more in columns:
            known = [value for value in values if value is not None]
            best = values[place] is not None and values[place] == (max if more else min)(known)
            cells += tag("td", number(title, values[place]), "best" if best else "")
        rows.append(tag("tr", cells + (_against(others[place - 1]) if place else tag("td", "–") * 5
                                       + tag("td", "the others are compared with it", "words"))))
    head = "".join(tag("th", name, scope="col") for name in heads) + tag("th", "verdict", "left", scope="col")
    return table(head, rows, kind="runs", **box_of("Runs side by side"))


def _against(other):
    verdict = other["verdict"]
    kind = "good" if verdict.startswith("better") else "wrong" if verdict.startswith("worse") else ""
    counts = (f"{other[key]:,}" for key in ("only_this_right", "only_the_first_right", "both_wrong"))
    p_value = other.get("mcnemar_p_adjusted", other["mcnemar_p"])
    return ("".join(tag("td", count) for count in counts) + tag("td", _difference(other.get("accuracy_difference")))
            + tag("td", "<0.001".replace("<", "&lt;") if p_value < 0.001 else f"{p_value:.3f}")
            + tag("td", tag("b", escape(verdict), kind), "words"))


def _difference(difference):
    if not difference:
        return "–"
    return f"{difference['value']:+.2%} ({difference['low']:+.2%} to {difference['high']:+.2%})"


def _plots(report, others):
    runs = [report["curves"], *(other["curves"] for other in others)]
    drawn = [figure(QUANTITIES[name], plots.learning_curve(runs, name, f"{QUANTITIES[name]} by step of every run"))
             for name in QUANTITIES]
    bins = [report["calibration"]["before"]["reliability"], *(other["reliability"] for other in others)]
    for draw, key, title in ((plots.roc, "roc", "ROC, mean of the classes"),
                             (plots.precision_recall, "pr", "Precision and recall, mean of the classes")):
        curves = [(report.get(key) or {}).get("macro"), *(other.get(f"{key}_macro") for other in others)]
        lines = [(curve, plots.series_style(place)) for place, curve in enumerate(curves) if curve]
        if lines:
            drawn.append(figure(title, draw(lines, f"{title}, of every run")))
    drawn.append(figure("Reliability", plots.reliabilities(bins, "Accuracy by confidence of every run")))
    words = "In loss and accuracy, markers are on the evaluations; the dashed lines are training batches, averaged."
    return tag("p", words, "soft") + tag("div", "".join(drawn), "plots three")


def _differing(other, place, pictures):
    examples = other["differing"]
    if not examples:
        return tag("h3", f"A and {letter(place)} agree on every example")

    def captions(one):
        return [tag("span", f"is {tag('b', escape(one['true']))}"),
                _of("A", one["first"], one["true"], one.get("confidence_first")),
                _of(letter(place), one["this"], one["true"], one.get("confidence_this"))]

    title = f"Where A and {letter(place)} ({other['name']}) differ, the surest first"
    return tag("h3", escape(title)) + gallery(examples, pictures, captions)


def _of(run, name, true, confidence):
    mark, kind = ("✓", "good") if name == true else ("✗", "wrong")
    share = "" if confidence is None else f" {confidence:.0%}"
    return tag("span", f"{run}: {tag('b', escape(name) + ' ' + mark, kind)}{share}")
