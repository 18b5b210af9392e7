"""Latency, throughput and size on disk of each exported format.

`records` here are {format name, or "live" for the trained model: {"bytes": size on disk or None, "latency": see
`summaries`}}.
"""
import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

from pipeline.export.run_exported import latencies, repeated
from pipeline.pages.own_style import own_style
from pipeline.quantities import NONE, number, plural

BATCH_SIZES = (1, 8, 64)
PERCENTILES = (50, 90, 99)
LIVE = "live"
SECONDS = 1.0  # To measure a batch size for.
COLUMNS = ("format", "MB", "batch", *(f"p{p} ms" for p in PERCENTILES), "images/s")
COLORS = ("#0072b2", "#c94f00", "#00805c", "#b0579a")  # One for each batch size.
INK, SOFT, BED = "#1c2833", "#697784", "#d5dbe1"
STYLE: Any = {"font.size": 9, "text.color": INK, "axes.labelcolor": INK, "xtick.color": INK, "ytick.color": INK,
         "axes.edgecolor": SOFT, "axes.spines.top": False, "axes.spines.right": False, "axes.axisbelow": True,
         "axes.titlesize": 9, "axes.titlelocation": "left", "legend.frameon": False, "text.parse_math": False}
SPREAD = 0.52  # Share of a format's row that its batch sizes are spread over.


def summaries(calls: Mapping[int, Sequence[float]]) -> dict[str, dict[str, float]]:
    """Returns {batch size as text: {"p50", "p90", "p99": milliseconds a call, "images_per_second", "calls"}}.

    Args:
      calls: {batch size: [milliseconds of each call]}, see pipeline.export.run_exported.latencies.
    """
    return {str(size): {**{f"p{p}": float(np.percentile(times, p)) for p in PERCENTILES},
                        "images_per_second": 1000 * size / float(np.mean(times)), "calls": len(times)}
            for size, times in calls.items()}


def live_record(trained: Any, images: np.ndarray, batch_sizes: Sequence[int] = BATCH_SIZES,
                seconds: float = SECONDS) -> dict[str, Any]:
    """Measures the trained model in this process, from uint8 images on, as run_exported does; returns its record."""
    calls = {size: latencies(trained.probabilities, repeated(images, size), seconds) for size in batch_sizes}
    return {"bytes": None, "latency": summaries(calls)}


def note(records: Mapping[str, Mapping]) -> str:
    """Returns how the records were measured, in words."""
    threads = len(os.sched_getaffinity(0))
    text = (f"Each format is loaded and measured in a fresh process, one after another, on the CPU with {threads} "
            f"{plural(threads, 'thread')}. Milliseconds of a call, from the batch as the format takes it to its "
            "probabilities; images/s over all calls.")
    return text + (f" '{LIVE}' is the trained model in the process that exports it, from uint8 images on."
                   if LIVE in records else "")


def table(records: Mapping[str, Mapping]) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    """Returns (COLUMNS, rows of text), a row for each format and batch size; the first row of a format names it."""
    lines = []
    for name, record in records.items():
        first = (name, NONE if record["bytes"] is None else number(record["bytes"] / 1e6))
        for size, times in record["latency"].items():
            figures = (times[f"p{p}"] for p in PERCENTILES)
            lines.append((*first, size, *map(number, figures), number(times["images_per_second"])))
            first = ("", "")
    return COLUMNS, lines


def draw(records: Mapping[str, Mapping], path: str, title: str = "") -> None:
    """Draws records: a row for each format, a color for each batch size."""
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


def _draw_latency(axes: Any, place: float, times: Mapping[str, float], color: str) -> None:
    """Draws p50 as a dot, p90 as a tick and p99 as the end of the line."""
    axes.plot([times["p50"], times["p99"]], [place, place], "-", color=color, linewidth=1.2)
    axes.plot([times["p90"]], [place], "|", color=color, markersize=6)
    axes.plot([times["p50"]], [place], "o", color=color, markersize=4.5)


def _draw_size(axes: Any, place: float, size: int | None) -> None:
    if size is not None:
        axes.barh(place, size / 1e6, height=0.5, color=BED)
        axes.text(size / 1e6, place, f" {number(size / 1e6)}", va="center", fontsize=8)


def _finish(panels: Sequence[Any], names: Sequence[str]) -> None:
    """Sets scales, labels and grid of the axes; the first format is on top."""
    panels[0].set(ylim=(len(names) - 0.5, -0.5), yticks=range(len(names)), yticklabels=names,
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
        for line in range(1, len(names)):
            axes.axhline(line - 0.5, color=BED, linewidth=0.6)
    panels[2].margins(x=0.3)
    panels[2].set_xlim(left=0)
    for axes in panels:
        axes.tick_params(axis="y", length=0)
        axes.spines["left"].set_visible(False)
