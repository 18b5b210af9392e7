"""TensorBoard in a real browser: what it shows is what metrics.jsonl and result.json say.

In make test tests/monitoring/test_tensorboard_writer.py and tests/launch/test_train.py read what is in its files.
"""
import contextlib
import csv
import json
import re

import numpy as np
import pytest
from playwright.sync_api import expect

from tests.browser import serving
from tests.browser.chromium import WatchedPage
from tests.commands import metrics, result

pytestmark = pytest.mark.acceptance

STEPS, EVERY, TEST_EXAMPLES, CLASSES = 20, 10, 360, 10
COMMON = ("--dataset=digits", f"--steps={STEPS}", f"--evaluate_every={EVERY}", "--schedule=constant", "--augment=flip")
RATES = {"quick": 0.004, "slow": 0.001}
OWN = {"quick": ("--model=three_apis", f"--histograms_every={EVERY}"), "slow": ("--model=mlp",)}
VARIABLES = 10  # Of the model, those that are trained.
LAYERS = {"convolution1", "norm1", "convolution2", "norm2", "classifier"}
SCALARS = ("accuracy", "learning_rate", "loss")
# A card of the time series: its tag, and the rows (run, value, step) of the table under the curves.
TABLES = """() => [...document.querySelectorAll('scalar-card')].map(card => [
    card.querySelector('tb-truncated-path').title,
    [...card.querySelectorAll('tb-data-table-content-row')].map(row => {
      const cells = [...row.querySelectorAll('tb-data-table-content-cell')].map(cell => cell.innerText.trim());
      return [cells[1], cells[3], cells[4]]; })])"""
# A grid's rows: the text of each cell.
GRID = """grid => [...grid.shadowRoot.querySelectorAll('tr')].map(
    row => [...row.querySelectorAll('th, td')].map(cell => {
      const content = cell.querySelector('slot').assignedNodes()[0];
      return content ? content.innerText.trim() : ''; }))"""


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """The folder of two runs that differ in their learning rate and their model."""
    folder = tmp_path_factory.mktemp("shown") / "runs"
    serving.train(folder, {name: (*COMMON, f"--learning_rate={rate}", *OWN[name])
                           for name, rate in RATES.items()})
    return folder


@pytest.fixture(scope="module")
def opened(runs, browser):
    """Returns opened(tab): a context with a page at a tab of TensorBoard in which nothing may go wrong."""
    with serving.tensorboard(f"--logdir={runs}", serving.names_in(runs)) as address, contextlib.closing(
            browser.new_context(viewport={"width": 1600, "height": 1400})) as context:
        @contextlib.contextmanager
        def opened(tab, query="", listen=lambda response: None):
            watched = WatchedPage(context)
            watched.page.on("response", listen)
            watched.page.goto(f"{address}{query}#{tab}")
            yield watched.page
            assert watched.problems == []
            watched.page.close()

        yield opened


def expected_scalars(runs):
    """Returns {(tag, run of TensorBoard): [(step, value)]} by metrics.jsonl."""
    found = {}
    for name in RATES:
        kinds = (("train", metrics(runs / name, "train")), ("validation", metrics(runs / name, "evaluation")))
        for run, records in kinds:
            for tag in SCALARS:
                values = [(record["step"], record[tag]) for record in records if tag in record]
                if values:
                    found[tag, f"{name}/tensorboard/{run}"] = values
        ended = result(runs / name)
        for tag in ("accuracy", "loss"):
            found[tag, f"{name}/tensorboard/test"] = [(ended["step"], ended[f"test_{tag}"])]
    return found


