"""What a person sees of an export: a line a form, on the terminal and in proof.md."""
import sys

from pipeline.console_table import open_console, print_rows
from pipeline.export import latency
from pipeline.export.publish import UNPROVED
from pipeline.quantities import NONE, counted, number
from pipeline.templates import render

WIDTH = 200  # Where it is not a terminal.
COLUMNS = ("form", "MB", "largest difference", "equal classes", "accuracy")


def rows(report):
    """Returns (names of the columns, rows of text) of what proof.json holds, a row a form.

    The first column is where a form lies in the folder of the export: keras/3, or keras/3.unproved.
    """
    sizes = sorted({int(size) for r in report["forms"].values() for size in r["latency"]})
    columns = (*COLUMNS, *(f"p50 ms of {size}" for size in sizes))
    return columns, [(place(name, report), *_figures(r), *_milliseconds(r, sizes))
                     for name, r in report["forms"].items()]


def place(name, report):
    """Returns where a form of a report lies in the folder of the export."""
    record = report["forms"][name]
    if record["bytes"] is None:
        return f"{name}: not written"
    return f"{name}/{report['version']}{'' if record['published'] else UNPROVED}"


def print_table(report, file=None):
    """Prints the table, and the live model's accuracy over it, to an open text file, default standard output."""
    import rich.text

    console = open_console(file or sys.stdout, WIDTH)
    examples = counted(report["examples"], f"{report['split']} example")
    console.print(rich.text.Text(f"the live model classifies {report['live_accuracy']:.2%} of {examples} correctly"),
                  soft_wrap=True)
    columns, lines = rows(report)
    # Nothing is wrapped in 80 columns.
    heads = [name.replace("difference", "diff.").replace("p50 ms", "p50_ms").replace(" ", "\n").replace("_", " ")
             for name in columns]
    print_rows(console, heads, lines, fold=())


def remark(report):
    """Returns a sentence about the rounding of float32 where it allows a form more than its bound, or None."""
    allowed = [r["proof"]["allowed"] for r in report["forms"].values() if r["proof"]
               and (r["proof"]["allowed"] or 0) > (r["proof"]["bounds"]["probability"] or 0)]
    if not allowed:
        return None
    return (f"the live model itself differs by up to {report['rounding']:.1e} between an image alone and in a batch, "
            f"by the rounding of float32; so forms in float32 may differ by {max(allowed):.1e}")


def proof_page(report):
    """Returns proof.md: what proof.json says, for reading."""
    columns, lines = rows(report)
    measured = {latency.LIVE: {"bytes": None, "latency": report["live_latency"]}, **report["forms"]}
    return render(
        __package__, "proof.md", report=report, metadata=report["metadata"], columns=columns, rows=lines,
        remark=remark(report),
        timed=(latency.note(measured), *latency.table(measured)) if report["live_latency"] else ())


def _figures(record):
    proof, count = record["proof"], number((record["bytes"] or 0) / 1e6) if record["bytes"] else NONE
    if not proof:
        return (count, *[NONE] * (len(COLUMNS) - 2))
    difference = "no number" if proof["difference"] is None else f"{proof['difference']:.1e}"
    return count, difference, f"{proof['equal']:.2%}", f"{proof['accuracy']:.2%}"


def _milliseconds(record, sizes):
    found = record["latency"]
    return [number(found[str(size)]["p50"]) if str(size) in found else NONE for size in sizes]
