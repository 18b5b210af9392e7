"""The plots of a benchmark as SVG elements of a page, see pipeline.pages.plots.

Series differ in color, from the color-blind safe palette of Okabe and Ito ("Color Universal Design", 2008), and in
marker, line style or hatching.
"""
from collections.abc import Mapping, Sequence
from typing import Any

from markupsafe import Markup
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator

from pipeline.benchmark.derived import batch_of, is_halved, is_measured
from pipeline.benchmark.grid import replicas_words
from pipeline.benchmark.tables import label, number, replicas_text, times
from pipeline.pages.plots import DASHES, HEIGHT, INK, MARKERS, finish, plot

Cells = Sequence[Mapping[str, Any]]
Plot = tuple[str, Markup]  # Title and <svg> element.
COLORS = {"float32": "#0072b2", "mixed_bfloat16": "#d55e00", "mixed_float16": "#009e73", "float64": "#cc79a7"}
OTHERS = ("#56b4e9", "#e69f00", "#0072b2", "#d55e00", "#009e73", "#cc79a7")
PARTS = {"forward": "#0072b2", "backward": "#56b4e9", "reduction": "#d55e00", "update": "#e69f00",
         "input wait": "#cc79a7", "rest": "#999999"}
ROW = 0.27  # Inches.
WIDE = 15  # Ratio of the fastest to the slowest from which on the scale is logarithmic.
MOST_ROWS = 30  # Of one plot with a row for each cell.


def groups(cells: Cells, *names: str) -> dict[tuple, list[Mapping[str, Any]]]:
    """Returns {values of the named parts of the key: cells}, in order."""
    found: dict[tuple, list[Mapping[str, Any]]] = {}
    for cell in cells:
        found.setdefault(tuple(cell[name] for name in names), []).append(cell)
    return found


def color_of(precision: str, fallback: int = 0) -> str:
    """Returns the color of a precision, the same in all plots."""
    return COLORS.get(precision, OTHERS[fallback % len(OTHERS)])


def throughput(cells: Cells, title: str) -> Plot:
    """Plots examples/s over the batch size, a line for each precision and number of replicas, with error bars."""
    def draw(axes):
        counts = sorted({(cell["workers"], cell["replicas"]) for cell in cells})
        precisions = list(dict.fromkeys(cell["precision"] for cell in cells))
        for (precision, *count), line in groups(cells, "precision", "workers", "replicas").items():
            # A batch that was halved may have the size of another one.
            points = {batch_of(c): c for c in sorted(line, key=is_halved, reverse=True)}
            line = [points[size] for size in sorted(points)]
            rates = [cell["examples_per_second"] for cell in line]
            bounds = [cell.get("spread") or [rate, rate] for cell, rate in zip(line, rates, strict=True)]
            errors = [[max(0, r - b[0]) for r, b in zip(rates, bounds, strict=True)],
                      [max(0, b[1] - r) for r, b in zip(rates, bounds, strict=True)]]
            place = counts.index(tuple(count))
            axes.errorbar(list(map(batch_of, line)), rates, yerr=errors, capsize=2.5, markersize=4.5, linewidth=1.4,
                          color=color_of(precision, precisions.index(precision)), marker=MARKERS[place % len(MARKERS)],
                          linestyle=DASHES[place % len(DASHES)], label=f"{precision}, {replicas_text(line[0])}")
        axes.set_xscale("log", base=2)
        sizes = sorted({batch_of(cell) for cell in cells})
        axes.set_xticks(sizes, [f"{size:,}" for size in sizes], rotation=45 if len(sizes) > 7 else 0)
        axes.xaxis.set_minor_locator(NullLocator())
        rates = [cell["examples_per_second"] for cell in cells]
        if max(rates) > WIDE * min(rates):
            axes.set_yscale("log")
            axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
            axes.yaxis.set_minor_locator(NullLocator())
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.10g}"))
        axes.set(xlabel="batch size (examples, log scale)",
                 ylabel=f"examples/s{' (log scale)' * (axes.get_yscale() == 'log')}")
        if axes.get_yscale() == "linear":
            axes.set_ylim(0, None)
        finish(axes)
    return plot(draw, title, "Throughput against batch size")