def test_scalars_are_those_of_metrics_jsonl(runs, opened):
    expected, fetched = expected_scalars(runs), {}

    def listen(response):
        if response.url.endswith("/timeSeries"):
            for answer in response.json():
                for run, points in answer["runToSeries"].items():
                    fetched[answer["tag"], run] = [(point["step"], point["value"]) for point in points]

    with opened("timeseries", f"?tagFilter=^({'|'.join(SCALARS)})$", listen) as page:
        rows = len(expected)
        page.wait_for_function(f"() => ({TABLES})().flatMap(card => card[1]).length === {rows}")
        shown = {(tag, run): (int(step), float(value)) for tag, table in page.evaluate(TABLES)
                 for run, value, step in table}
    assert set(shown) == set(fetched) == set(expected)
    for key, points in expected.items():
        assert [step for step, _ in fetched[key]] == [step for step, _ in points]
        np.testing.assert_array_equal(np.float32([value for _, value in fetched[key]]),
                                      np.float32([value for _, value in points]))
        step, value = points[-1]
        assert shown[key][0] == step
        assert shown[key][1] == pytest.approx(value, rel=6e-4, abs=6e-5)  # Shown to four digits.
    assert len(expected["loss", "quick/tensorboard/train"]) == STEPS
    assert len(expected["loss", "quick/tensorboard/validation"]) == STEPS // EVERY


def test_images_of_samples_confusion_and_mistakes_are_shown(opened):
    with opened("images") as page:
        page.get_by_text("worst_mistakes", exact=True).click()  # Only the first groups are open.
        images = page.locator("tf-image-loader img")
        expect(images).to_have_count(3 * len(RATES))
        shown = set()
        for loader in page.locator("tf-image-loader").all():
            width, height = loader.locator("img").evaluate(
                "image => image.decode().then(() => [image.naturalWidth, image.naturalHeight])")
            assert width > 100 and height > 100
            heading = "\n".join(loader.locator(".heading-row").all_inner_texts())
            shown.add((*re.search(r"(\w+)/tensorboard/(\w+)", heading).groups(),
                       re.search(r"tag: (\w+)", heading)[1], int(re.search(r"step (\d+)", heading)[1])))
    assert shown == {(name, *rest) for name in RATES for rest in (
        ("train", "samples", 0), ("validation", "confusion_matrix", STEPS), ("validation", "worst_mistakes", STEPS))}


def test_the_graph_has_the_layers_of_the_model(opened):
    with opened("graphs") as page:
        for name in ("three_apis", "three_apis/network"):
            page.locator(f"g.node[data-name='{name}']").first.dblclick()
        inside = "three_apis/network/"
        page.wait_for_selector(f"g.node[data-name='{inside}classifier']")
        nodes = {node.get_attribute("data-name"): node.text_content()
                 for node in page.locator(f"g.node[data-name^='{inside}']").all()}
    assert {name.removeprefix(inside) for name in nodes} >= LAYERS
    assert all(layer in nodes[inside + layer] for layer in LAYERS)


def test_the_projector_shows_the_test_split_as_the_model_predicted_it(runs, opened):
    fetched = {}

    def listen(response):
        for name in ("tensor", "metadata", "sprite_image"):
            if f"/projector/{name}?" in response.url:
                fetched[name] = response.body()

    with opened("projector", listen=listen) as page:
        frame = page.frame_locator("iframe").frame_locator("iframe")
        frame.locator(".numDataPoints", has_text=str(TEST_EXAMPLES)).wait_for()
        data = frame.locator("vz-projector-data-panel")
        run = next(name for name in RATES if data.evaluate("panel => panel.selectedRun").startswith(name))
        dimensions = int(frame.locator(".dim").inner_text())
        search = frame.locator("vz-projector-inspector-panel")
        # Classes that are called by numbers are what points are labelled and searched by all the same.
        assert data.evaluate("panel => panel.selectedLabelOption") == "label"
        assert search.evaluate("panel => panel.selectedMetadataField") == "label"
        search.evaluate("panel => { panel.selectedMetadataField = 'right'; }")
        search.locator("#search-box input").first.fill("0")
        wrong = int(search.get_by_text(re.compile(r"^\d+ matches\.$")).inner_text().split()[0])
        choices = [text.strip() for text in data.locator("paper-item").all_inner_texts()]
    assert wrong == round((1 - result(runs / run)["test_accuracy"]) * TEST_EXAMPLES)
    assert np.frombuffer(fetched["tensor"], np.float32).size == TEST_EXAMPLES * dimensions
    rows = list(csv.DictReader(fetched["metadata"].decode().splitlines(), delimiter="\t"))
    assert len(rows) == TEST_EXAMPLES and {row["label"] for row in rows} == {str(label) for label in range(CLASSES)}
    assert sum(row["label"] == row["prediction"] for row in rows) == TEST_EXAMPLES - wrong
    assert fetched["sprite_image"].startswith(b"\x89PNG") and {"label", "prediction", "right"} <= set(choices)


