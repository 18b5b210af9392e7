"""The page of a report in a real browser, without network: on a phone, in the dark, printed, and with its scripts."""
import pytest

from pipeline.evaluation.page import document
from tests.browser.chromium import WatchedPage
from tests.evaluation import reports
from tests.selection import quick

TEN = (*(f"class {i}" for i in range(8)), "Donaudampfschiffahrtselektrizitaetenhauptbetriebswerk" * 2, '<b>"&')
ROWS = "table => [...table.tBodies[0].rows].map(row => row.cells[%d].textContent)"


@pytest.fixture(scope="module")
def paths(tmp_path_factory):
    """{number of classes: path of a page}."""
    folder, found = tmp_path_factory.mktemp("pages"), {}
    for names, count, compared in ((TEN, 360, 2), (reports.HUNDRED, 1000, 1)):
        report = reports.report(names, count, compared, skill=3)
        found[len(names)] = folder / f"{len(names)}.html"
        document.write_page(report, reports.images(report), found[len(names)])
    return found


@pytest.fixture(scope="module")
def opened(browser, paths):
    """Function from the number of classes to a page as wide as a phone; nothing went wrong when the module ends."""
    context = browser.new_context(viewport={"width": 400, "height": 800}, offline=True)
    watched = {}
    for count, path in paths.items():
        watched[count] = WatchedPage(context)
        watched[count].page.goto(path.as_uri())
    yield lambda count: watched[count].page
    assert [one.problems for one in watched.values()] == [[], []]


@pytest.mark.parametrize("count", quick([10, 100], 1))
def test_on_a_phone_the_page_does_not_scroll_sideways_and_its_tables_do(opened, count):
    shown = opened(count)
    assert shown.evaluate("document.documentElement.scrollWidth") == 400
    wide = shown.evaluate("[...document.querySelectorAll('.scroll')].filter(e => e.scrollWidth > e.clientWidth).length")
    assert wide >= 2
    broken = "[...document.images].filter(image => !image.complete || !image.naturalWidth).length"
    assert shown.evaluate(broken) == 0 and shown.evaluate("document.images.length") >= 48


def test_tables_are_sorted_by_a_click_or_a_key_and_averages_stay(opened):
    shown = opened(10)
    table = shown.locator("table.sortable").first
    before = table.evaluate(ROWS % 0)
    head = table.locator("th [role=button]").nth(3)
    head.click()
    values = [float(text) for text in table.evaluate(ROWS % 3)]
    assert values == sorted(values) and len(values) == 10
    assert table.locator("th[aria-sort=ascending]").count() == 1
    head.press("Enter")
    assert [float(text) for text in table.evaluate(ROWS % 3)] == sorted(values, reverse=True)
    table.locator("th [role=button]").first.click()
    assert sorted(table.evaluate(ROWS % 0)) == sorted(before)
    assert "macro average" in table.locator("tfoot").inner_text()


def test_the_map_says_the_numbers_of_the_square_pointed_at(opened):
    shown = opened(100)
    first = shown.evaluate("5 - document.getElementById('map').viewBox.baseVal.x")  # Not scaled: it is at its smallest.
    shown.locator("#map").hover(position={"x": first, "y": first})
    right = int(shown.locator("details tbody td").first.text_content().split()[0])
    assert shown.locator("#readout").text_content() == f"true wild fox, predicted wild fox: {right} of 10"


def test_in_the_dark_it_is_dark_and_printed_it_is_black_on_white_and_unfolded(opened):
    shown = opened(10)
    style = "getComputedStyle(document.body)"
    shown.emulate_media(color_scheme="dark")
    assert shown.evaluate(f"{style}.backgroundColor") == "rgb(20, 24, 29)"
    shown.emulate_media(media="print", color_scheme="dark")
    assert shown.evaluate(f"[{style}.backgroundColor, {style}.color]") == ["rgb(255, 255, 255)", "rgb(0, 0, 0)"]
    assert not shown.locator("nav").is_visible() and shown.locator("table.options").is_visible()
    shown.emulate_media(media="screen", color_scheme="light")
    assert not shown.locator("table.options").is_visible()
