"""The page of a report: whole, alone, and with every figure of the report, whatever its classes are called."""
import base64
import copy
import io
import json
import os
import re

import numpy as np
import pytest
from markupsafe import Markup, escape
from PIL import Image

from pipeline.evaluation.page import cost, document, plots
from pipeline.evaluation.page.findings import findings
from pipeline.evaluation.tables import number, span
from tests.evaluation import reports
from tests.pages import Reader
from tests.selection import quick

COLOR = re.compile(r"--([\w-]+):\s*(#[0-9a-f]{3,6})")
# Text on what is behind it; a word of a name stands for every colour that begins with it.
TEXT = {"paper": ("ink", "soft", "bad", "good", "link"), "panel": ("ink", "soft", "bad", "good"),
        "note-panel": ("ink",), "bad-panel": ("ink",), "hit": ("ink",), "miss": ("ink",), "bar": ("ink",)}
LINES = [f"series-{i}" for i in range(1, 9)] + ["hit-strong", "miss-strong"]


@pytest.fixture(scope="module")
def ten():
    return reports.report(compared=2)


@pytest.fixture(scope="module")
def hundred():
    return reports.report(reports.HUNDRED, 2000, skill=4)


@pytest.fixture
def without_plots(monkeypatch):
    """Pages whose plots are empty: drawing them takes most of the time of a page."""
    monkeypatch.setattr(plots, "inline_svg", lambda draw, description, *size: Markup(
        f'<svg role="img" aria-label="{escape(description)}"></svg>'))


def read(report, images=None):
    """Returns the Reader of the page, after the checks that hold for every page."""
    return check(document.page(report, images or {}))


def check(text):
    """Returns the Reader of a page that has headings in order, describes its images, and loads nothing."""
    reader = Reader(text)
    assert reader.loaded == [] and "://" not in text and "default-src 'none'" in text
    assert reader.headings[0] == 1 and reader.headings.count(1) == 1
    assert all(after <= before + 1 for before, after in zip(reader.headings, reader.headings[1:], strict=False))
    assert all(reader.plot_labels) and len(set(reader.plot_labels)) == len(reader.plot_labels)
    assert all(image["alt"] and image["src"].startswith("data:image/") for image in reader.images)
    assert "None" not in reader.text and "nan" not in reader.text.split()
    return reader


def ratio(one, another):
    """Returns the contrast of two colours (Web Content Accessibility Guidelines 2.2)."""
    def light(color):
        digits = color[1:] if len(color) == 7 else "".join(2 * digit for digit in color[1:])
        parts = [int(digits[i:i + 2], 16) / 255 for i in (0, 2, 4)]
        parts = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055)**2.4 for part in parts]
        return 0.2126 * parts[0] + 0.7152 * parts[1] + 0.0722 * parts[2]

    dark, bright = sorted((light(one), light(another)))
    return (bright + 0.05) / (dark + 0.05)


def test_the_page_has_every_metric(ten, tmp_path):
    path = tmp_path / "report" / "index.html"
    document.write_page(ten, reports.images(ten), path)
    assert os.listdir(path.parent) == ["index.html"]
    reader = check(path.read_text(encoding="utf-8"))
    for item in ten["headline"]:
        assert f"{number(item['name'], item['value'])} {span(item)} ({item['interval']})" in reader.text
    shown = [number(key, one[key]) for one in (*ten["per_class"], *ten["averages"].values())
             for key in ("precision", "recall", "f1", "roc_auc", "average_precision")]
    shown += [str(count) for row in ten["confusion"] for count in row if count]
    shown += [f"{pair['share']:.1%}" for pair in ten["confused_pairs"]]
    before, after = ten["calibration"]["before"], ten["calibration"]["after"]
    shown += [number(key, part[key]) for part in (before, after) for key in ("ece", "nll", "brier")]
    shown += [number("", ten[kind]["macro"]["area"]) for kind in ("roc", "pr")]
    assert set(shown) <= set(reader.cells)
    for words in ("339 of 360 test examples classified correctly.", "step 539 (ckpt-539)",
                  "1,097,098 parameters · 2026-03-14 09:26 UTC",
                  ten["calibration"]["fitted_on"], "kept steps 59.6%, 18 s", "wall time 31 s", "1.1 TFLOP",
                  "SHA-256 of the weights 7fee798b97c7b66d", "2 of 19 options changed from their defaults",
                  "augment crop:3, rotate:10 changed schedule one-cycle changed dataset", "tensorflow 2.21.0",
                  "evaluated on Intel(R) Xeon(R) Platinum 8481C, 2 cores, 23.4 GiB of memory, no GPU, Linux-6.1-x86_64",
                  "seed 0", "The test split was evaluated during training"):
        assert words in reader.text, words
    described = " ".join(reader.plot_labels)
    for words in ("Loss by step", "Accuracy by step", "Learning rate by step", "ROC curves", "Precision-recall",
                  "before temperature", "after temperature", "of every run"):
        assert words in described, words