def speedup(cells: Cells, names: Sequence[str], title: str) -> Plot:
    """Plots bars of the speed-up over float32, emulated precisions hatched."""
    def draw(axes):
        shown = cells[::-1]
        top = max(1.0, *(cell["speedup_over_float32"] for cell in shown))
        used = set()
        for row, cell in enumerate(shown):
            ratio, precision = cell["speedup_over_float32"], cell["precision"]
            name = f"{precision}{', emulated' * bool(cell.get('emulated'))}"
            axes.barh(row, ratio, height=0.7, color=color_of(precision), hatch="///" if cell.get("emulated") else None,
                      label=name if name not in used else None)
            used.add(name)
            axes.text(ratio + 0.01 * top, row, times(ratio), va="center", fontsize=8)
        axes.axvline(1, color=INK, linewidth=1.2, linestyle="--", label="float32 (1x)")
        axes.set_yticks(range(len(shown)), [label(cell, names) for cell in shown])
        axes.set(xlabel="examples/s over those of float32 (x)", xlim=(0, 1.12 * top), ylim=(-0.6, len(shown) - 0.4))
        finish(axes, "x")
    return plot(draw, title, "Speed-up over float32", rows_height(len(cells)))


def scaling(cells: Cells, title: str, over: str = "replicas") -> Plot:
    """Plots the speed-up over one replica or worker against their number, with the ideal.

    Weak and strong scaling are those of the batch for which most numbers were measured; of several, the largest.

    Args:
      cells: of one model, image size and XLA mode.
      over: "replicas" of one worker, or "workers", each with the same number of replicas.
    """
    one = over.removesuffix("s")

    def draw(axes):
        shared = all(cell.get("ideal_speedup") == 1 for cell in cells)
        counts = sorted({1, *(cell[over] for cell in cells if over == "workers" or cell["workers"] == 1)})
        ideal = f"ideal: 1x, the {over} share the same cores" if shared else "ideal"
        axes.plot(counts, [1 if shared else n for n in counts], color=INK, linewidth=1, linestyle="--", label=ideal)
        for place, (key, line) in enumerate(scaling_lines(cells, over).items()):
            for kind, dashes, marker in (("weak", "-", "o"), ("strong", ":", "s")):
                base, points = best_line(line, kind, over)
                if points:
                    axes.plot(*zip(*sorted({1: 1.0, **points}.items()), strict=True), linestyle=dashes, marker=marker,
                              markersize=4.5, linewidth=1.4, color=color_of(key[0], place),
                              label=f"{', '.join(key)}, {kind}: batch {base:,}{f' a {one}' * (kind == 'weak')}")
        axes.set_xticks(counts)
        axes.set(xlabel=over, ylabel=f"examples/s over one {one} (x)", ylim=(0, 1.1 * axes.dataLim.y1))
        finish(axes)
    return plot(draw, title, f"Scaling over {over}")


def scaling_lines(cells: Cells, over: str) -> dict[tuple, list[Mapping[str, Any]]]:
    """Returns {parts of the label of a line in the scaling plot: its cells}."""
    if over == "replicas":
        return groups(cells, "precision")
    several = len({cell["replicas"] for cell in cells if cell["workers"] > 1}) > 1
    return {(precision, *([replicas_words(1, replicas) + " each"] if several else [])): line
            for (precision, replicas), line in groups(cells, "precision", "replicas").items()
            if any(cell["workers"] > 1 for cell in line)}


def best_line(cells: Cells, kind: str, over: str = "replicas") -> tuple[int | None, dict[int, float]]:
    """Returns (batch, {number of `over`: speed over one}) of the batch with the most points of "weak" or "strong"."""
    lines: dict[int, dict[int, float]] = {}
    for cell in cells:
        efficiency = cell.get(f"{kind}_scaling_efficiency")
        if efficiency is not None and (cell["workers"] > 1) == (over == "workers"):
            base = batch_of(cell) // cell[over] if kind == "weak" else batch_of(cell)
            lines.setdefault(base, {})[cell[over]] = efficiency * (cell.get("ideal_speedup") or cell[over])
    base = max(lines, key=lambda size: (len(lines[size]), size), default=None)
    return base, {} if base is None else lines[base]


def step_parts(cell: Mapping[str, Any]) -> dict[str, float]:
    """Returns {part: ms} of a step on real data, which add up to its time; {} where they were not measured."""
    split = cell.get("split_ms") or {}
    known = {name: split[name] for name in list(PARTS)[:4] if split.get(name) is not None}
    if not known or not is_measured(cell):
        return {}
    whole = max(1e3 * batch_of(cell) / cell["examples_per_second"], sum(known.values()))
    wait = min((cell.get("input_wait_share") or 0.0) * whole, whole - sum(known.values()))
    return {**known, "input wait": wait, "rest": max(0.0, whole - sum(known.values()) - wait)}


