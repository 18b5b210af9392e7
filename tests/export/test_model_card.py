"""A model card is true, is what Hugging Face reads, and its code runs as it stands."""
import re

import numpy as np
import pytest
import yaml
from PIL import Image
from scipy.stats import binomtest
from sklearn import metrics

from pipeline.data.image_reader import ImageReader
from pipeline.export.export_format import find_format
from pipeline.export.model_card import figures, model_card
from pipeline.files import write_json
from pipeline.preprocessing import Preprocessing
from tests.export.described import described, digits_model
from tests.selection import half_precision, quick

pytestmark = half_precision

PROOF = {"difference": 2e-7, "equal": 1.0, "accuracy": 0.125, "holds": True}
RECORDS = {"keras": {"bytes": 4_400_000, "proof": PROOF}, "onnx": {"bytes": 90_000, "proof": PROOF},
           "tflite": {"bytes": 1, "proof": {**PROOF, "holds": False}}}


@pytest.fixture(scope="module")
def made():
    """(TrainedModel, Source, metadata, figures)."""
    trained, source = digits_model(precision="mixed_float16")
    found = figures(trained.probabilities(source.test.reader.images), source.test.labels, trained.class_names)
    return trained, source, described(trained), found


def test_metrics_of_the_card(made):
    trained, source, _, found = made
    labels, probabilities = source.test.labels, trained.probabilities(source.test.reader.images)
    predicted = probabilities.argmax(axis=1)
    assert found["accuracy"] == metrics.accuracy_score(labels, predicted) and found["examples"] == 360
    expected = binomtest(int((predicted == labels).sum()), 360).proportion_ci(method="wilson")
    assert (found["low"], found["high"]) == (expected.low, expected.high)
    report = metrics.classification_report(labels, predicted, output_dict=True, zero_division=0)
    assert [c["f1"] for c in found["per_class"]] == [report[str(i)]["f1-score"] for i in range(10)]
    more = figures(np.pad(probabilities, [(0, 0), (0, 1)]), labels, (*trained.class_names, "ten"))
    assert more["per_class"] == found["per_class"]  # Nothing is known of a class without examples.
    confusion = metrics.confusion_matrix(labels, predicted)
    np.fill_diagonal(confusion, 0)
    assert found["confused_pairs"][0]["count"] == confusion.max()


def test_the_front_matter_is_read(made):
    _, _, about, found = made
    text = model_card(find_format("keras"), about, found, RECORDS)
    front = yaml.safe_load(text.split("---\n")[1])
    assert front["library_name"] == "keras" and front["pipeline_tag"] == "image-classification"
    result = front["model-index"][0]["results"][0]
    assert result["dataset"] == {"name": "digits", "type": "digits", "split": "test"}
    assert result["metrics"] == [{"type": "accuracy", "value": pytest.approx(found["accuracy"], abs=1e-6)}]


def test_content_of_the_card(made):
    _, _, about, found = made
    text = model_card(find_format("onnx"), about, found, RECORDS)
    assert [line for line in text.splitlines() if line.startswith("#")] == [
        "# mlp on digits", "## Intended use", "## Data", "## Metrics", "## Formats", "## Training", "## Limitations",
        "## Usage", "## Origin"]
    for output in (f"| accuracy | {found['accuracy']:.2%} |", f"{found['low']:.2%} to {found['high']:.2%}", "1,437",
                   about["data"]["fingerprint"], about["weights_sha256"], "50,890",
                   "| keras | 4.40 MB", "| onnx (this one) | 90.0 kB | 2.0e-07",
                   "trained in mixed_float16", "computes in float32", "selected on the test split itself",
                   "| precision | mixed_float16 |", "class a é", "| replicas | 2 |"):
        assert output in text, output
    assert "| tflite |" not in text and "None" not in text and "nan" not in text.lower()


def test_the_card_names_the_split_that_its_metrics_are_of(made):
    _, _, about, found = made
    about = {**about, "data": {**about["data"], "num_validation": 1, "num_test": 0}}
    text = model_card(find_format("onnx"), about, {**found, "examples": 1, "confused_pairs": []}, RECORDS, "validation")
    result = yaml.safe_load(text.split("---\n")[1])["model-index"][0]["results"][0]
    assert result["dataset"]["split"] == "validation" and "test" not in text.lower().replace("latest", "")
    for output in ("on the 1 example of the validation split:", "No example of the validation split is misclassified.",
                   "trained model on the validation split:", "those of the validation split of digits",
                   "| validation examples | 1 |"):
        assert output in text, output
    assert "selected on" not in text  # It was selected on the test split.


