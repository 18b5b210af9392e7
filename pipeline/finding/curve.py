"""The curve of a learning-rate range test, as a table for the terminal and as a figure of matplotlib."""
from collections.abc import Mapping
from typing import Any

from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, NullLocator

from pipeline.errors import UsageError
from pipeline.finding.suggestions import RangeCurve
from pipeline.pages.own_style import own_style

COLUMNS = ("learning rate", "loss", "smoothed", "")
ROWS = 20  # Of the table, besides those that are marked.
SIZE = (6.4, 4.0)  # Inches.
COLORS = {"valley": "#009e73", "steepest": "#d55e00", "lowest": "#cc79a7"}  # Of Okabe and Ito.
LINES = {"valley": "-", "steepest": "--", "lowest": ":"}
INK, LOSS, SMOOTHED = "#1c2833", "#9ecae1", "#0072b2"
STYLE: dict[Any, Any] = {
    "font.size": 9, "svg.fonttype": "none", "axes.spines.top": False, "axes.spines.right": False,
    "axes.edgecolor": INK, "axes.labelcolor": INK, "text.color": INK, "xtick.color": INK, "ytick.color": INK,
    "axes.titlesize": 10, "axes.titlelocation": "left", "legend.frameon": False, "grid.alpha": 0.25,
    "axes.axisbelow": True, "text.parse_math": False}


def rows(curve: RangeCurve, suggested: Mapping[str, int]) -> list[tuple[str, str, str, str]]:
    """Returns the rows of the table, evenly chosen, with those of the suggestions."""
    smoothed = curve.smoothed
    marked: dict[int, list[str]] = {}
    for name, step in suggested.items():
        marked.setdefault(step, []).append(name)
    even = range(0, len(smoothed), max(1, -(-curve.planned // ROWS)))
    last = {len(smoothed) - 1} if len(smoothed) else set()
    return [(f"{curve.rates[step]:.2e}", f"{curve.losses[step]:.4g}", f"{smoothed[step]:.4g}",
             ", ".join(marked.get(step, ()))) for step in sorted({*even, *marked, *last})]


def draw(curve: RangeCurve, suggested: Mapping[str, int], title: str, path: str) -> None:
    """Draws the losses over the learning rate, with the suggestions.

    Args:
      curve: of at least one step.
      suggested: see suggestions.suggest.
      title: of the figure.
      path: file to write, .png, .pdf or .svg.

    Raises:
      UsageError: the file cannot be written.
    """
    smoothed = curve.smoothed
    with own_style(STYLE):
        figure = Figure(figsize=SIZE, facecolor="white", layout="constrained")
        axes = figure.add_subplot()
        axes.plot(curve.rates, curve.losses, color=LOSS, linewidth=1, label="loss of a step")
        axes.plot(curve.rates, smoothed, color=SMOOTHED, linewidth=2, label="smoothed")
        for name, step in suggested.items():
            label = f"{name}: {curve.rates[step]:.1e}"
            axes.axvline(curve.rates[step], color=COLORS[name], linestyle=LINES[name], linewidth=1.2, label=label)
            axes.plot(curve.rates[step], smoothed[step], "o", color=COLORS[name], markersize=6)
        axes.set_xscale("log")
        axes.xaxis.set_minor_locator(NullLocator())
        axes.xaxis.set_major_formatter(FuncFormatter(lambda rate, _: f"{rate:.0e}"))
        low, high = _limits(curve, smoothed)
        axes.set(xlabel="learning rate (log scale)", ylabel="training loss", title=title, ylim=(low, high))
        axes.grid(True)
        figure.legend(loc="outside lower center", ncols=3, fontsize=8)
        try:
            figure.savefig(path, dpi=150)
        except OSError as error:
            raise UsageError(f"cannot write '{path}': {error.strerror}") from error


def _limits(curve, smoothed):
    """Returns the limits of the losses: the divergence at the end would flatten all else."""
    low, high = float(min(curve.losses.min(), smoothed.min())), float(max(smoothed.max(), curve.first))
    room = max(high - low, 1e-3 * abs(high), 1e-12)
    return low - 0.08 * room, high + 0.15 * room
