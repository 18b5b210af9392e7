"""Predictions as pictures: each beside bars of its most probable classes, and where the model looked drawn over it."""
import os

import numpy as np
from matplotlib import colormaps
from matplotlib.figure import Figure
from PIL import Image

from pipeline.data.decode import read_thumbnail
from pipeline.errors import UsageError
from pipeline.evaluation.prediction import short_names
from pipeline.evaluation.prediction_tables import keep_end
from pipeline.pages.own_style import own_style
from pipeline.paths import check_drawing
from pipeline.terminal import printable

FORMATS = (".png", ".pdf", ".svg")
MOST_BARS = 5
LONGEST = 400  # Pixels of a picture's longer side, here.
LEAST = 256  # What small pictures are enlarged to in a file of their own.
CELL_WIDTH, CELL_HEIGHT, BARS = 1.6, 1.75, 1.9  # Inches of a picture, of its row with the title, of its bars.
BEST, OTHERS, BED, INK = "#8ec1ea", "#d5dbe1", "#f2f4f6", "#1c2833"
HEAT = "inferno"
BRIGHTEST = 99  # Percentile of a saliency map that is drawn as its largest value: single pixels stand out too far.
STYLE = {"font.size": 8, "text.color": INK, "svg.fonttype": "none", "text.parse_math": False}


def check_figure(path):
    """Raises UsageError for a kind of file that cannot be drawn, and for a file that cannot be written."""
    if os.path.splitext(path)[1].lower() not in FORMATS:
        raise UsageError(f"--figure={path} cannot be drawn: give a file that ends in {', '.join(FORMATS)}")
    check_drawing("--figure", path)


def overlay(picture, saliency):
    """Draws a saliency map over a picture: the picture in dim grey, glowing where its class depends on it.

    Args:
      picture: uint8 [h, w, 3].
      saliency: float32 [H, W] >= 0, of any size.

    Returns:
      uint8 [h, w, 3].
    """
    largest = np.percentile(saliency, BRIGHTEST) or saliency.max() or 1
    strength = Image.fromarray(np.clip(saliency / largest, 0, 1).astype(np.float32))
    strength = np.asarray(strength.resize(picture.shape[1::-1], Image.Resampling.BILINEAR))[..., None]
    grey = picture.mean(axis=-1, keepdims=True) / 255
    heat = colormaps[HEAT](0.25 + 0.75 * strength[..., 0])[..., :3]
    drawn = grey * (1 - strength) * 0.8 + heat * strength
    return np.rint(np.clip(drawn, 0, 1) * 255).astype(np.uint8)


def write_explanation(path, prediction):
    """Writes a picture and, at its right, the same with its saliency map over it; makes the folder.

    Args:
      path: of the PNG file.
      prediction: Prediction with a saliency map.
    """
    picture = enlarged(read_thumbnail(prediction.file, LONGEST))
    between = np.full((len(picture), 8, 3), 255, np.uint8)
    os.makedirs(os.path.dirname(path) or ".", exist_ok=True)
    Image.fromarray(np.hstack([picture, between, overlay(picture, prediction.saliency)])).save(path)


def enlarged(picture):
    """Returns a picture uint8 [H, W, 3] with every pixel repeated where it is small."""
    times = max(1, -(-LEAST // max(picture.shape[:2])))
    return picture.repeat(times, axis=0).repeat(times, axis=1)


def draw_figure(path, predictions, step):
    """Draws predictions side by side: the picture, its saliency map where there is one, and bars.

    Args:
      path: file to write, see check_figure.
      predictions: at least one Prediction; a few dozen are readable.
      step: of the model, for the title.
    """
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


def _draw_cell(figure, size, corner, prediction, title):
    """Draws one prediction; size: of the figure in inches, corner: inches from its left and its top."""
    def axes(left, top, width, height):
        made = figure.add_axes((left / size[0], 1 - (top + height) / size[1], width / size[0], height / size[1]))
        made.set_axis_off()
        return made

    left, top = corner
    side = CELL_HEIGHT - 0.35
    picture = enlarged(read_thumbnail(prediction.file, LONGEST))
    shown = [picture]
    if prediction.saliency is not None:
        shown.append(overlay(picture, prediction.saliency))
    for pixels in shown:
        axes(left, top + 0.2, side, side).imshow(pixels)
        figure.axes[-1].set_anchor("NW")
        left += CELL_WIDTH
    figure.text(corner[0] / size[0], 1 - (top + 0.13) / size[1], title, va="baseline")
    _draw_bars(axes(left, top + 0.2, BARS - 0.2, side), prediction.classes[:MOST_BARS])


def _draw_bars(axes, classes):
    """Draws a bar a class with its name and probability inside; bars are as high however few there are."""
    axes.set(xlim=(0, 1), ylim=(max(3, len(classes)) - 0.5, -0.5))
    for place, (name, probability) in enumerate(classes):
        axes.barh(place, 1, height=0.8, color=BED)
        axes.barh(place, probability, height=0.8, color=OTHERS if place else BEST)
        name = printable(name)
        axes.text(0.03, place, name if len(name) <= 17 else name[:16] + "…", va="center",
                  weight="normal" if place else "bold")
        axes.text(0.97, place, f"{probability:.1%}", va="center", ha="right")
