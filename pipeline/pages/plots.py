"""Plots as SVG embedded in a page: text stays text, and colors follow the theme of the page."""
import io
import re
import zlib
from collections.abc import Callable
from typing import Any

from markupsafe import Markup, escape
from matplotlib.figure import Figure

from pipeline.pages.own_style import own_style

INK, SOFT = "#010203", "#010204"  # Become the colors of the page's text.
SERIES = tuple(f"#0102{number:02x}" for number in range(0xA1, 0xA9))  # Become the page's --series-1 to --series-8.
MARKERS, DASHES = "osD^vP*X", ("-", "--", ":", "-.")
WIDTH, HEIGHT = 6.2, 3.6
STYLE: dict[Any, Any] = {"svg.fonttype": "none", "font.size": 9, "axes.spines.top": False, "axes.spines.right": False,
         "axes.edgecolor": INK, "axes.labelcolor": INK, "text.color": INK, "xtick.color": INK, "ytick.color": INK,
         "legend.frameon": False, "legend.fontsize": 8, "grid.color": INK, "grid.alpha": 0.15, "axes.axisbelow": True,
         "hatch.color": INK, "hatch.linewidth": 0.4, "svg.hashsalt": "mirrorline"}
_PAGE_COLORS = {INK: "currentColor", SOFT: "var(--soft)",
                **{color: f"var(--series-{place})" for place, color in enumerate(SERIES, 1)}}


def plot(draw: Callable[[Any], object], title: str, kind: str, height: float = HEIGHT) -> tuple[str, Markup]:
    """Returns (title, <svg> element) of a plot.

    Args:
      draw: called with the axes.
      title: of the plot.
      kind: of plot, for the accessible description.
      height: in inches.
    """
    return title, inline_svg(lambda figure: draw(figure.add_subplot()), f"{kind}: {title}", WIDTH, height)


def inline_svg(draw: Callable[[Figure], object], description: str, width: float = WIDTH, height: float = HEIGHT
               ) -> Markup:
    """Returns an <svg> element for a page that may contain others.

    Args:
      draw: called with a matplotlib Figure; the colors INK, SOFT and SERIES become those of the page.
      description: the accessible description, unique in the page.
      width, height: in inches.
    """
    with own_style(STYLE):
        figure = Figure(figsize=(width, height), layout="constrained")
        draw(figure)
        text = io.StringIO()
        figure.savefig(text, format="svg", transparent=True,
                       metadata=dict.fromkeys(("Date", "Creator", "Format", "Type")))
    return _inline(text.getvalue(), description)


def _inline(text: str, description: str) -> Markup:
    """Returns an SVG file without its prolog and namespaces, and with ids that are unique in the page."""
    text = re.sub(r' xmlns(:\w+)?="[^"]*"', "", text[text.index("<svg"):]).replace("xlink:href", "href")
    text = re.sub(r"<metadata>.*?</metadata>\s*", "", text, flags=re.DOTALL)
    text = re.sub("|".join(_PAGE_COLORS), lambda match: _PAGE_COLORS[match[0]], text)
    text = text.replace("'DejaVu Sans', 'Bitstream Vera Sans'", "'DejaVu Sans', Verdana")
    salt = f"p{zlib.crc32(description.encode()):x}"
    used = set(re.findall(r'(?:url\(|href=")#([\w-]+)', text))
    text = re.sub(r' id="([^"]+)"', lambda match: f' id="{salt}{match[1]}"' if match[1] in used else "", text)
    text = re.sub(r'(url\(|href=")#', rf"\1#{salt}", text)
    return Markup(text.replace("<svg", f'<svg role="img" aria-label="{escape(description)}"', 1))


def finish(axes: Any, grid: str = "both") -> None:
    """Adds the grid, and the legend below the axes."""
    axes.grid(True, axis=grid)
    names = axes.get_legend_handles_labels()[1]
    fitting = max(1, min(len(names), 100 // (max(map(len, names)) + 9)))
    rows = -(-len(names) // fitting)
    axes.figure.legend(loc="outside lower center", ncols=-(-len(names) // rows))
