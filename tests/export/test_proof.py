"""An export is verified against the trained model, and one outside its tolerance is not published."""
import dataclasses
import json
import os

import numpy as np
import pytest

from pipeline.errors import RunFailure
from pipeline.export import latency
from pipeline.export.export_format import FLOAT16, FLOAT32, INT8, Tolerance
from pipeline.export.formats.onnx_file import Onnx
from pipeline.export.formats.tflite import TFLite
from pipeline.export.proof import prove
from pipeline.export.run import calibration_images, export
from pipeline.export.tables import proof_page, remark
from tests.consoles import RecordingConsole
from tests.export import altered
from tests.export.described import described, digits_model

LIVE = np.array([[0.7, 0.2, 0.1], [0.1, 0.8, 0.1], [0.3, 0.3, 0.4], [0.2, 0.5, 0.3]])
LABELS = np.array([0, 1, 2, 0])


def moved(*changes):
    """Returns LIVE with changes (row, class, by)."""
    found = LIVE.copy()
    for row, column, by in changes:
        found[row, column] += by
    return found


def test_figures_of_a_proof():
    proof = prove(Tolerance(), LIVE, moved((2, 0, 0.2), (1, 1, -0.05)), LABELS)
    assert proof.difference == pytest.approx(0.2) and proof.example == 2 and proof.examples == 4
    assert (proof.equal, proof.accuracy, proof.live_accuracy) == (0.75, 0.5, 0.75)
    assert proof.holds  # Nothing is bounded.


@pytest.mark.parametrize("tolerance,by,says", [
    (FLOAT32, 0.9e-5, None), (FLOAT32, 1.1e-5, "1.1e-05 (example 1), allowed 1e-05"),
    (FLOAT16, 0.9e-2, None), (FLOAT16, 1.1e-2, "0.011 (example 1), allowed 0.01")])
def test_tolerance_of_a_probability(tolerance, by, says):
    proof = prove(tolerance, LIVE, moved((1, 1, -by)), LABELS)
    assert [says in v for v in proof.violations] == [True] * (says is not None)
    assert proof.record(tolerance)["bounds"]["probability"] == tolerance.probability


def test_rounding_of_the_trained_model_is_no_violation():
    found = moved((1, 1, -5e-5))
    assert not prove(FLOAT32, LIVE, found, LABELS, rounding=1e-5).holds
    proof = prove(FLOAT32, LIVE, found, LABELS, rounding=2e-5)
    assert proof.holds and proof.allowed == pytest.approx(6e-5) and proof.rounding == 2e-5
    assert prove(FLOAT32, LIVE, found, LABELS, rounding=1e-9).allowed == 1e-5
    assert prove(FLOAT16, LIVE, found, LABELS, rounding=2e-5).allowed == 1e-2
    assert prove(FLOAT32, LIVE, LIVE, LABELS, rounding=0.5).allowed == 1e-3  # That much is a defect, not rounding.
    assert prove(INT8, LIVE, found, LABELS, rounding=2e-5).allowed is None


def test_tolerance_of_predictions_and_accuracy():
    live = np.tile([[0.6, 0.4]], (1000, 1))
    labels = np.zeros(1000, np.int64)

    def flipped(count):
        return np.concatenate([np.tile([[0.4, 0.6]], (count, 1)), live[count:]])

    assert prove(INT8, live, flipped(5), labels).holds
    less = prove(INT8, live, flipped(6), labels).violations
    assert len(less) == 1 and "99.40%" in less[0] and "100.00%" in less[0] and "0.5 points" in less[0]
    both = prove(INT8, live, flipped(11), labels).violations
    assert len(both) == 2 and "98.90% of the predictions are equal, at least 99.00%" in both[0]
    assert prove(INT8, live, flipped(10), 1 - labels).holds  # More accurate than the trained model is no loss.
    assert "99.80%" in prove(dataclasses.replace(FLOAT16, probability=None), live, flipped(3), labels).violations[0]


def test_non_finite_values_and_other_shapes_never_hold():
    proof = prove(Tolerance(), LIVE, moved((3, 0, np.nan)), LABELS)
    assert not proof.holds and "1 of 4 examples" in proof.violations[0] and proof.equal == 0.75
    json.dumps(proof.record(Tolerance()), allow_nan=False)
    assert "(4, 2)" in prove(Tolerance(), LIVE, LIVE[:, :2], LABELS).violations[0]


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """(TrainedModel, Source, folder, Exported) of a model in TFLite, and in an ONNX that is altered on the way."""
    trained, source = digits_model()
    output, printed = tmp_path_factory.mktemp("export"), []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Onnx, "write", altered.write)
        patch.setattr(latency, "SECONDS", 0.05)
        found = export(trained, source, ("tflite", "onnx"), str(output), described(trained), (2,),
                       RecordingConsole(printed))
    assert printed[0] == "model   mlp at step 1, as trained"
    assert [line.split()[:2] for line in printed[1:]] == [
        [w, f] for f in ("tflite", "onnx") for w in ("write", "verify")]
    return trained, source, output, found