def test_hparams_compare_the_runs_by_learning_rate_and_accuracy(runs, opened):
    with opened("hparams") as page:
        grid = page.locator("tf-hparams-table-view vaadin-grid").first
        grid.get_by_text("slow/tensorboard").wait_for()
        head, *rows = grid.evaluate(GRID)
    table = {row[0]: dict(zip(head, row, strict=False)) for row in rows if row[0]}
    assert set(table) == {f"{name}/tensorboard" for name in RATES}
    for name, rate in RATES.items():
        shown = table[f"{name}/tensorboard"]
        assert float(shown["learning_rate"]) == rate
        assert float(shown["test.accuracy"]) == pytest.approx(result(runs / name)["test_accuracy"], rel=1e-4)


def test_the_text_page_is_the_configuration(runs, opened):
    with opened("text") as page:
        changed = page.locator("tf-text-loader tr", has_text=re.compile(r"^\s*learning_rate\s"))
        changed.nth(len(RATES) - 1).wait_for()
        shown = [row.locator("td").all_inner_texts()[1] for row in changed.all()]
        assert {float(value) for value in shown} == set(RATES.values())
        stored = json.loads((runs / "slow" / "config.json").read_text())["config"]
        seen = page.locator("tf-text-loader").first.locator("tr td:first-child").all_inner_texts()
    assert set(stored) <= set(seen)


def test_precision_and_recall_of_every_class_are_drawn(opened):
    fetched = {}

    def listen(response):
        if "/pr_curves/pr_curves?" in response.url:
            for run, curves in response.json().items():
                fetched[run, re.search(r"precision_recall%2F(\d+)%2F", response.url)[1]] = curves[0]

    with opened("pr_curves", listen=listen) as page:
        page.wait_for_function("expected => performance.getEntriesByType('resource').filter(entry => "
                               "entry.name.includes('/pr_curves/pr_curves?')).length >= expected",
                               arg=len(RATES) * CLASSES)
        page.locator("tf-pr-curve-card").nth(CLASSES - 1).locator("path.line").nth(len(RATES) - 1).wait_for(
            state="attached")
    for name in RATES:
        curves = [fetched[f"{name}/tensorboard/test", str(label)] for label in range(CLASSES)]
        assert all(curve["step"] == STEPS for curve in curves)
        # At the lowest threshold everything is taken for the class: its true positives are its examples.
        assert sum(curve["true_positives"][0] + curve["false_negatives"][0] for curve in curves) == TEST_EXAMPLES
        assert all(curve["recall"][0] == 1 for curve in curves)


def test_histograms_of_weights_and_gradients_are_drawn(opened):
    with opened("histograms") as page:
        cards = page.locator("tf-histogram-loader")
        expect(cards.locator("path.outline")).to_have_count(2 * VARIABLES * STEPS // EVERY)  # An outline a step.
        headings = {"".join(card.locator(".heading-row").all_inner_texts()) for card in cards.all()}
        steps = [text for text in cards.first.locator("text").all_text_contents() if text in (str(EVERY), str(STEPS))]
    assert len(headings) == 2 * VARIABLES and all("quick/tensorboard/train" in heading for heading in headings)
    for kind in ("gradients", "weights"):
        assert any(f"tag: {kind}/three_apis/network/classifier/kernel" in heading for heading in headings)
    assert steps == [str(EVERY), str(STEPS)]
