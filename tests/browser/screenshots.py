"""Takes the screenshots in docs/ from real runs.

    python -m tests.browser.screenshots [FOLDER_OF_RUNS [RUN]] [--output=docs]
    python -m tests.browser.screenshots --benchmark

FOLDER_OF_RUNS/RUN is the run that is shown alone and whose report is opened, by default the most accurate one; its
report is written where there is none. Without a folder three runs on digits are trained for it. --benchmark takes the
page of docs/measured/benchmark.json alone, and writes its Markdown in the current wording.
"""
import argparse
import contextlib
import json
import pathlib
import tempfile
from urllib.parse import quote

from PIL import Image

from pipeline.benchmark import page as benchmark_page
from tests.browser import chromium, serving
from tests.commands import REPOSITORY, mirrorline, result

MOST_BYTES = 300_000
WINDOW = {"width": 1400, "height": 900}
PINNED = ("accuracy", "loss", "learning_rate", "optimization/gradient_norm", "optimization/update_ratio",
          "speed/examples_per_second")
RUNS = {"cnn": ("--model=cnn", "--epochs=4"), "mlp": ("--model=mlp", "--epochs=4", "--learning_rate=0.002"),
        "three_apis": ("--model=three_apis", "--epochs=4", "--learning_rate=0.004")}
HIDDEN = ("accumulate_steps", "batch_norm_momentum")  # Hyper-parameters that most runs have in common.
DRAWN = 1500  # ms that animations take.


def save(page, path, **options):
    """Writes a screenshot of a page, with fewer colors if it is too large."""
    page.wait_for_timeout(DRAWN)
    page.screenshot(path=path, **options)
    if path.stat().st_size > MOST_BYTES:
        Image.open(path).convert("RGB").quantize(256, dither=Image.Dither.NONE).save(path, optimize=True)
    print(f"{path}: {path.stat().st_size / 1000:.0f} kB")


@contextlib.contextmanager
def opened(browser, address, **options):
    """Yields a page at an address."""
    with contextlib.closing(browser.new_context(**{"viewport": WINDOW, **options})) as context:
        page = chromium.WatchedPage(context).page
        page.goto(address)
        yield page


def take_of_all(browser, address, output):
    """Takes the screenshots that compare the runs of a folder."""
    pinned = quote(json.dumps([{"plugin": "scalars", "tag": tag} for tag in PINNED], separators=(",", ":")))
    query = f"?pinnedCards={pinned}&runFilter={quote('train|validation')}"
    with opened(browser, f"{address}{query}#timeseries", viewport={"width": 1400, "height": 1080}) as page:
        page.get_by_label("Toggle settings side pane").click()
        page.locator("scalar-card").nth(len(PINNED) - 1).wait_for()
        save(page, output / "tensorboard.png")
    with opened(browser, f"{address}#hparams") as page:
        page.locator("tf-hparams-table-view vaadin-grid").first.get_by_text("/tensorboard").first.wait_for()
        for name in HIDDEN:
            page.locator("tf-hparams-query-pane paper-checkbox", has_text=name).first.click()
        save(page, output / "tensorboard-hparams.png", clip={"x": 0, "y": 0, "width": 1400, "height": 460})


def take_of_one(browser, address, model, output):
    """Takes the screenshots that show one run."""
    with opened(browser, f"{address}#images", viewport={"width": 1400, "height": 2100}) as page:
        page.get_by_text("Show actual image size").click()
        page.get_by_text("worst_mistakes", exact=True).click()
        page.locator("tf-image-loader img").nth(2).wait_for()
        page.locator("tf-image-loader").first.hover()
        page.mouse.wheel(0, -5000)
        page.locator("#data-location").first.evaluate("element => element.remove()")  # A path of this machine.
        save(page, output / "tensorboard-images.png")
    with opened(browser, f"{address}#graphs", viewport={"width": 1400, "height": 1000}) as page:
        expand(page, model)
        page.mouse.click(1300, 950)  # Nothing is chosen then.
        page.get_by_text("Fit to screen").click()
        save(page, output / "tensorboard-graph.png")
    with opened(browser, f"{address}#projector") as page:
        frame = page.frame_locator("iframe").frame_locator("iframe")
        frame.locator(".numDataPoints", has_text="0").wait_for()
        data = frame.locator("vz-projector-data-panel")
        data.locator("paper-item", has_text="colors").first.wait_for(state="attached")  # It knows the classes now.
        data.evaluate("panel => { panel.selectedColorOptionName = 'label'; panel.selectedLabelOption = 'label'; }")
        save(page, output / "tensorboard-projector.png")