def test_initialization_and_frozen_parameters_are_on_the_card(made):
    _, _, about, found = made
    begun = {"file": "model.keras", "form": "keras", "sha256": "5" * 64, "loaded": 14, "fresh": ["head/w"],
             "unused": []}
    frozen = {"patterns": ["block1", "*/norm"], "variables": [], "parameters": 50_176, "trained_parameters": 714}
    text = model_card(find_format("keras"), {**about, "initialization": begun, "frozen": frozen}, found, RECORDS)
    assert f"14 variables of model.keras (keras, SHA-256 `{'5' * 64}`); head/w started from random values." in text
    assert "50,176 of its parameters were frozen (block1, \\*/norm); 714 were trained." in text
    frozen["unfreeze_at"] = [{"step": 6, "variables": [], "parameters": 0, "trained_parameters": 50_890}]
    text = model_card(find_format("keras"), {**about, "frozen": frozen}, found, RECORDS)
    assert "50,176 of its parameters were frozen (block1, \\*/norm), 0 after step 6; 50,890 were trained." in text
    plain = model_card(find_format("keras"), about, found, RECORDS)
    assert "initialized" not in plain and "frozen" not in plain


def test_names_cannot_break_the_card(made):
    trained, _, about, found = made
    names = ["a|b", "<script>", "x\ny: z", *about["class_names"][3:]]
    about = {**about, "class_names": names, "data": {**about["data"], "name": "folder:my \"photos\": 1"}}
    found = {**found, "per_class": [{**c, "name": n} for c, n in zip(found["per_class"], names, strict=True)]}
    text = model_card(find_format("onnx"), about, found, RECORDS)
    front = yaml.safe_load(text.split("---\n")[1])
    assert front["model-index"][0]["results"][0]["dataset"]["name"] == 'my "photos": 1'
    assert "\\<script\\>" in text and "| a\\|b | " in text
    assert all(line.count("|") - line.count("\\|") == 6 for line in text.splitlines() if line.startswith("| a\\|b"))


def test_many_classes_are_cut_to_the_weakest(made):
    _, _, about, _ = made
    names = [f"class {i}" for i in range(300)]
    labels = np.arange(600) % 300
    probabilities = np.eye(300)[np.where(labels == 7, 8, labels)]
    found = figures(probabilities, labels, names)
    text = model_card(find_format("onnx"), {**about, "class_names": names}, found, RECORDS)
    assert "The 100 of 300 classes with the lowest F1" in text and "| class 7 | 0.000" in text
    assert "280 more, listed in metadata.json" in text and "| class 7 | class 8 | 2 | 100.0% |" in text


@pytest.mark.parametrize("name", quick(["saved_model", "keras", "weights", "tflite", "tflite_int8", "onnx"],
                                       4, 5))
def test_the_code_of_a_card_runs_in_its_folder(made, name, tmp_path, monkeypatch, capsys):
    trained, source, about, found = made
    form = find_format(name)
    path = str(tmp_path / form.file) if form.file else str(tmp_path)
    form.write(trained, path, about, source.train.reader.images[:50])
    write_json(str(tmp_path / "metadata.json"), about)
    text = model_card(form, about, found, RECORDS)
    blocks = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    assert len(blocks) == 2
    monkeypatch.chdir(tmp_path)
    space = {}
    for block in blocks:
        exec(block, space)
    expected = trained.class_names[int(trained.probabilities(np.zeros((1, 28, 28, 1), np.uint8)).argmax())]
    output = capsys.readouterr().out
    said = (str(expected.encode()), 2) if name == "saved_model" else (expected, 1)
    assert output.count(said[0]) == said[1], output


@pytest.mark.parametrize("policy, method", [("stretch", "bilinear"), ("crop:0.8", "bicubic"), ("pad", "bilinear")])
def test_the_card_reads_an_image_file_as_the_run_did(made, policy, method, tmp_path):
    _, _, about, found = made
    resize = {"height": 48, "width": 32, "policy": policy, "method": method}
    about = {**about, "image_shape": [48, 32, 3], "preprocessing": {**about["preprocessing"], "resize": resize}}
    coarse = Image.fromarray(np.random.default_rng(0).integers(0, 256, (4, 3, 3), np.uint8))
    exif = Image.Exif()
    exif[0x0112] = 6
    coarse.resize((31, 27), Image.Resampling.BICUBIC).save(tmp_path / "a.jpg", quality=98, exif=exif)
    space = {}
    text = model_card(find_format("onnx"), about, found, RECORDS)
    exec(re.findall(r"```python\n(.*?)```", text, re.DOTALL)[-1], space)
    expected = ImageReader(Preprocessing((48, 32, 3), policy, method)).read(str(tmp_path / "a.jpg"))
    assert np.abs(space["image_of"](tmp_path / "a.jpg").astype(int) - expected).mean() < 2


def test_an_extension_is_named_where_it_is_needed(made):
    _, _, about, found = made
    about = {**about, "config": {**about["config"], "extension": ["my_models.py"]}}
    assert "Import `my_models.py` first" in model_card(find_format("keras"), about, found, RECORDS)
    assert "my_models" not in model_card(find_format("onnx"), about, found, RECORDS).split("## Usage")[1]
