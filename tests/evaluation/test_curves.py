"""ROC and precision-recall curves against scikit-learn."""
import numpy as np
import pytest
from sklearn import metrics

from pipeline.evaluation import curves
from pipeline.evaluation.curves import CurveSet
from pipeline.evaluation.probabilities import Predictions
from tests.evaluation.made_predictions import predictions


def coarse(found):
    """Returns Predictions whose logits are rounded, so that there are ties."""
    return Predictions(found.logits.round(0), found.labels)


@pytest.mark.parametrize("found", [predictions(), coarse(predictions(strength=0.5)), predictions(30, 3)])
def test_areas_are_scikit_learns(found):
    curve_set = CurveSet(found, range(found.num_classes))
    expected = np.stack([found.probability(i) for i in range(found.num_classes)], axis=1)
    truth = np.eye(found.num_classes)[found.labels]
    np.testing.assert_allclose(curve_set.roc_auc, metrics.roc_auc_score(truth, expected, average=None), rtol=1e-12)
    np.testing.assert_allclose(curve_set.average_precision,
                               metrics.average_precision_score(truth, expected, average=None), rtol=1e-12)
    assert curve_set.macro_roc_auc == pytest.approx(
        metrics.roc_auc_score(found.labels, expected, multi_class="ovr", average="macro"), rel=1e-12)
    assert curve_set.macro_average_precision == pytest.approx(
        metrics.average_precision_score(truth, expected, average="macro"), rel=1e-12)
    for number, shown in curve_set.shown.items():
        x, y, _ = metrics.roc_curve(truth[:, number], expected[:, number], drop_intermediate=False)
        np.testing.assert_allclose(shown.roc, (x, y), atol=1e-15)
        precision, recall, _ = metrics.precision_recall_curve(truth[:, number], expected[:, number])
        reach = len(shown.pr[0])  # scikit-learn ends with recall 0 and precision 1.
        np.testing.assert_allclose(shown.pr, (recall[::-1][1:reach + 1], precision[::-1][1:reach + 1]), atol=1e-15)


def test_macro_curves_are_the_means_over_the_classes():
    found = predictions(60, 3)
    curve_set = CurveSet(found, range(3))
    roc, pr = (getattr(curve_set, kind)("abc")["macro"] for kind in ("roc", "pr"))
    for x, y in zip(roc["x"][5::40], roc["y"][5::40], strict=True):
        assert y == pytest.approx(np.mean([np.interp(x, *c.roc) for c in curve_set.shown.values()]), abs=2e-6)
    assert (roc["x"][0], roc["y"][0], roc["x"][-1], roc["y"][-1]) == (0, 0, 1, 1)
    middle = np.argmin(np.abs(np.array(pr["x"]) - 0.5))
    # The precision where half of a class or just more is found.
    expected = [min(zip(*c.pr, strict=True), key=lambda p: (p[0] < pr["x"][middle], p[0]))[1]
                for c in curve_set.shown.values()]
    assert pr["y"][middle] == pytest.approx(np.mean(expected), abs=2e-6)
    assert np.trapezoid(roc["y"], roc["x"]) == pytest.approx(roc["area"], abs=5e-3)


def test_a_class_without_positives_has_no_curve_and_enters_no_mean():
    found = predictions(100, 3)
    found = Predictions(np.pad(found.logits, [(0, 0), (0, 1)], constant_values=-9), found.labels)
    with_empty, without = CurveSet(found, range(4)), CurveSet(Predictions(found.logits[:, :3], found.labels), range(3))
    assert np.isnan(with_empty.roc_auc[3]) and with_empty.roc("abcd")["classes"][3] is None
    assert with_empty.macro_roc_auc == pytest.approx(without.macro_roc_auc, rel=1e-3)
    alone = CurveSet(Predictions(found.logits, np.zeros(100, int)), [0])
    assert alone.roc("abcd") == {"classes": [None], "macro": None} == alone.pr("abcd")


def test_long_curves_are_thinned_without_losing_area():
    found = predictions(20_000, 2, strength=1.0)
    curve_set = CurveSet(found, [0])
    for kind, area in (("roc", "roc_auc"), ("pr", "average_precision")):
        shown = getattr(curve_set, kind)("ab")["classes"][0]
        assert 100 < len(shown["x"]) <= 200 and shown["area"] == getattr(curve_set, area)[0]
        assert np.trapezoid(shown["y"], shown["x"]) == pytest.approx(shown["area"], abs=2e-3)
        assert shown["x"][-1] == 1


def test_curves_of_the_worst_classes_are_shown():
    assert curves.classes_to_show(np.linspace(1, 0, 100), most=3) == [97, 98, 99]
    some = np.where(np.arange(100) < 60, np.nan, np.linspace(1, 0, 100))  # Most have no examples.
    assert curves.classes_to_show(some, most=3) == [97, 98, 99] and curves.classes_to_show(some) == [*range(60, 100)]
