"""report/index.html: a report as one page that loads nothing."""
import datetime
import os
import pathlib

from pipeline.evaluation.page import classes, compared, cost, curves, galleries
from pipeline.evaluation.page.findings import findings
from pipeline.evaluation.tables import number, span
from pipeline.files import plain, write_text
from pipeline.pages.markup import box, cards, escape, fill, tag
from pipeline.quantities import counted, plural


def write_page(report, pictures, path):
    """Writes the page of a report; it is whole or not there.

    Args:
      report: what report.json holds, see report.make_report.
      pictures: {index: uint8 [H, W, C]} of the examples that report.named_examples lists; one without a picture is
        shown by its caption alone.
      path: of the file; its directory is made where there is none.
    """
    os.makedirs(os.path.dirname(os.path.abspath(path)), exist_ok=True)
    write_text(path, page(report, pictures))


def page(report, pictures):
    """Returns the text of the page; see `write_page`."""
    report = plain(report)
    run = report["run"]
    sections = [(title, inside) for title, inside in (
        ("Compared", compared.section(report, pictures)),
        ("Learning curves", curves.learning(report)),
        ("Classes", classes.classes(report)),
        ("Confusion matrix", classes.confusion(report)),
        ("ROC and precision-recall curves", curves.ranking(report)),
        ("Calibration", curves.calibration(report)),
        ("Most confident mistakes", galleries.mistakes(report, pictures)),
        ("Least confident hits", galleries.unsure_hits(report, pictures)),
        ("Time and cost", cost.cost(report)),
        ("Run", cost.run(report))) if inside]
    links = "".join(tag("a", escape(title), href=f"#{_anchor(title)}") for title, _ in sections)
    body = [_head(run, report), tag("nav", links, aria_label="Sections"), cards(headline(report)),
            box(findings(report), "What stands out", "box plain"),
            box(remarks(report), "To read the figures rightly"),
            *(tag("section", tag("h2", escape(title)) + inside, id=_anchor(title)) for title, inside in sections)]
    return fill(pathlib.Path(__file__).with_name("page.html"), title=escape(f"{run['model']} on {run['dataset']}"),
                body="\n".join(part for part in body if part), data=classes.map_data(report))


def _anchor(title):
    return title.lower().replace(" ", "-")


def _head(run, report):
    right = next((item["value"] for item in report["headline"] if item["name"] == "accuracy"), None)
    examples = counted(run["examples"], "example")
    hits = f"{round(right * run['examples']):,} of {examples}" if right is not None else examples
    parameters = counted(run["parameters"], "parameter") if run.get("parameters") else None
    created = datetime.datetime.fromisoformat(report["created"])
    where = " · ".join(str(text) for text in (
        run["workdir"], f"step {run['step']:,} ({run['checkpoint']})", f"weights {run['weights']}", parameters,
        f"{created:%Y-%m-%d %H:%M %Z}") if text)
    judged = f" {plural(run['examples'], 'is', 'are')} judged rightly." if right is not None else ""
    what = f"{hits} of the {run['split']} split{judged}"
    return (tag("h1", f"{escape(run['model'])} on {escape(run['dataset'])}") + tag("p", escape(what))
            + tag("p", escape(where), "soft"))


def headline(report):
    """Returns [(name, figure, interval)] for the first screen, text each."""
    return [(item["name"], number(item["name"], item["value"]),
             f"{span(item)} ({item['interval']})" if item["low"] is not None else "no interval")
            for item in report["headline"]]


def remarks(report):
    """Returns what has to be known before a figure is quoted, as sentences."""
    run, found = report["run"], []
    if run.get("status") not in (None, "finished"):
        found.append(f"The run is not finished ({run['status']}): these are the figures of step {run['step']:,}.")
    if run.get("selected_on") == run["split"] and run.get("asked_for") == "best":
        found.append(f"The checkpoint was chosen by the {run['split']} split itself (--checkpoint=best): these figures "
                     "are too good.")
    elif run.get("selected_on") == run["split"]:
        found.append(f"The {run['split']} split was watched during training: where a checkpoint, the length of the run "
                     "or an option was chosen by it, these figures are a little too good.")
    if run["split"] == "train":
        found.append("These are the examples that the model was trained on: figures of new examples are worse.")
    if run.get("test_time_augmentation", 1) > 1:
        views = f" ({', '.join(run['views'])})" if run.get("views") else ""
        found.append(f"The probabilities are means over {run['test_time_augmentation']} views of each example{views}.")
    return found + list(report.get("notes") or [])
