"""The report of `mirrorline evaluate` in a real browser: without network, light and dark, on a phone, printed."""
import contextlib
import json
import re

import numpy as np
import pytest

from tests.browser import serving
from tests.browser.chromium import WatchedPage
from tests.commands import mirrorline
from tests.selection import quick

pytestmark = pytest.mark.acceptance  # test_report_page opens the page of a report that is written out.

COMMON = ("--dataset=digits", "--model=mlp", "--steps=40", "--tensorboard=scalars")
RATES = {"quick": 0.004, "slow": 0.0005}
BRIGHTNESS = """name => {
    const canvas = document.createElement('canvas').getContext('2d');
    canvas.fillStyle = getComputedStyle(document.body)[name];
    canvas.fillRect(0, 0, 1, 1);
    return [...canvas.getImageData(0, 0, 1, 1).data].slice(0, 3).reduce((sum, value) => sum + value) / 3; }"""


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    """The report's folder, of a run compared with another one."""
    folder = tmp_path_factory.mktemp("reported") / "runs"
    serving.train(folder, {name: (*COMMON, f"--learning_rate={rate}") for name, rate in RATES.items()})
    done = mirrorline("evaluate", f"--workdir={folder / 'quick'}", f"--compare={folder / 'slow'}", cwd=folder)
    assert done.returncode == 0, done.stderr
    return folder / "quick" / "report"


@pytest.fixture
def opened(report, browser):
    """Returns opened(options of the browser's context): the page, in which nothing may go wrong or leave the disk."""
    @contextlib.contextmanager
    def opened(**options):
        with contextlib.closing(browser.new_context(offline=True, **options)) as context:
            watched, asked = WatchedPage(context), []
            watched.page.on("request", lambda request: asked.append(request.url))
            address = (report / "index.html").as_uri()
            watched.page.goto(address)
            yield watched.page
            assert watched.problems == []
            assert [url for url in asked if not url.startswith("data:")] == [address]

    return opened


def test_it_shows_what_report_json_says_without_network(report, opened):
    written = json.loads((report / "report.json").read_text())
    with opened() as page:
        cards = [card.inner_text().split("\n")[:2] for card in page.locator(".card").all()]
        matrix = [row.locator("td").all_inner_texts()[:len(written["classes"])]
                  for row in page.locator("table.matrix tbody tr").all()]
        classes = {row.locator("th").inner_text(): row.locator("td").all_inner_texts()
                   for row in page.locator("#classes table").first.locator("tbody tr").all()}
        images = page.evaluate("() => Promise.all([...document.images].map("
                               "image => image.decode().then(() => image.naturalWidth * image.naturalHeight)))")
        page.locator("summary", has_text="Configuration").click()
        options = {row.locator("th, td").first.inner_text(): row.inner_text()
                   for row in page.locator("#run .options tbody tr").all()}
        text = page.inner_text("body")
    shown = {name.lower(): value for name, value in cards}
    for figure in written["headline"]:
        value = shown[figure["name"].lower()]
        number = float(value.rstrip("%")) / (100 if value.endswith("%") else 1)
        assert number == pytest.approx(figure["value"], abs=6e-5), figure["name"]
    counts = np.array([[int(cell.replace(",", "") or 0) if re.search(r"\d", cell) else 0 for cell in row]
                       for row in matrix])
    np.testing.assert_array_equal(counts, written["confusion"])
    for row in written["per_class"]:
        assert float(classes[row["name"]][1]) == pytest.approx(row["recall"], abs=6e-5)
        assert int(classes[row["name"]][3]) == row["support"]
    named = [*written["mistakes"], *written["unsure_hits"], *written["compared"][0]["differing"]]
    assert len(images) >= len({each["index"] for each in named}) > 24 and min(images) > 0
    assert written["compared"][-1]["verdict"] in text
    assert str(RATES["quick"]) in options["learning_rate"] and set(options) >= set(written["run"]["changed"])


@pytest.mark.parametrize("scheme", quick(["light", "dark"], 1))
def test_it_follows_the_colours_of_the_reader_and_prints_on_white(opened, scheme):
    with opened(color_scheme=scheme) as page:
        paper, ink = (page.evaluate(BRIGHTNESS, name) for name in ("backgroundColor", "color"))
        assert (paper > 230 and ink < 80) if scheme == "light" else (paper < 60 and ink > 180)
        page.emulate_media(media="print", color_scheme=scheme)
        paper, ink = (page.evaluate(BRIGHTNESS, name) for name in ("backgroundColor", "color"))
        assert paper > 250 and ink < 60


def test_on_a_phone_nothing_is_wider_than_the_screen(opened):
    with opened(viewport={"width": 400, "height": 800}, has_touch=True, is_mobile=True) as page:
        assert page.evaluate("document.documentElement.scrollWidth") <= 400
        assert page.evaluate("visualViewport.width") <= 400
        for plot in page.locator("figure svg").all():
            assert plot.bounding_box()["width"] <= 400
