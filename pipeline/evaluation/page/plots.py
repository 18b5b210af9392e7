"""The plots of an evaluation's page: learning curves, ROC and precision-recall curves, reliability diagrams.

The legend is on the page next to the plots, so that names of classes and runs are text. Series differ in color, and in
line style or marker too where they may lie close together.
"""
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.ticker import EngFormatter, FuncFormatter, LogLocator, MaxNLocator, NullLocator, PercentFormatter

from pipeline.pages.plots import INK, MARKERS, SERIES, SOFT, inline_svg

WIDTH, HEIGHT = 4.6, 3.1  # Inches: three fit side by side on a wide screen, one on a phone.
WIDE = 30  # Ratio of largest to smallest loss above which its scale is logarithmic.
FEW = 10  # Examples below which the accuracy of a bin means little.
FAINT = 0.3
DASHES = ("-", (0, (5, 2)), (0, (2, 1.5)), (0, (6, 2, 1.5, 2)))  # templates/marks.html has the same.
ZOOMS = (0.02, 0.05, 0.1, 0.2, 0.3)
NAMES = {"loss": "loss (nats)", "accuracy": "accuracy", "learning_rate": "learning rate"}
TRAIN, EVALUATED = 0, 1  # Series of a single run: of training, and of its first evaluated split.
FAINTEST = {"color": SOFT, "linewidth": 0.7, "alpha": 0.4, "zorder": 1}
STRONGEST = {"color": INK, "linewidth": 2.0, "zorder": 4}


def series_style(place: int, dashed: bool = False) -> dict[str, Any]:
    """Returns the style of a line; dashes distinguish lines that lie close together."""
    return {"color": SERIES[place % len(SERIES)], "linewidth": 1.4, "zorder": 3,
            "linestyle": DASHES[place % len(DASHES)] if dashed else "-"}


def smoothed(numbers: Sequence[float | None], share: float = 0.04) -> tuple[np.ndarray, int]:
    """Returns the running means of numbers or None over a share of them: (float64 [N], values in a mean)."""
    values = np.array(numbers, np.float64)
    reach = max(1, round(share * len(values) / 2))
    known = np.isfinite(values)
    if 2 * reach + 1 > len(values):
        return values, 1
    window = np.ones(2 * reach + 1)
    counts = np.convolve(known, window, "same")
    means = np.convolve(np.where(known, values, 0.0), window, "same") / np.maximum(counts, 1)
    return np.where(counts > 0, means, np.nan), 2 * reach + 1


def learning_curve(runs: Sequence[Mapping], quantity: str, description: str, step: int | None = None) -> str:
    """Draws a quantity over the steps of one run, or of several.

    Args:
      runs: `curves` of each run as report.json has them.
      quantity: "loss", "accuracy" or "learning_rate".
      description: text for screen readers.
      step: the evaluated step, which is marked.

    Returns:
      An <svg> element; "" where no run has such values.
    """
    drawn = [_training(run, quantity) + _evaluations(run, quantity) for run in runs]
    if not any(drawn):
        return ""

    def draw(figure):
        axes = figure.add_subplot()
        for place, (run, lines) in enumerate(zip(runs, drawn, strict=True)):
            _learning_lines(axes, lines, run, quantity, place if len(runs) > 1 else None)
        if step is not None:
            axes.axvline(step, color=SOFT, linewidth=1, linestyle=DASHES[2])
        _learning_axes(axes, [y for lines in drawn for _, _, y in lines], quantity)
    return inline_svg(draw, description, WIDTH, HEIGHT)


def _training(run: Mapping, quantity: str) -> list[tuple]:
    train = run.get("train") or {}
    values = np.array(train.get(quantity) or [], np.float64)
    return [("train", np.array(train["step"], np.float64), values)] if np.isfinite(values).any() else []


def _evaluations(run: Mapping, quantity: str) -> list[tuple]:
    found = []
    for split, columns in (run.get("evaluation") or {}).items():
        values = np.array(columns.get(quantity) or [], np.float64)
        if np.isfinite(values).any():
            found.append((split, np.array(columns["step"], np.float64), values))
    return found


