"""The section that compares other runs with the one that is evaluated, on the same examples."""
import string
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from pipeline.evaluation.page import plots
from pipeline.evaluation.page.curves import QUANTITIES, drawn
from pipeline.evaluation.tables import number

# name on the page and in the headline: key of a compared run, the better of two
METRICS: dict[str, tuple[str, Callable]] = {
    "accuracy": ("accuracy", max), "loss": ("loss", min), "macro F1": ("macro_f1", max),
    "calibration error": ("calibration_error", min)}


def comparison(report: Mapping[str, Any]) -> dict[str, Any] | None:
    """Returns the comparison; None where there is nothing to compare with."""
    others = report.get("compared")
    if not others:
        return None
    headline = {item["name"]: item["value"] for item in report["headline"]}
    columns = [_column(name, [headline.get(name), *(other[key] for other in others)], best)
               for name, (key, best) in METRICS.items()]
    runs = [{"letter": letter(place), "name": other["name"], "other": other,
             "p": other.get("mcnemar_p_adjusted", other.get("mcnemar_p")),
             "values": [column[place] for column in columns]}
            for place, other in enumerate([{"name": report["run"]["workdir"]}, *others])]
    return {"columns": list(METRICS), "runs": runs, "others": others, "plots": _plots(report, others)}


def _column(name: str, values: Sequence[float | None], best: Callable) -> list[tuple[str, bool]]:
    """Returns [(text of a value, whether it is the best)]."""
    top = best((value for value in values if value is not None), default=None)
    return [(number(name, value), value is not None and value == top) for value in values]


def letter(place: int) -> str:
    """Returns the label of a run: A, B, ..., Z, A1, ..."""
    letters = string.ascii_uppercase
    return letters[place % len(letters)] + (str(place // len(letters)) if place >= len(letters) else "")


def _plots(report: Mapping[str, Any], others: Sequence[dict]) -> dict[str, str]:
    runs = [report["curves"], *(other["curves"] for other in others)]
    found = {title: plots.learning_curve(runs, name, f"{title} by step of every run")
             for name, title in QUANTITIES.items()}
    for draw, key, title in ((plots.roc, "roc", "ROC, macro average"),
                             (plots.precision_recall, "pr", "Precision-recall, macro average")):
        curves = [(report.get(key) or {}).get("macro"), *(other.get(f"{key}_macro") for other in others)]
        lines = [(curve, plots.series_style(place)) for place, curve in enumerate(curves) if curve]
        found[title] = draw(lines, f"{title}, of every run") if lines else ""
    bins = [report["calibration"]["before"]["reliability"], *(other["reliability"] for other in others)]
    return drawn({**found, "Reliability": plots.reliabilities(bins, "Accuracy by confidence of every run")})
