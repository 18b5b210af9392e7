"""Figures of predictions: images with bars of their most probable classes, with saliency maps drawn over them."""
import os
from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.figure import Figure
from PIL import Image

from pipeline.data.decode import read_thumbnail
from pipeline.errors import UsageError
from pipeline.evaluation.prediction import Prediction, short_names
from pipeline.evaluation.prediction_tables import keep_end
from pipeline.pages.own_style import own_style
from pipeline.paths import check_drawing
from pipeline.terminal import printable

FORMATS = (".png", ".pdf", ".svg")
MOST_BARS = 5
LONGEST = 400  # Pixels of an image's longer side.
LEAST = 256  # Pixels to which small images are enlarged.
CELL_WIDTH, CELL_HEIGHT, BARS = 1.6, 1.75, 1.9  # Inches: width of an image, height of its row, width of its bars.
BEST, OTHERS, BED, INK = "#8ec1ea", "#d5dbe1", "#f2f4f6", "#1c2833"
HEAT = "inferno"
BRIGHTEST = 99  # Percentile of a saliency map that is drawn as its largest value, as single pixels exceed it by far.
STYLE: Any = {"font.size": 8, "text.color": INK, "svg.fonttype": "none", "text.parse_math": False}


def check_figure(path: str) -> None:
    """Raises UsageError for an unknown kind of file, and for a file that cannot be written."""
    if os.path.splitext(path)[1].lower() not in FORMATS:
        raise UsageError(f"--figure={path} cannot be drawn: give a file that ends in {', '.join(FORMATS)}")
    check_drawing("--figure", path)


def overlay(image: np.ndarray, saliency: np.ndarray) -> np.ndarray:
    """Draws a saliency map [H, W] of any size over an image uint8 [h, w, 3], dimmed to gray; returns the same shape."""
    largest = np.percentile(saliency, BRIGHTEST) or saliency.max() or 1
    map_image = Image.fromarray(np.clip(saliency / largest, 0, 1).astype(np.float32))
    strength = np.asarray(map_image.resize(image.shape[1::-1], Image.Resampling.BILINEAR))[..., None]
    gray = image.mean(axis=-1, keepdims=True) / 255
    heat = colormaps[HEAT](0.25 + 0.75 * strength[..., 0])[..., :3]
    drawn = gray * (1 - strength) * 0.8 + heat * strength
    return np.rint(np.clip(drawn, 0, 1) * 255).astype(np.uint8)


def write_explanation(path: str, file: str, saliency: np.ndarray) -> None:
    """Writes an image and, to its right, its explanation; makes the folder."""
    image = enlarged(read_thumbnail(file, LONGEST))
    between = np.full((len(image), 8, 3), 255, np.uint8)
    os.makedirs(os.path.dirname(path) or ".", exist_ok=True)
    Image.fromarray(np.hstack([image, between, overlay(image, saliency)])).save(path)


def enlarged(image: np.ndarray) -> np.ndarray:
    """Returns an image uint8 [H, W, 3] with every pixel repeated where it is small."""
    times = max(1, -(-LEAST // max(image.shape[:2])))
    return image.repeat(times, axis=0).repeat(times, axis=1)


def draw_figure(path: str, predictions: Sequence[Prediction], step: int) -> None:
    """Draws predictions side by side: the image, its saliency map where there is one, and bars."""
    explained = any(prediction.saliency is not None for prediction in predictions)
    columns = next(c for c in (1, 2, 3, 4) if c == 4 or len(predictions) <= c * c)
    if explained:
        columns = min(columns, 3)
    rows, name_of = -(-len(predictions) // columns), short_names([prediction.file for prediction in predictions])
    widths = [CELL_WIDTH] * (1 + explained) + [BARS]
    size = (columns * sum(widths) + 0.3 * (columns + 1), rows * CELL_HEIGHT + 0.35)
    with own_style(STYLE):
        figure = Figure(figsize=size, facecolor="white")
        for number, prediction in enumerate(predictions):
            row, column = divmod(number, columns)
            left = 0.3 + column * (sum(widths) + 0.3)
            _draw_cell(figure, size, (left, 0.1 + row * CELL_HEIGHT), prediction,
                       keep_end(printable(name_of(prediction.file)), 26 + 18 * explained))
        figure.text(1 - 0.1 / size[0], 0.08 / size[1], f"step {step:,}", ha="right", va="bottom", fontsize=7,
                    color="#697784")
        figure.savefig(path, dpi=150)


def _draw_cell(figure: Figure, size: tuple, corner: tuple, prediction: Prediction, title: str) -> None:
    """Draws one prediction; size: of the figure in inches, corner: inches from its left and its top."""
    def axes(left: float, top: float, width: float, height: float) -> Any:
        made = figure.add_axes((left / size[0], 1 - (top + height) / size[1], width / size[0], height / size[1]))
        made.set_axis_off()
        return made

    left, top = corner
    side = CELL_HEIGHT - 0.35
    image = enlarged(read_thumbnail(prediction.file, LONGEST))
    shown = [image]
    if prediction.saliency is not None:
        shown.append(overlay(image, prediction.saliency))
    for pixels in shown:
        axes(left, top + 0.2, side, side).imshow(pixels)
        figure.axes[-1].set_anchor("NW")
        left += CELL_WIDTH
    figure.text(corner[0] / size[0], 1 - (top + 0.13) / size[1], title, va="baseline")
    _draw_bars(axes(left, top + 0.2, BARS - 0.2, side), prediction.classes[:MOST_BARS])


def _draw_bars(axes: Any, classes: Sequence[tuple[str, float]]) -> None:
    """Draws a bar for each class, of a fixed height, with its name and probability inside."""
    axes.set(xlim=(0, 1), ylim=(max(3, len(classes)) - 0.5, -0.5))
    for place, (name, probability) in enumerate(classes):
        axes.barh(place, 1, height=0.8, color=BED)
        axes.barh(place, probability, height=0.8, color=OTHERS if place else BEST)
        name = printable(name)
        axes.text(0.03, place, name if len(name) <= 17 else name[:16] + "…", va="center",
                  weight="normal" if place else "bold")
        axes.text(0.97, place, f"{probability:.1%}", va="center", ha="right")
