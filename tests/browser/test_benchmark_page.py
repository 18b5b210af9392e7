"""The page of a benchmark in a real browser, without network: on a phone, in the dark, and with its projection."""
import pytest

from pipeline.benchmark import page, tables
from tests.benchmark import reports
from tests.browser.chromium import WatchedPage

ROWS = "table => [...table.tBodies[0].rows].map(row => [...row.cells].map(cell => cell.textContent))"


@pytest.fixture(scope="module")
def report():
    """A report with a projection."""
    return reports.report(reports.sweep(("float32", "mixed_bfloat16"), (1,), (64, 128), workers=(1, 2)), most=1024)


@pytest.mark.acceptance
def test_it_fits_a_phone_is_dark_in_the_dark_and_has_the_table_of_its_projection(browser, report, tmp_path):
    path = tmp_path / "benchmark.html"
    path.write_text(page.page(report), encoding="utf-8")
    context = browser.new_context(viewport={"width": 400, "height": 800}, offline=True, color_scheme="dark")
    watched = WatchedPage(context)
    shown = watched.page
    shown.goto(path.as_uri())
    assert shown.evaluate("document.documentElement.scrollWidth") == 400
    assert shown.evaluate("getComputedStyle(document.querySelector('.card')).backgroundColor") == "rgb(29, 35, 42)"
    assert shown.get_by_text("the network bounds the step from").first.is_visible()
    projected = shown.locator("table").filter(has_text="hierarchical: network ms")
    clusters = report["projection"]["clusters"]
    assert projected.count() == len(clusters)
    for place, cluster in enumerate(clusters):
        rows = projected.nth(place).evaluate(ROWS)
        ring, hierarchical = (cluster["reductions"][name]["points"] for name in ("ring", "hierarchical"))
        assert [row[0] for row in rows] == [f"{point['replicas']:,}" for point in ring]
        assert [row[3] for row in rows] == [f"{point['efficiency']:.1%}" for point in ring]
        assert [row[-1] for row in rows] == [tables.number(point["examples_per_second"]) for point in hierarchical]
    assert watched.problems == []
    context.close()
