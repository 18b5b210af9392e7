"""An image of a model's graph, drawn with matplotlib."""
import pathlib

from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch
from matplotlib.path import Path

from pipeline.errors import UsageError
from pipeline.models.layout import HEADER, NODE_HEIGHT, NODE_WIDTH, PADDING, place
from pipeline.models.recording import Call, Graph, record_calls
from pipeline.pages.own_style import own_style
from pipeline.paths import check_drawing

FORMATS = (".png", ".pdf", ".svg")
FRAMES = ("#f4f6f8", "#e6ebf0", "#d8e0e8")  # Blocks, outer to inner.
COLORS = (("conv", "#bcd7f0"), ("dense", "#f3c6c0"), ("norm", "#cfe8cf"), ("relu", "#fbe3b5"), ("pool", "#dccdf0"),
          ("add", "#c9ced3"), ("concatenate", "#c9ced3"), ("input", "#ffffff"))
INK, LINE = "#1c2833", "#52606d"


def describe(call: Call) -> str:
    """Returns the text of a node: class of its layer, kernel or pool size, strides."""
    layer, details = call.layer, []
    for name, mark in (("kernel_size", ""), ("pool_size", ""), ("strides", "/")):
        value = getattr(layer, name, None)
        if value is not None and not (name == "strides" and tuple(value) == (1, 1)):
            height, width = value
            details.append(mark + (f"{height}x{width}" if not mark or height != width else str(height)))
    names = {"BatchNormalization": "BatchNorm", "GlobalAveragePooling2D": "GlobalAveragePool",
             "MaxPooling2D": "MaxPool"}
    return " ".join([names.get(call.class_name, call.class_name), *details])


def check_path(path: str | pathlib.Path) -> pathlib.Path:
    """Returns `path` as a pathlib.Path.

    Raises:
      UsageError: a file format that is not supported, or a file that cannot be written.
    """
    path = pathlib.Path(path)
    if path.suffix.lower() not in FORMATS:
        raise UsageError(f"cannot draw '{path}': give a file that ends in {', '.join(FORMATS)}")
    check_drawing("--plot", str(path))
    return path


def draw(graph: Graph, path: str | pathlib.Path) -> None:
    """Writes an image of a graph: a box for each layer with its output shape, a frame for each block, arrows as edges.

    Args:
      graph: from record_calls.
      path: file to write, .png, .pdf or .svg.

    Raises:
      UsageError: see check_path.
    """
    path = check_path(path)
    with own_style():
        _draw(graph, path)


def _draw(graph: Graph, path: pathlib.Path) -> None:
    layout = place(graph)
    figure = Figure(figsize=(layout.width, layout.height), facecolor="white")
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set(xlim=(0, layout.width), ylim=(layout.height, 0))
    axes.set_axis_off()
    kinds = {call.path[layout.prefix:]: call.class_name for call in graph.calls}
    for block, frame in layout.boxes.items():
        _draw_frame(axes, block, kinds[block], frame)
    for line in layout.lines:
        axes.add_patch(FancyArrowPatch(path=Path(line), arrowstyle="-|>,head_length=2.2,head_width=1.4", color=LINE,
                                       linewidth=0.8, joinstyle="round", zorder=2))
    for call, place_of_node in zip(graph.nodes, layout.nodes, strict=True):
        _draw_node(axes, call, place_of_node)
    try:
        figure.savefig(path, dpi=200)
    except OSError as error:
        raise UsageError(f"cannot write '{path}': {error.strerror}") from error


def _draw_frame(axes, block, class_name, frame):
    left, top, right, bottom = frame
    depth = len(block) - 1
    color = FRAMES[min(depth, len(FRAMES) - 1)]
    axes.add_patch(FancyBboxPatch((left, top), right - left, bottom - top, boxstyle="round,pad=0,rounding_size=0.05",
                                  facecolor=color, edgecolor="#9aa5b1", linewidth=0.6, zorder=1))
    titles = [(left + PADDING, "left", block[-1])]
    if depth == 0:
        titles.append((right - PADDING, "right", class_name))
    for x, side, title in titles:  # Left and right: the edge into the block is in the middle.
        axes.text(x, top + HEADER / 2, title, fontsize=6, color=INK, va="center", ha=side, zorder=3,
                  weight="bold" if side == "left" and depth == 0 else "normal")


def _draw_node(axes, call, place_of_node):
    x, y = place_of_node
    kind = call.class_name.lower()
    color = next((c for word, c in COLORS if word in kind), "#eceff1")
    axes.add_patch(FancyBboxPatch((x - NODE_WIDTH / 2, y), NODE_WIDTH, NODE_HEIGHT, zorder=4, facecolor=color,
                                  boxstyle="round,pad=0,rounding_size=0.04", edgecolor=INK, linewidth=0.6))
    shape = "x".join("?" if n is None else str(n) for n in call.output_shape[1:])
    if call.parameters:
        shape += f"   {call.parameters:,} par."
    axes.text(x, y + NODE_HEIGHT * 0.30, describe(call), fontsize=6.5, weight="bold", color=INK, ha="center",
              va="center", zorder=5)
    axes.text(x, y + NODE_HEIGHT * 0.72, shape, fontsize=6, color=INK, ha="center", va="center", zorder=5)


__all__ = ["describe", "draw", "record_calls"]