def expand(page, scope):
    """Opens a scope in the tab Graphs, and its content as long as that is a single scope."""
    page.locator(f"g.node[data-name='{scope}']").first.dblclick()
    inside = page.locator(f"g.node[data-name^='{scope}/']")
    inside.first.wait_for()
    page.wait_for_timeout(DRAWN)
    names = {name for name in (node.get_attribute("data-name") for node in inside.all()) if "~~" not in name}
    if len(names) == 1:
        expand(page, names.pop())


def take_of_report(browser, report, output):
    """Takes the screenshots of a report: of its beginning, and on a phone."""
    address = report.resolve().as_uri()
    high = {"width": 1200, "height": 1700}
    with opened(browser, address, viewport=high) as page:
        save(page, output / "report.png")
    with opened(browser, address, viewport=high, color_scheme="dark") as page:
        page.locator("#confusion-matrix").scroll_into_view_if_needed()
        page.evaluate("document.querySelector('#classes').scrollIntoView({behavior: 'instant'})")
        save(page, output / "report-dark.png")
    with opened(browser, address, viewport={"width": 400, "height": 1200}, device_scale_factor=2, is_mobile=True,
                has_touch=True) as page:
        save(page, output / "report-phone.png")


def take_of_benchmark(browser, output):
    """Takes the screenshot of the page of the stored benchmark; writes its Markdown again, with the same numbers."""
    measured = REPOSITORY / "docs" / "measured"
    report = json.loads((measured / "benchmark.json").read_text())
    (measured / "benchmark.md").write_text(benchmark_page.markdown(report))
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder) / "benchmark.html"
        path.write_text(benchmark_page.page(report))
        with opened(browser, path.as_uri(), viewport={"width": 1200, "height": 1720}, device_scale_factor=0.75) as page:
            save(page, output / "benchmark.png")


def main():
    """Takes all of them, or that of the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="?", type=pathlib.Path)
    parser.add_argument("run", nargs="?")
    parser.add_argument("--benchmark", action="store_true")
    parser.add_argument("--output", type=pathlib.Path, default=REPOSITORY / "docs")
    given = parser.parse_args()
    if given.benchmark:
        with chromium.launched() as browser:
            return take_of_benchmark(browser, given.output)
    with tempfile.TemporaryDirectory() as temporary, chromium.launched() as browser:
        runs = given.runs.resolve() if given.runs else pathlib.Path(temporary) / "runs"
        if not given.runs:
            serving.train(runs, RUNS)
        name = given.run or max((path.parent.name for path in runs.glob("*/result.json")),
                                key=lambda name: result(runs / name)["test_accuracy"])
        shown = runs / name
        report = shown / "report" / "index.html"
        if not report.exists():
            done = mirrorline("evaluate", f"--workdir={shown.relative_to(runs.parent)}", cwd=runs.parent)
            assert done.returncode == 0, done.stderr
        model = json.loads((shown / "config.json").read_text())["config"]["model"]
        with serving.tensorboard(f"--logdir={runs}", serving.names_in(runs)) as address:
            take_of_all(browser, address, given.output)
        with serving.tensorboard(f"--workdir={shown}", serving.PARTS) as address:
            take_of_one(browser, address, model, given.output)
        take_of_report(browser, report, given.output)


if __name__ == "__main__":
    main()
