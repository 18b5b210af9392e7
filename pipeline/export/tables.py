"""Tables of an export, a row for each format: on the terminal and in proof.md."""
import sys
from collections.abc import Sequence
from typing import TextIO

from pipeline.console_table import open_console, print_rows
from pipeline.export import latency
from pipeline.export.publish import UNPROVED
from pipeline.quantities import NONE, counted, number
from pipeline.templates import render

# Imports inside functions: rich takes time, and only tables need it.

WIDTH = 200  # Where it is not a terminal.
COLUMNS = ("format", "MB", "largest difference", "equal classes", "accuracy")


def rows(report: dict) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    """Returns (column names, rows of text) of what proof.json holds, a row for each format.

    The first column is the place in the folder of all exports: keras/3, or keras/3.unproved.
    """
    sizes = sorted({int(size) for r in report["forms"].values() for size in r["latency"]})
    columns = (*COLUMNS, *(f"p50 ms of {size}" for size in sizes))
    return columns, [(place(name, report), *_figures(r), *_milliseconds(r, sizes))
                     for name, r in report["forms"].items()]


def place(name: str, report: dict) -> str:
    """Returns the place of a format of a report in the folder of all exports."""
    record = report["forms"][name]
    if record["bytes"] is None:
        return f"{name}: not written"
    return f"{name}/{report['version']}{'' if record['published'] else UNPROVED}"


def print_table(report: dict, file: TextIO | None = None) -> None:
    """Prints the table under the trained model's accuracy, to an open text file; default standard output."""
    import rich.text

    console = open_console(file or sys.stdout, WIDTH)
    examples = counted(report["examples"], f"{report['split']} example")
    console.print(rich.text.Text(f"the trained model classifies {report['live_accuracy']:.2%} of {examples} correctly"),
                  soft_wrap=True)
    columns, lines = rows(report)
    # So that nothing is wrapped in 80 columns.
    heads = [name.replace("difference", "diff.").replace("p50 ms", "p50_ms").replace(" ", "\n").replace("_", " ")
             for name in columns]
    print_rows(console, heads, lines, fold=())


def remark(report: dict) -> str | None:
    """Returns a sentence about the rounding of float32 where it allows a format more than its bound, or None."""
    allowed = [r["proof"]["allowed"] for r in report["forms"].values() if r["proof"]
               and (r["proof"]["allowed"] or 0) > (r["proof"]["bounds"]["probability"] or 0)]
    if not allowed:
        return None
    return (f"rounding to float32 alone moves a probability of the trained model by up to {report['rounding']:.1e}; so "
            f"formats in float32 may differ by {max(allowed):.1e}")


def proof_page(report: dict) -> str:
    """Returns proof.md: proof.json for people."""
    columns, lines = rows(report)
    measured = {latency.LIVE: {"bytes": None, "latency": report["live_latency"]}, **report["forms"]}
    return render(
        __package__, "proof.md", report=report, metadata=report["metadata"], columns=columns, rows=lines,
        remark=remark(report),
        timed=(latency.note(measured), *latency.table(measured)) if report["live_latency"] else ())


def _figures(record: dict) -> tuple[str, ...]:
    proof, count = record["proof"], number((record["bytes"] or 0) / 1e6) if record["bytes"] else NONE
    if not proof:
        return (count, *[NONE] * (len(COLUMNS) - 2))
    difference = "not finite" if proof["difference"] is None else f"{proof['difference']:.1e}"
    return count, difference, f"{proof['equal']:.2%}", f"{proof['accuracy']:.2%}"


def _milliseconds(record: dict, sizes: Sequence[int]) -> list[str]:
    found = record["latency"]
    return [number(found[str(size)]["p50"]) if str(size) in found else NONE for size in sizes]