def test_compared_runs_and_their_differences(ten, without_plots):
    reader = read(ten, reports.images(ten))
    second, third = ten["compared"]
    assert second["verdict"].startswith("no difference") and third["verdict"].startswith("worse")
    for other in (second, third):
        cells = [number("accuracy", other["accuracy"]), number("loss", other["loss"]),
                 number("", other["macro_f1"]), number("", other["calibration_error"]),
                 *(str(other[key]) for key in ("only_this_right", "only_the_first_right", "both_wrong"))]
        place = reader.cells.index(cells[0])
        assert reader.cells[place:place + 7] == cells
        assert reader.cells[place + 8:place + 10] == [f"{other['mcnemar_p_adjusted']:.3f}", other["verdict"]]
        one = other["differing"][0]
        marks = ["✓" if one[who] == one["true"] else "✗" for who in ("first", "this")]
        run = "B" if other is second else "C"
        assert (f"true {one['true']} A: {one['first']} {marks[0]} ({one['confidence_first']:.0%}) {run}: {one['this']} "
                f"{marks[1]} ({one['confidence_this']:.0%}) example {one['index']}") in reader.text
    same = {**second, "accuracy_difference": {"value": 0.0, "low": -0.01, "high": 0.01}}
    assert "+0.00% (-1.00% to +1.00%)" in read({**ten, "compared": [same]}).cells
    alone = read({**ten, "compared": None})
    assert "Comparison" not in alone.text and "of every run" not in " ".join(alone.plot_labels)


def test_small_images_are_exact_and_large_ones_compressed(ten, without_plots):
    alone = {**ten, "compared": None}
    small, large = reports.images(alone), reports.images(alone, (300, 400, 3))
    listed = [one["index"] for one in (*alone["mistakes"], *alone["unsure_hits"])]
    images = read(alone, small).images
    for image, index in zip(images, listed, strict=True):
        found = Image.open(io.BytesIO(base64.b64decode(image["src"].split(",")[1])))
        assert found.format == "PNG" and image["class"] == "pixels" and f"example {index}," in image["alt"]
        np.testing.assert_array_equal(np.asarray(found), small[index][..., 0])
    image = read(alone, large).images[0]
    found = Image.open(io.BytesIO(base64.b64decode(image["src"].split(",")[1])))
    assert found.size == (224, 168) == (int(image["width"]), int(image["height"]))
    without = read(alone)
    assert not without.images and f"example {listed[0]}" in without.text
    one = alone["mistakes"][0]
    assert (f"predicted {one['predicted']} ({one['confidence']:.1%}) true {one['true']} "
            f"({one['true_probability']:.1%}) example {one['index']}") in without.text


