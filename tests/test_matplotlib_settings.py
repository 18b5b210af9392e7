"""A user's matplotlibrc does not change figures."""
import matplotlib
import numpy as np
import pytest
from cycler import cycler
from matplotlib.figure import Figure

from pipeline.pages.own_style import own_style
from pipeline.pages.plots import inline_svg
from tests.test_structure import SOURCES

USER = {"text.usetex": True, "font.family": "nowhere", "axes.prop_cycle": cycler("color", ["r"]), "savefig.dpi": 3000,
        "image.cmap": "nowhere", "lines.linewidth": 9, "svg.fonttype": "path", "axes.grid": True,
        "savefig.bbox": "tight", "axes.formatter.use_locale": True}


def draw(figure):
    axes = figure.add_subplot()
    axes.plot([1, 2, 3], label="one")
    axes.imshow(np.eye(3))
    axes.set_title("a title")


@pytest.fixture
def drawn():
    return inline_svg(draw, "plot")


def test_same_svg(drawn):
    with matplotlib.rc_context():
        dict.update(matplotlib.rcParams, USER)  # As they are read: without a look at whether they are there.
        assert inline_svg(draw, "plot") == drawn
        assert matplotlib.rcParams["lines.linewidth"] == 9


def test_size_of_a_file(tmp_path):
    with matplotlib.rc_context():
        dict.update(matplotlib.rcParams, USER)
        with own_style():
            figure = Figure(figsize=(2, 1))
            figure.savefig(tmp_path / "a.png")
    assert matplotlib.image.imread(tmp_path / "a.png").shape[:2] == (100, 200)


def test_every_figure_has_its_own_style():
    users = [path for path, text in SOURCES.items() if "Figure(" in text]
    assert len(users) > 3 and [path for path in users if "own_style(" not in SOURCES[path]] == []
    assert [path for path, text in SOURCES.items() if "rc_context(" in text] == ["pipeline/pages/own_style.py"]