def _learning_lines(axes: Any, lines: Sequence[tuple], run: Mapping, quantity: str, place: int | None) -> None:
    """Draws the lines of a run: of a single one where `place` is None, else of that one of several."""
    splits = list(run.get("evaluation") or {})
    for name, steps, values in lines:
        number = place if place is not None else TRAIN if name == "train" else EVALUATED + splits.index(name)
        color = SERIES[number % len(SERIES)]
        if name != "train":
            axes.plot(steps, values, color=color, linewidth=1.5, marker=MARKERS[number % len(MARKERS)], markersize=4,
                      markevery=max(1, len(steps) // 16), linestyle=DASHES[splits.index(name) % len(DASHES)], zorder=3)
        elif place is None and quantity != "learning_rate":
            axes.plot(steps, values, color=color, linewidth=0.8, alpha=FAINT)
            axes.plot(steps, smoothed(values)[0], color=color, linewidth=1.5)
        else:
            smooth = values if quantity == "learning_rate" else smoothed(values)[0]
            axes.plot(steps, smooth, color=color, linewidth=1.5 if place is None else 1,
                      linestyle="-" if place is None or quantity == "learning_rate" else DASHES[1])


def _learning_axes(axes: Any, values: Sequence[np.ndarray], quantity: str) -> None:
    known = np.concatenate(values)
    known = known[np.isfinite(known)]
    if quantity == "loss" and known.min() > 0 and known.max() > WIDE * known.min():
        axes.set_yscale("log")
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if known.max() < 300 * known.min() else (1,)))
        axes.yaxis.set_minor_locator(NullLocator())
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.10g}"))
    elif quantity == "accuracy":
        axes.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=None))
        low = known.min()
        axes.set_ylim(max(0.0, low - 0.05 * (1 - low)), 1.0 + 0.03 * (1 - low) if low < 1 else 1.02)
    elif quantity == "learning_rate":
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.4g}"))
        axes.set_ylim(0, None)
    axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
    axes.xaxis.set_major_formatter(EngFormatter(sep="") if axes.get_xlim()[1] >= 1e5
                                   else FuncFormatter(lambda value, _: f"{value:,.0f}"))
    scale = ", log scale" if axes.get_yscale() == "log" else ""
    axes.set(xlabel="step", ylabel=NAMES[quantity].replace(")", f"{scale})"))
    axes.grid(True)


def roc(lines: Sequence[tuple[Mapping, Mapping]], description: str) -> str:
    """Draws ROC curves, see `_ranking`, with the corner where good ones bend enlarged in the middle."""
    return _ranking(lines, description, "false positive rate", "true positive rate", "default",
                    (0.4, 0.14, 0.56, 0.56), lambda reach: ((0, reach), (1 - reach, 1)))


def precision_recall(lines: Sequence[tuple[Mapping, Mapping]], description: str) -> str:
    """Draws precision-recall curves, see `_ranking`, with the corner where good ones bend enlarged in the middle."""
    return _ranking(lines, description, "recall", "precision", "steps-pre",
                    (0.12, 0.14, 0.56, 0.56), lambda reach: ((1 - reach, 1), (1 - reach, 1)))