def breakdown(cells: Cells, names: Sequence[str], title: str) -> Plot:
    """Plots for each cell a stacked bar of the parts of a step in percent, with its time."""
    def draw(axes):
        shown = [(cell, step_parts(cell)) for cell in cells[::-1]]
        for part, color in PARTS.items():
            shares = [100 * parts.get(part, 0.0) / sum(parts.values()) for _, parts in shown]
            before = [100 * sum(parts.get(p, 0.0) for p in list(PARTS)[:list(PARTS).index(part)]) / sum(parts.values())
                      for _, parts in shown]
            axes.barh(range(len(shown)), shares, left=before, height=0.72, color=color, label=part)
        for row, (_, parts) in enumerate(shown):
            axes.text(101, row, f"{number(sum(parts.values()))} ms", va="center", fontsize=8)
        axes.set_yticks(range(len(shown)), [label(cell, names) for cell, _ in shown])
        axes.set(xlabel="share of a step (%), its median time at the end", xlim=(0, 114),
                 xticks=range(0, 101, 20), ylim=(-0.6, len(shown) - 0.4))
        finish(axes, "x")
    return plot(draw, title, "Step time breakdown", rows_height(len(cells)))


def memory(cells: Cells, names: Sequence[str], title: str) -> Plot:
    """Plots bars of the peak memory of host and device, a row for each cell."""
    def draw(axes):
        shown = cells[::-1]
        kinds = [k for k in ("host", "device") if any((c.get("peak_memory_mib") or {}).get(k) for c in shown)]
        top = max(c["peak_memory_mib"].get(k) or 0 for c in shown for k in kinds)
        thick = 0.76 / len(kinds)
        for place, kind in enumerate(kinds):
            values = [cell["peak_memory_mib"].get(kind) or 0 for cell in shown]
            rows = [row + 0.38 - thick * (place + 0.5) for row in range(len(shown))]
            axes.barh(rows, values, height=thick, color=OTHERS[place], label=kind)
            for row, value in zip(rows, values, strict=True):
                axes.text(value + 0.01 * top, row, f"{value:,.0f}" if value else "", va="center",
                          fontsize=8 if len(kinds) == 1 else 6.5)
        axes.set_yticks(range(len(shown)), [label(cell, names) for cell in shown])
        axes.xaxis.set_major_locator(MaxNLocator(6))
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
        axes.set(xlabel="peak memory (MiB)", xlim=(0, 1.14 * top), ylim=(-0.6, len(shown) - 0.4))
        finish(axes, "x")
    return plot(draw, title, "Peak memory", rows_height(len(cells)))


def projection(projected: Mapping[str, Any]) -> Plot:
    """Plots the projected efficiency of weak scaling, a color for each cluster, a line for each reduction."""
    def draw(axes):
        for place, cluster in enumerate(projected["clusters"]):
            for name, found in cluster["reductions"].items():
                axes.plot([point["replicas"] for point in found["points"]],
                          [100 * point["efficiency"] for point in found["points"]], marker=MARKERS[place], markersize=4,
                          **_line_of(cluster, place, name))
        axes.axhline(50, color=INK, linewidth=1, linestyle=":", label="below: the network bounds the step")
        axes.set_xscale("log", base=2)
        counts = [point["replicas"] for point in projected["clusters"][0]["reductions"]["ring"]["points"]]
        axes.set_xticks(counts, [f"{count:,}" for count in counts])
        axes.xaxis.set_minor_locator(NullLocator())
        axes.set(xlabel="GPUs (log scale)", ylabel="projected efficiency (%)", ylim=(0, 108))
        finish(axes)
    return plot(draw, "Efficiency by the number of GPUs (a projection, not a measurement)", "Lines", HEIGHT + 0.6)


def projection_by_step(projected: Mapping[str, Any]) -> Plot:
    """Plots the projected efficiency at the most GPUs over the time to compute a step."""
    def draw(axes):
        steps = [10 ** (power / 10) for power in range(-10, 41)]
        for place, cluster in enumerate(projected["clusters"]):
            for name, found in cluster["reductions"].items():
                lost = found["points"][-1]["gradients_ms"] + found["points"][-1]["statistics_ms"]
                axes.plot(steps, [100 * step / (step + lost) for step in steps], **_line_of(cluster, place, name))
        axes.axvline(projected["step_ms"], color=INK, linewidth=1, linestyle="-.",
                     label=f"this step: {number(projected['step_ms'])} ms")
        axes.set_xscale("log")
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.10g}"))
        axes.set(xlabel="time of computing a step (ms, log scale)", ylabel="projected efficiency (%)", ylim=(0, 108))
        finish(axes)
    title = f"Efficiency at {projected['most']:,} GPUs by the time of computing a step (a projection)"
    return plot(draw, title, "Curve", HEIGHT + 0.6)


def _line_of(cluster, place, reduction):
    """Returns the style of a line: color of the cluster, dashes of the reduction."""
    return {"color": OTHERS[(2, 3, 4, 5, 0, 1)[place % 6]], "linestyle": "--" if reduction == "ring" else "-",
            "linewidth": 1.4, "label": f"{cluster['name']}: {reduction}"}


def rows_height(rows: int) -> float:
    """Returns the height in inches of a plot with so many rows."""
    return 1.35 + ROW * max(rows, 2)
