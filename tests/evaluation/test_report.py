"""The whole of report.json: its parts agree, many classes do not explode, and nothing in it is not a number."""
import io
import json

import numpy as np
import pytest

from pipeline.evaluation import tables
from pipeline.evaluation.probabilities import Predictions
from pipeline.evaluation.report import EvaluatedRun, make_report, named_examples
from tests.evaluation.made_predictions import predictions

DESCRIBED = {"created": "2026-01-01T00:00:00+00:00", "command": "mirrorline evaluate", "run": {"workdir": "runs/a"},
             "goodput": {}, "cost": {}}


def evaluated(found, name="runs/a"):
    return EvaluatedRun(name, found.evaluation(), found, [])


def report_of(found, others=(), **more):
    names = tuple(f"class {i}" for i in range(found.num_classes))
    return make_report(evaluated(found), names, "test", DESCRIBED, **more,
                       compared=[evaluated(o, "runs/b") for o in others])


def test_the_parts_agree_with_each_other():
    found = predictions(600, 6, strength=1.5)
    other = Predictions(found.logits + predictions(600, 6, seed=1).logits, found.labels)
    report = report_of(found, [other])
    headline = {item["name"]: item for item in report["headline"]}
    assert list(headline) == ["accuracy", "loss", "macro F1", "macro ROC AUC", "top-5 accuracy", "calibration error"]
    confusion = np.array(report["confusion"])
    assert headline["accuracy"]["value"] == np.trace(confusion) / 600 and confusion.sum() == 600
    assert headline["macro F1"]["value"] == report["averages"]["macro"]["f1"]
    areas = [report["roc"]["macro"]["area"], report["averages"]["macro"]["roc_auc"]]
    assert [headline["macro ROC AUC"]["value"]] * 2 == areas
    assert headline["calibration error"]["value"] == report["calibration"]["before"]["ece"]
    assert headline["top-5 accuracy"]["value"] > headline["accuracy"]["high"]
    assert all(item["low"] < item["value"] < item["high"] for item in report["headline"])
    support = np.array([c["support"] for c in report["per_class"]])
    np.testing.assert_array_equal(support, confusion.sum(axis=1))
    areas = [c["roc_auc"] for c in report["per_class"]]
    assert report["averages"]["weighted"]["roc_auc"] == pytest.approx(np.average(areas, weights=support))
    compared = report["compared"][0]
    right = compared["both_right"] + compared["only_the_first_right"]
    assert right == np.trace(confusion) and compared["mcnemar_p"] == compared["mcnemar_p_adjusted"]


def test_the_most_confident_mistakes_and_least_confident_correct_examples():
    found = predictions(600, 6, strength=1.5)
    other = Predictions(found.logits + predictions(600, 6, seed=1).logits, found.labels)
    report = report_of(found, [other])
    mistakes, hits = report["mistakes"], report["unsure_hits"]
    assert len(mistakes) == len(hits) == 24
    assert [m["confidence"] for m in mistakes] == sorted(found.confidence[~found.correct])[:-25:-1]
    assert [h["confidence"] for h in hits] == sorted(found.confidence[found.correct])[:24]
    first = mistakes[0]
    assert (first["true"], first["predicted"]) == (f"class {found.labels[first['index']]}",
                                                   f"class {found.predicted[first['index']]}")
    shown = {e["index"] for e in (*mistakes, *hits, *report["compared"][0]["differing"])}
    assert named_examples(report).tolist() == sorted(shown)


def test_a_perfect_model_with_one_example_per_class():
    report = report_of(predictions(strength=99, labels=[0, 1, 2]))
    json.dumps(report, allow_nan=False)
    assert report["mistakes"] == [] and report["confused_pairs"] == []
    headline = {item["name"]: item for item in report["headline"]}
    assert headline["accuracy"]["value"] == 1 and headline["accuracy"]["low"] < 0.5
    assert headline["macro ROC AUC"] == {"name": "macro ROC AUC", "value": 1, "low": None, "high": None,
                                         "interval": "95%, DeLong"}


