"""report/index.html: a report as one self-contained page."""
import datetime
import os
from collections.abc import Mapping
from typing import Any

import numpy as np

from pipeline.evaluation.page import classes, compared, cost, curves, plots
from pipeline.evaluation.page.findings import findings
from pipeline.evaluation.tables import number, span
from pipeline.files import plain, write_text
from pipeline.pages.images import page_image
from pipeline.quantities import counted
from pipeline.templates import render

# Templates of the sections and their titles, in order.
SECTIONS = {"comparison": "Comparison", "learning": "Learning curves", "classes": "Classes",
            "confusion": "Confusion matrix", "ranking": "ROC and precision-recall curves",
            "calibration": "Calibration", "mistakes": "Most confident mistakes",
            "unsure": "Least confident correct predictions", "cost": "Time and cost", "run": "Run"}


def write_page(report: Mapping[str, Any], images: Mapping[int, np.ndarray], path: str) -> None:
    """Writes the page of a report atomically.

    Args:
      report: content of report.json, see report.make_report.
      images: {index: uint8 [H, W, C]} of the examples that report.named_examples lists; one without an image has
        its caption alone.
      path: of the file; its directory is made.
    """
    os.makedirs(os.path.dirname(os.path.abspath(path)), exist_ok=True)
    write_text(path, page(report, images))


def page(report: Mapping[str, Any], images: Mapping[int, np.ndarray]) -> str:
    """Returns the text of the page; see `write_page`."""
    report = plain(report)
    run, goodput = report["run"], report.get("goodput") or {}
    shown = {"comparison": compared.comparison(report), "confusion": classes.confusion(report),
             "classes": classes.classes(report), "learning": curves.learning(report),
             "ranking": curves.ranking(report), "calibration": curves.calibration(report)}
    sections = {name: title for name, title in SECTIONS.items()
                if name not in ("comparison", "confusion") or shown[name]}
    accuracy = next((item["value"] for item in report["headline"] if item["name"] == "accuracy"), None)
    return render(
        __package__, "report.html", **shown, title=f"{run['model']} on {run['dataset']}", report=report, run=run,
        sections=sections, where=_where(report),
        correct=None if accuracy is None else round(accuracy * run["examples"]),
        headline=headline(report), findings=findings(report), caveats=caveats(report), number=number,
        rate=classes.rate, few=plots.FEW, images={index: page_image(pixels) for index, pixels in images.items()},
        times=cost.times(goodput), launches=goodput.get("launches", 1), costs=cost.costs(report.get("cost") or {}),
        facts=cost.facts(report), options=cost.options(run))


def _where(report: Mapping[str, Any]) -> list[str]:
    run, created = report["run"], datetime.datetime.fromisoformat(report["created"])
    parameters = counted(run["parameters"], "parameter") if run.get("parameters") else ""
    return [text for text in (
        run["workdir"], f"step {run['step']:,} ({run['checkpoint']})", f"weights {run['weights']}", parameters,
        f"{created:%Y-%m-%d %H:%M %Z}") if text]


def headline(report: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """Returns [(name, value, interval)] for the first screen, text each."""
    return [(item["name"], number(item["name"], item["value"]),
             f"{span(item)} ({item['interval']})" if item["low"] is not None else "no interval")
            for item in report["headline"]]


def caveats(report: Mapping[str, Any]) -> list[str]:
    """Returns what a reader has to know before quoting a metric, as sentences."""
    run, found = report["run"], []
    if run.get("status") not in (None, "finished"):
        found.append(f"The run has not finished ({run['status']}): these are the metrics of step {run['step']:,}.")
    if run.get("selected_on") == run["split"] and run.get("asked_for") == "best":
        found.append(f"The checkpoint was selected on the {run['split']} split itself (--checkpoint=best): these "
                     "metrics are too optimistic.")
    elif run.get("selected_on") == run["split"]:
        found.append(f"The {run['split']} split was evaluated during training: if a checkpoint, the length of the run "
                     "or an option was selected on it, these metrics are slightly optimistic.")
    if run["split"] == "train":
        found.append("These are the examples that the model was trained on: metrics on new examples are worse.")
    if run.get("test_time_augmentation", 1) > 1:
        views = f" ({', '.join(run['views'])})" if run.get("views") else ""
        found.append(f"The probabilities are means over {run['test_time_augmentation']} views of each example{views}.")
    return found + list(report.get("notes") or [])
