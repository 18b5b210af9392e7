"""A report on the terminal."""
import sys
from typing import Any, TextIO

from pipeline.console_table import open_console, print_rows
from pipeline.terminal import printable

MOST_CLASSES = 20
MOST_PAIRS = 5
WIDTH = 160  # Columns where it is no terminal.
PERCENT = {"accuracy", "top-5 accuracy"}


def print_report(report: dict, file: TextIO | None = None) -> None:
    """Prints the headline, the classes where they are few, the most confused pairs, and the compared runs."""
    console = open_console(file or sys.stdout, WIDTH)
    print_rows(console, ("metric", "value", "95% interval", "by"), [
        (item["name"], number(item["name"], item["value"]), span(item), item["interval"].removeprefix("95%, "))
        for item in report["headline"]], left=(0, 3))
    if len(report["classes"]) <= MOST_CLASSES:
        print_rows(console, ("class", "precision", "recall", "F1", "support", "ROC AUC"), _classes(report))
    pairs = [f"true {p['true']}, predicted {p['predicted']}: {p['count']:,} ({p['share']:.1%} of {p['true']})"
             for p in report["confused_pairs"][:MOST_PAIRS]]
    for i, line in enumerate(pairs):
        _print(console, f"{'confused' if i == 0 else '':10s}{line}")
    _print(console, f"calibrated {calibrated(report['calibration'])}")
    if report["compared"]:
        adjusted = " (Holm)" if len(report["compared"]) > 1 else ""
        print_rows(console, ("run", "accuracy", "loss", "macro F1", "only it correct", "only the first correct",
                         f"McNemar p{adjusted}", "verdict"), _compared(report), left=(0, 7))
    for note in report["notes"]:
        _print(console, f"note      {note}")


def number(name: str, value: float | None) -> str:
    """Returns a metric as text: accuracies in percent; "–" where there is none."""
    if value is None or value != value:
        return "–"
    return f"{value:.2%}" if name in PERCENT else f"{value:.4f}"


def p_value(value: float) -> str:
    """Returns a p-value as text."""
    return f"{value:.3f}" if value >= 0.001 else "< 0.001"


def span(item: dict) -> str:
    """Returns the interval of an item of the headline as text."""
    if item["low"] is None:
        return "–"
    return f"{number(item['name'], item['low'])} to {number(item['name'], item['high'])}"


def calibrated(calibration: dict) -> str:
    """Returns a line about temperature scaling."""
    before, after = calibration["before"], calibration["after"]
    if after is None:
        return f"error {before['ece']:.4f}; no temperature fitted on {calibration['fitted_on']}"
    temperature = after["temperature"]
    shown = " and ".join(f"{t:.3f}" for t in (temperature if isinstance(temperature, list) else [temperature]))
    return (f"error {before['ece']:.4f}, with temperature {shown} {after['ece']:.4f}; fitted on "
            f"{calibration['fitted_on']}")


def _classes(report: dict) -> list[tuple]:
    averages = [{"name": f"{kind} average", **report["averages"][kind]} for kind in ("macro", "weighted")]
    return [(c["name"], *(number(key, c[key]) for key in ("precision", "recall", "f1")), f"{c['support']:,}",
             number("roc_auc", c["roc_auc"])) for c in (*report["per_class"], *averages)]


def _compared(report: dict) -> list[tuple]:
    figures = {item["name"]: item["value"] for item in report["headline"]}
    first = (report["run"]["workdir"], number("accuracy", figures["accuracy"]), number("loss", figures["loss"]),
             number("macro F1", figures["macro F1"]), "", "", "", "the first")
    return [first, *((other["name"], number("accuracy", other["accuracy"]), number("loss", other["loss"]),
                      number("macro F1", other["macro_f1"]), f"{other['only_this_right']:,}",
                      f"{other['only_the_first_right']:,}", p_value(other["mcnemar_p_adjusted"]), other["verdict"])
                     for other in report["compared"])]


def _print(console: Any, text: str) -> None:
    console.print(printable(text), highlight=False, markup=False, soft_wrap=not console.is_terminal)