def test_classes_without_examples_are_named_and_are_none():
    found = predictions(100, 3)
    report = report_of(Predictions(np.pad(found.logits, [(0, 0), (0, 2)], constant_values=-9), found.labels))
    json.dumps(report, allow_nan=False)
    assert [report["per_class"][4][name] for name in ("precision", "recall", "f1", "roc_auc")] == [None] * 4
    assert report["per_class"][4]["support"] == 0 and "class 3, class 4" in report["notes"][0]
    assert [one["name"] for one in report["roc"]["classes"]] == ["class 0", "class 1", "class 2"]


def test_half_of_the_classes_without_examples_are_neither_drawn_nor_averaged():
    found = predictions(240, 120, labels=np.arange(240) % 60 + 60, strength=3.0)
    assert (found.predicted < 60).any()
    report = report_of(found)
    there = [one for one in report["per_class"] if one["support"]]
    assert len(there) == 60 and len(report["roc"]["classes"]) == 50 and None not in report["roc"]["classes"]
    for name in ("precision", "recall", "f1"):
        assert report["averages"]["macro"][name] == pytest.approx(np.mean([one[name] for one in there]))
    headline = {item["name"]: item for item in report["headline"]}
    assert headline["macro F1"]["low"] < headline["macro F1"]["value"] < headline["macro F1"]["high"]
    assert "50 of 60 classes" in report["notes"][0] and "class 0, class 1" in report["notes"][1]


def test_many_classes_and_examples_stay_small():
    report = report_of(predictions(1500, 250, strength=4.0))
    assert len(report["roc"]["classes"]) == len(report["pr"]["classes"]) == 50 and report["confusion"] is None
    worst = sorted(report["per_class"], key=lambda c: c["f1"])[:50]
    shown = {c["name"] for c in report["roc"]["classes"]}
    assert max(c["f1"] for c in report["per_class"] if c["name"] in shown) == worst[-1]["f1"]
    assert "50 of 250 classes" in report["notes"][0] and "left out" in report["notes"][1]
    assert len(json.dumps(report, allow_nan=False)) < 2**20


def test_names_contain_no_control_characters():
    found, file = predictions(60, 2), io.StringIO()
    names = ("cat\x1b]0;owned\x07", "\x1b[2Jdog")
    tables.print_report(make_report(evaluated(found), names, "test", DESCRIBED), file)
    assert "cat" in file.getvalue() and "dog, predicted" in file.getvalue()
    assert "\x1b" not in file.getvalue() and "\x07" not in file.getvalue()


def test_the_terminal_shows_adjusted_p_values():
    labels = np.arange(1000) % 3

    def model(wrong):
        return Predictions(3 * np.eye(3, dtype=np.float32)[np.where(np.isin(np.arange(1000), wrong), labels + 1, labels)
                                                           % 3], labels)

    others = [model([*range(11, 30), 100, 101]), model(range(1, 32)), model(range(28))]
    report, file = report_of(model(range(30)), others), io.StringIO()
    tables.print_report(report, file)
    first = report["compared"][0]
    assert first["mcnemar_p"] < 0.05 < first["mcnemar_p_adjusted"]
    line = next(line for line in file.getvalue().splitlines() if "runs/b" in line)
    assert f"{first['mcnemar_p_adjusted']:.3f}" in line and "no difference beyond chance" in line
    assert "(Holm)" in file.getvalue()


def test_the_terminal_shows_the_report():
    found = predictions(600, 6, strength=1.5)
    file = io.StringIO()
    report = report_of(found, [Predictions(found.logits[:, ::-1].copy(), found.labels)])
    tables.print_report(report, file)
    text = file.getvalue()
    first, pair = report["per_class"][0], report["confused_pairs"][0]
    assert f"{report['headline'][0]['value']:.2%}" in text and f"{first['precision']:.4f}" in text
    assert f"true {pair['true']}, predicted {pair['predicted']}: {pair['count']}" in text
    assert "< 0.001" in text and "worse than the first, beyond chance" in text
    assert "two folds of the test split" in text and max(map(len, text.splitlines())) < 200
    several = io.StringIO()
    tables.print_report(report_of(predictions(500, 21)), several)
    assert "macro F1" in several.getvalue() and "precision" not in several.getvalue()
