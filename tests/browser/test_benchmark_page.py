"""The page of a benchmark in a real browser, without network: on a phone, in the dark, and with other assumptions."""
import contextlib

import pytest

from pipeline.benchmark import page, projection
from tests.benchmark import reports
from tests.browser.chromium import WatchedPage

ROWS = "[...document.getElementById('projected').rows].map(row => [...row.cells].map(cell => cell.textContent))"
CHANGED = {"step_ms": 2.5, "reduced_mb": 100, "count": 20, "kilobytes": 2000, "per_machine": 4, "inside_bandwidth": 100,
           "inside_latency": 10, "between_bandwidth": 10, "between_latency": 100, "reached": 50, "most": 48}


@pytest.fixture(scope="module")
def report():
    """A report with a projection."""
    return reports.report(reports.sweep(("float32", "mixed_bfloat16"), (1,), (64, 128), workers=(1, 2)), most=1024)


@pytest.fixture
def opened(browser, report, tmp_path):
    """Function that opens the page, as wide as a phone; nothing has gone wrong in it when the test ends."""
    path, watched = tmp_path / "benchmark.html", []
    path.write_text(page.page(report), encoding="utf-8")
    with contextlib.ExitStack() as stack:
        def open_page(**options):
            context = browser.new_context(viewport={"width": 400, "height": 800}, offline=True, **options)
            watched.append(WatchedPage(stack.enter_context(contextlib.closing(context))))
            watched[-1].page.goto(path.as_uri())
            return watched[-1].page

        yield open_page
        assert [one.problems for one in watched] == [[]] * len(watched)


def number(text):
    """Returns a figure of the page as float, a share where it is in percent."""
    value = float(text.replace(",", "").rstrip("%"))
    return value / 100 if text.endswith("%") else value


def expected(projected):
    """Returns the rows of the table that a projection amounts to."""
    ring, hierarchical = (projected["clusters"][0]["reductions"][name]["points"] for name in ("ring", "hierarchical"))
    return [[one["replicas"], one["machines"], one["gradients_ms"] + one["statistics_ms"], one["efficiency"],
             other["gradients_ms"] + other["statistics_ms"], other["efficiency"], other["examples_per_second"]]
            for one, other in zip(ring, hierarchical, strict=True)]


def compare(shown, projected):
    rows = [[number(text) for text in row] for row in shown.evaluate(ROWS)]
    assert len(rows) == len(expected(projected))
    for row, wanted in zip(rows, expected(projected), strict=True):
        assert row == [pytest.approx(value, rel=0.006, abs=0.0006) for value in wanted]


def test_the_page_computes_what_the_command_has_computed_and_with_other_figures_the_same_model(opened, report):
    shown = opened()
    compare(shown, report["projection"])
    for name, value in CHANGED.items():
        shown.locator(f"[name={name}]").fill(str(value))
    links = (projection.Link("inside", 100.0, 10.0, ""), projection.Link("between", 10.0, 100.0, ""))
    cell = reports.cell(rate=25_600.0, reduced_bytes=100_000_000,
                        statistics_reductions={"count": 20, "bytes": 2_000_000})
    chosen = report["projection"]["batch_a_replica"]
    cell.update(batch_size=chosen, fitted_batch_size=chosen, examples_per_second=1e3 * chosen / 2.5)
    other = projection.project(cell, 48, [projection.Cluster("other", 4, *links)], reached=0.5)
    compare(shown, other)
    first = other["clusters"][0]["reductions"]["ring"]["network_bound_from"]
    assert f"Ring: the network bounds the step from {first} GPUs on" in shown.locator("#bounds").text_content()
    before = shown.evaluate(ROWS)
    shown.locator("[name=reached]").fill("0")
    assert "cannot be" in shown.locator("#bounds").text_content() and shown.evaluate(ROWS) == before
    shown.locator("[name=links]").select_option("1")
    assert shown.locator("[name=between_bandwidth]").input_value() == "12.5"


def test_it_fits_a_phone_is_dark_in_the_dark_and_whole_without_its_script(opened, report):
    shown = opened(color_scheme="dark")
    assert shown.evaluate("document.documentElement.scrollWidth") == 400
    assert shown.evaluate("getComputedStyle(document.querySelector('.fields input')).backgroundColor") == (
        "rgb(29, 35, 42)")
    still = opened(java_script_enabled=False)
    assert not still.locator("#calculator").is_visible()
    assert still.get_by_text("the network bounds the step from").first.is_visible()
    assert still.locator("table").filter(has_text="machines").count() >= 2