def _ranking(lines: Sequence[tuple[Mapping, Mapping]], description: str, xlabel: str, ylabel: str, steps: str,
             place: tuple, corner: Callable) -> str:
    """Draws curves in the unit square.

    Args:
      lines: [(curve {"x", "y", "area"}, style)]; a style is one of `FAINTEST`, `STRONGEST`, `series_style`.
      description: text for screen readers.
      xlabel, ylabel: of the axes.
      steps: matplotlib's drawstyle.
      place: of the enlarged corner: left, bottom, width, height in shares of the axes.
      corner: function of its reach to ((left, right), (bottom, top)).
    """
    def plot(axes):
        for curve, style in lines:
            x, y = curve["x"], curve["y"]
            if steps == "steps-pre":  # A precision holds for the recalls before it.
                x, y = [0.0, *x], [y[0], *y]
            axes.plot(x, y, drawstyle=steps, clip_on=True, **style)

    def draw(figure):
        axes = figure.add_subplot()
        plot(axes)
        if steps == "default":
            axes.plot([0, 1], [0, 1], color=SOFT, linewidth=0.8, linestyle=DASHES[2])
        axes.set(xlabel=xlabel, ylabel=ylabel, xlim=(-0.015, 1.015), ylim=(-0.015, 1.025))
        axes.grid(True)
        if reach := _bend(lines, rising=steps == "default"):
            (left, right), (bottom, top) = corner(reach)
            inset = axes.inset_axes(place, xlim=(left, right), ylim=(bottom, top + 0.03 * reach))
            plot(inset)
            inset.tick_params(labelsize=7)
            inset.set_xticks([left, right])
            inset.set_yticks([bottom, top])
            inset.patch.set_alpha(0)
            for spine in inset.spines.values():
                spine.set(visible=True, color=SOFT, linewidth=0.6)
            axes.indicate_inset_zoom(inset, edgecolor=SOFT, linewidth=0.6)
    return inline_svg(draw, description, WIDTH, WIDTH * 0.82)


def _bend(lines: Sequence[tuple[Mapping, Mapping]], rising: bool) -> float | None:
    """Returns the side of the smallest corner in which all highlighted lines bend, None where none is small."""
    def fits(curve, reach):
        at = np.interp(reach if rising else 1 - reach, curve["x"], curve["y"])
        return at >= 1 - reach / 2

    bold = [curve for curve, style in lines if style is not FAINTEST]
    return next((reach for reach in ZOOMS if all(fits(curve, reach) for curve in bold)), None)


def reliability(bins: Sequence[Mapping], description: str) -> str:
    """Draws a reliability diagram: accuracy and number of examples by confidence.

    Args:
      bins: [{"low", "high", "count", "confidence", "accuracy"}].
      description: text for screen readers.
    """
    def draw(figure):
        axes, below = figure.subplots(2, 1, sharex=True, height_ratios=(4, 1))
        for one in (one for one in bins if one["count"]):
            width, middle = one["high"] - one["low"], (one["low"] + one["high"]) / 2
            axes.bar(middle, one["accuracy"], 0.9 * width, color=SERIES[0], alpha=1 if one["count"] >= FEW else 0.45)
            axes.plot([middle - 0.45 * width, middle + 0.45 * width], [one["confidence"]] * 2, color=SERIES[1],
                      linewidth=2)
            axes.plot([middle] * 2, [one["accuracy"], one["confidence"]], color=SERIES[1], linewidth=1)
            below.bar(middle, one["count"], 0.9 * width, color=SOFT)
        axes.plot([0, 1], [0, 1], color=SOFT, linewidth=0.8, linestyle=DASHES[2])
        axes.set(ylabel="accuracy", ylim=(0, 1.02), xlim=(0, 1))
        below.set(xlabel="confidence", ylabel="examples")
        below.yaxis.set_major_locator(MaxNLocator(2, integer=True))
        for part in (axes, below):
            part.grid(True)
        figure.align_ylabels()
    return inline_svg(draw, description, WIDTH, WIDTH * 0.82)


def reliabilities(runs: Sequence[Sequence[Mapping]], description: str) -> str:
    """Draws the reliability of several runs as lines.

    Args:
      runs: the bins of each, see `reliability`.
      description: text for screen readers.
    """
    def draw(figure):
        axes = figure.add_subplot()
        axes.plot([0, 1], [0, 1], color=SOFT, linewidth=0.8, linestyle=DASHES[2])
        for place, bins in enumerate(runs):
            known = [one for one in bins if one["count"] >= FEW] or [one for one in bins if one["count"]]
            axes.plot([one["confidence"] for one in known], [one["accuracy"] for one in known], markersize=4,
                      **series_style(place), marker=MARKERS[place % len(MARKERS)])
        axes.set(xlabel="confidence", ylabel="accuracy", xlim=(0, 1.02), ylim=(0, 1.02))
        axes.grid(True)
    return inline_svg(draw, description, WIDTH, WIDTH * 0.82)