def test_a_page_with_photographs_is_small(ten):
    gradient = np.linspace(0, 200, 224).astype(np.uint8)[:, None, None]
    photographs = {index: np.minimum(255, gradient + (image // 8).astype(np.uint8))
                   for index, image in reports.images(ten, (224, 224, 3)).items()}
    text = document.page({**ten, "compared": None}, photographs)
    assert text.count("<img") >= 45 and len(text.encode()) < 2e6


def test_many_classes_are_a_heat_map_a_list_and_a_table_by_f1(hundred, without_plots):
    text = document.page(hundred, {})
    reader = check(text)
    data = json.loads(reader.scripts[0])
    rebuilt = np.zeros((100, 100), int)
    for row, column, count in data["cells"]:
        rebuilt[row, column] = count
    np.testing.assert_array_equal(rebuilt, hundred["confusion"])
    assert data["names"] == list(reports.HUNDRED)
    assert any("100 classes as a heat map" in label for label in reader.plot_labels)
    assert text.count("h10v10h-10z") == np.count_nonzero(rebuilt)
    row = np.array(hundred["confusion"][0])
    others = [(-count, i) for i, count in enumerate(row) if count and i]
    assert f"{row[0]} of {row.sum()}" in reader.cells
    assert ", ".join(f"{reports.HUNDRED[i]} {-count}" for count, i in sorted(others)) in reader.cells
    weakest = min(hundred["per_class"], key=lambda one: one["f1"])
    assert f"average precision {weakest['name']} {number('', weakest['precision'])}" in reader.text
    assert "the other 45 are faint" in reader.text and hundred["notes"][0] in reader.text


@pytest.mark.parametrize("count", quick([4, 30], 0))
def test_names_are_text_and_not_markup(count, without_plots):
    bad = ('<b>"x"&y</b>', "</script><script>alert(1)</script>", "$a_{1}$", "'><img src=x onerror=alert(1)>")
    names = (*bad, *(f"class {i}" for i in range(count - len(bad))))
    given = reports.report(names, 40 * count, compared=1, skill=2.5, workdir="<i>runs</i>", model="<b>",
                           config={"<u>": "<s>"}, changed={"<u>": "<s>"}, machine={"<q>": "</td>"},
                           checkpoint="$HOME&lt;")
    given["compared"][0]["name"], given["command"], given["notes"] = "<em>", "a && b < c", ["<br>"]
    reader = read(given, reports.images(given))
    others = ("<i>runs</i>", "<b> on digits", "<u> <s>", "<q> </td>", "$HOME&lt;", "<em>", "a && b < c", "<br>")
    assert [name for name in (*bad, *others) if name not in reader.text] == []
    assert not reader.tags & {"i", "u", "s", "q", "em", "br"}
    assert len(reader.scripts) == 1 + (count > 20)
    if count > 20:
        assert json.loads(reader.scripts[0])["names"] == list(names)


def test_unknown_values_are_left_out_or_named():
    machine = {"cores": 8, "gpus": ["H200", "H200"], "features": ["avx2", "sve"], "environment": {}}
    given = reports.report(("a", "b"), 40, skill=30, machine=machine)
    assert given["mistakes"] == [] and given["confused_pairs"] == []
    empty = {"train": {name: [] for name in ("step", "loss", "accuracy", "learning_rate")}, "evaluation": {}}
    given = {**given, "curves": empty, "goodput": {}, "cost": {}, "confusion": None, "unsure_hits": [],
             "roc": {"classes": [None, None], "macro": None}, "pr": {"classes": [None], "macro": None}}
    given["calibration"] = {**given["calibration"], "after": None, "fitted_on": "nothing: one example"}
    given["headline"][3].update(value=None, low=None, high=None)
    given["per_class"][0].update(roc_auc=None, average_precision=float("nan"))
    reader = read(given)
    for words in ("No plot: the run has no metrics.jsonl",
                  "No plot: ROC and precision-recall curves need examples of two classes",
                  "No temperature was fitted", "There are none: every example is classified correctly",
                  "Where the time went is not known", "macro F1 1.0000 no interval", "macro ROC AUC – no interval",
                  "No example is misclassified", "evaluated on 8 cores, 2 × H200, features avx2, sve"):
        assert words in reader.text, words
    assert "environment" not in reader.text
    assert [label for label in reader.plot_labels if "Reliability" not in label] == []
    assert "Confusion matrix" not in reader.text and "–" in reader.cells


def test_caveats():
    def notes(**run):
        base = {"status": "finished", "selected_on": "validation", "split": "test", "step": 1_200, **run}
        return " ".join(document.caveats({"run": base, "notes": ["A note."]}))

    assert notes() == "A note."
    assert "are the metrics of step 1,200" in notes(status="preempted")
    assert "slightly optimistic" in notes(selected_on="test")
    assert "selected on the test split itself" in notes(selected_on="test", asked_for="best")
    assert "trained on" in notes(split="train")
    text = notes(test_time_augmentation=2, views=["as it is", "1 right"])
    assert "means over 2 views of each example (as it is, 1 right)" in text


def test_key_findings(ten):
    given = copy.deepcopy(ten)
    given["curves"]["evaluation"] = {"test": {"step": [10, 20, 30], "loss": [0.5, 0.3, 0.4], "accuracy": [0, 0, 0]}}
    given["goodput"]["seconds"] = {"steps": 6.0, "input": 2.0}
    text = " ".join(findings(given))
    weakest = min(given["per_class"], key=lambda one: one["f1"])
    missed = sum(given["confusion"][int(weakest["name"])]) - given["confusion"][int(weakest["name"])][
        int(weakest["name"])]
    pair = given["confused_pairs"][0]
    for words in (f"Weakest class: {weakest['name']} (F1 {weakest['f1']:.3f}); {missed} of its 36",
                  f"true {pair['true']}, predicted {pair['predicted']} ({pair['count']} examples, {pair['share']:.1%}",
                  "The model is underconfident: mean confidence 87.2%, accuracy 94.2%",
                  "reduces the calibration error from 0.0710 to 0.0247", "lowest at step 20 (0.3000)",
                  "The steps spent 25% of their time waiting", "runs/other-2 against this run: worse"):
        assert words in text, words
    assert not [line for line in findings(ten) if "lowest at step" in line or "waiting" in line]


def test_smoothing_ignores_missing_values():
    means, count = plots.smoothed([1.0, None, 3.0, 4.0, None, None, None, 2.0], share=0.25)
    assert count == 3
    np.testing.assert_allclose(means, [1, 2, 3.5, 3.5, 4, np.nan, 2, 2])
    assert cost.duration(7.25) == "7.2 s" and cost.duration(725) == "12 min 5 s"
    assert cost.duration(12_000) == "3 h 20 min"


def test_contrast_in_light_dark_and_print(without_plots):
    styles = document.page(reports.report(("a", "b"), 40), {})
    blocks = re.findall(r"(@media \([^)]*dark\) \{|@media print \{)?\s*:root \{(.*?)\}", styles, re.DOTALL)
    themes = {name: {} for name in ("light", "dark", "print")}
    for media, block in blocks:
        colors = dict(COLOR.findall(block))
        for name in (["dark"] if "dark" in media else ["print"] if "print" in media else list(themes)):
            themes[name].update(colors)
    for name, colors in themes.items():
        for behind, texts in TEXT.items():
            for text in texts:
                assert ratio(colors[text], colors[behind]) >= 4.5, (name, text, behind)
        for line in LINES:
            assert ratio(colors[line], colors["paper"]) >= 3, (name, line)
    assert themes["print"]["paper"] == "#fff" and themes["print"]["ink"] == "#000"