def test_an_altered_export_is_not_published_and_the_others_are(exported):
    trained, source, output, found = exported
    assert found.failed == ["onnx"] and found.version == 1 and found.folder == str(output / "reports" / "1")
    assert sorted(p.name for p in (output / "tflite" / "1").iterdir()) == [
        "MODEL_CARD.md", "metadata.json", "model.tflite", "proof.json"]
    assert sorted(p.name for p in (output / "onnx").iterdir()) == ["1.unproved"]
    record = found.report["forms"]["onnx"]
    assert os.path.isfile(record["path"]) and record["path"].endswith("onnx/1.unproved/model.onnx")
    assert "largest difference of a probability" in record["problems"][0] and "allowed 1e-05" in record["problems"][0]
    assert record["proof"]["difference"] > 1e-3 and not record["proof"]["holds"]
    assert json.loads((output / "onnx" / "1.unproved" / "proof.json").read_text())["problems"] == record["problems"]


def test_content_of_the_report(exported):
    trained, source, output, found = exported
    report = json.loads((output / "reports" / "1" / "proof.json").read_text())
    assert report == json.loads(json.dumps(found.report)) and report["examples"] == 360
    images, labels = source.test.reader.images, source.test.labels
    accuracy = np.mean(trained.probabilities(images).argmax(axis=1) == labels)
    proof = report["forms"]["tflite"]["proof"]
    assert proof["live_accuracy"] == proof["accuracy"] == report["live_accuracy"] == pytest.approx(accuracy)
    assert 0 < report["rounding"] < 1e-5
    assert proof["difference"] <= proof["allowed"] == proof["bounds"]["probability"] == 1e-5 and proof["equal"] == 1.0
    assert report["forms"]["tflite"]["latency"]["2"]["p50"] > 0 and report["live_latency"]["2"]["p50"] > 0
    assert report["forms"]["tflite"]["bytes"] == (output / "tflite" / "1" / "model.tflite").stat().st_size
    page = (output / "reports" / "1" / "proof.md").read_text()
    assert "360 examples" in page and "- `onnx` is not published: the largest difference" in page
    assert (output / "reports" / "1" / "latency.png").stat().st_size > 10_000
    assert not list(output.rglob("images.npy"))


def test_a_widened_bound_is_reported(exported):
    report = exported[3].report
    assert remark(report) is None
    wider = {**report["forms"]["tflite"], "proof": {**report["forms"]["tflite"]["proof"], "allowed": 5.1e-5}}
    printed = remark({**report, "rounding": 1.7e-5, "forms": {"tflite": wider}})
    assert "1.7e-05" in printed and "may differ by 5.1e-05" in printed
    assert printed in proof_page({**report, "rounding": 1.7e-5, "forms": {"tflite": wider}})


def test_a_format_that_cannot_be_loaded_or_written_is_not_published(exported, tmp_path):
    trained, source, _, _ = exported
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Onnx, "write", altered.write_rubbish)
        patch.setattr(TFLite, "write", altered.refuse)
        found = export(trained, source, ("onnx", "tflite"), str(tmp_path), described(trained))
    assert found.failed == ["onnx", "tflite"] and found.folder is None
    assert "format onnx in a fresh process" in found.report["forms"]["onnx"]["problems"][0]
    assert "Betainc" in found.report["forms"]["tflite"]["problems"][0]
    assert sorted(str(p.relative_to(tmp_path)) for p in tmp_path.glob("*/*")) == ["onnx/1.unproved",
                                                                                 "reports/1.unproved"]


def test_a_model_with_non_finite_outputs_is_not_exported(exported, tmp_path):
    trained, source, _, _ = exported
    bias = trained.model.variables[-1]
    before = bias.numpy()
    try:
        bias.assign(before * np.nan)
        with pytest.raises(RunFailure, match="not finite"):
            export(trained, source, ("tflite",), str(tmp_path / "export"), described(trained))
    finally:
        bias.assign(before)
    assert list(tmp_path.iterdir()) == []


def test_calibration_images_have_every_class_of_a_sorted_split():
    _, source = digits_model()
    ordered = source.train.select(np.arange(1437))
    assert calibration_images(ordered).shape == (256, 28, 28, 1)
    assert len(calibration_images(source.train.select([3, 5]))) == 2
