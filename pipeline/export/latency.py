"""How long each exported form takes for a batch, how many images a second that is, and how large it is.

Everything here takes `records`: {form name, or "live": {"bytes": size on disk or None, "latency": see `summaries`}}.
"""
import os
import sys

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

from pipeline.console_table import open_console, print_rows
from pipeline.export.run_exported import latencies, repeated
from pipeline.pages.own_style import own_style
from pipeline.quantities import NONE, number, plural

BATCH_SIZES = (1, 8, 64)
PERCENTILES = (50, 90, 99)
LIVE = "live"
SECONDS = 1.0  # To measure a batch size for.
COLUMNS = ("form", "MB", "batch", *(f"p{p} ms" for p in PERCENTILES), "images/s")
COLORS = ("#0072b2", "#c94f00", "#00805c", "#b0579a")  # Of the batch sizes.
INK, SOFT, BED = "#1c2833", "#697784", "#d5dbe1"
STYLE = {"font.size": 9, "text.color": INK, "axes.labelcolor": INK, "xtick.color": INK, "ytick.color": INK,
         "axes.edgecolor": SOFT, "axes.spines.top": False, "axes.spines.right": False, "axes.axisbelow": True,
         "axes.titlesize": 9, "axes.titlelocation": "left", "legend.frameon": False, "text.parse_math": False}
SPREAD = 0.52  # Of a form's row, over which its batch sizes lie.


def summaries(calls):
    """Returns {batch size as text: {"p50", "p90", "p99": milliseconds a call, "images_per_second", "calls"}}.

    Args:
      calls: {batch size: [milliseconds of each call]}, see pipeline.export.run_exported.latencies.
    """
    return {str(size): {**{f"p{p}": float(np.percentile(times, p)) for p in PERCENTILES},
                        "images_per_second": 1000 * size / float(np.mean(times)), "calls": len(times)}
            for size, times in calls.items()}


def live_record(trained, images, batch_sizes=BATCH_SIZES, seconds=SECONDS):
    """Measures the live model in this process, from uint8 images on, in the way the judge measures the forms.

    Args:
      trained: TrainedModel.
      images: uint8 [N, H, W, C], at least one.
      batch_sizes, seconds: of what, and how long to measure each.

    Returns:
      What stands in records under LIVE.
    """
    calls = {size: latencies(trained.probabilities, repeated(images, size), seconds) for size in batch_sizes}
    return {"bytes": None, "latency": summaries(calls)}


def note(records):
    """Returns in words how the records were measured."""
    threads = len(os.sched_getaffinity(0))
    text = (f"Each form is loaded and measured in a process of its own, one after another, on the CPU with {threads} "
            f"{plural(threads, 'thread')}. Milliseconds of a call, from the batch as the form takes it to its "
            "probabilities; images/s over all calls.")
    return text + (f" '{LIVE}' is the model of the run in the process that exports it, from uint8 images on."
                   if LIVE in records else "")


def table(records):
    """Returns (COLUMNS, lines of text), a line a form and batch size; name and size stand in a form's first line."""
    lines = []
    for name, record in records.items():
        first = (name, NONE if record["bytes"] is None else number(record["bytes"] / 1e6))
        for size, times in record["latency"].items():
            figures = (times[f"p{p}"] for p in PERCENTILES)
            lines.append((*first, size, *map(number, figures), number(times["images_per_second"])))
            first = ("", "")
    return COLUMNS, lines


def print_table(records, file=None):
    """Prints the table to an open text file, default standard output."""
    print_rows(open_console(file or sys.stdout), COLUMNS, table(records)[1], fold=())


def draw(records, path, title=""):
    """Draws records: a row a form, a colour a batch size.

    Args:
      records: at least one with a latency.
      path: of the PNG file to write.
      title: of the picture.
    """
    records = {name: record for name, record in records.items() if record["latency"]}
    sizes = sorted({int(size) for record in records.values() for size in record["latency"]})
    with own_style(STYLE):
        figure = Figure(figsize=(10, 1.5 + 0.46 * len(records)), layout="constrained", facecolor="white")
        latency, throughput, disk = panels = figure.subplots(1, 3, sharey=True, width_ratios=(4, 4, 2))
        for row, record in enumerate(records.values()):
            for place, size in enumerate(sizes):
                times, color = record["latency"].get(str(size)), COLORS[place % len(COLORS)]
                if times:
                    height = row + SPREAD * (place / max(1, len(sizes) - 1) - 0.5)
                    _draw_latency(latency, height, times, color)
                    throughput.plot([times["images_per_second"]], [height], "o", color=color, markersize=4.5)
            _draw_size(disk, row, record["bytes"])
        _finish(panels, list(records))
        figure.legend(handles=[latency.plot([], [], "o", color=COLORS[place % len(COLORS)], label=f"batch {size:,}")[0]
                               for place, size in enumerate(sizes)], loc="outside upper right", ncols=len(sizes))
        figure.suptitle(title or " ", x=0.01, ha="left", fontsize=11)
        figure.savefig(path, dpi=150)


def _draw_latency(axes, place, times, color):
    """Draws p50 as a dot, p90 as a tick and p99 as the end of the line."""
    axes.plot([times["p50"], times["p99"]], [place, place], "-", color=color, linewidth=1.2)
    axes.plot([times["p90"]], [place], "|", color=color, markersize=6)
    axes.plot([times["p50"]], [place], "o", color=color, markersize=4.5)


def _draw_size(axes, place, size):
    if size is not None:
        axes.barh(place, size / 1e6, height=0.5, color=BED)
        axes.text(size / 1e6, place, f" {number(size / 1e6)}", va="center", fontsize=8)


def _finish(panels, forms):
    """Gives the axes their scales, labels and grid; the first form is on top."""
    panels[0].set(ylim=(len(forms) - 0.5, -0.5), yticks=range(len(forms)), yticklabels=forms,
                  title="latency: ● p50   | p90   ─ p99", xlabel="ms a call")
    panels[1].set(title="throughput", xlabel="images/s")
    panels[2].set(title="size on disk", xlabel="MB")
    for axes in panels[:2]:
        axes.set_xscale("log")
        low, high = axes.get_xlim()
        axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if high < 100 * low else (1,)))
        axes.xaxis.set_minor_locator(NullLocator())
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.6g}"))
        axes.grid(True, axis="x", color=INK, alpha=0.12)
        for line in range(1, len(forms)):
            axes.axhline(line - 0.5, color=BED, linewidth=0.6)
    panels[2].margins(x=0.3)
    panels[2].set_xlim(left=0)
    for axes in panels:
        axes.tick_params(axis="y", length=0)
        axes.spines["left"].set_visible(False)
