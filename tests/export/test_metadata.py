"""What travels with an export says enough to use the model without its run."""
import dataclasses
import datetime
import json

import keras
import numpy as np
import pytest

from pipeline.export.metadata import FORMAT_VERSION, metadata
from pipeline.models.identity import weights_sha256
from pipeline.preprocessing import Preprocessing
from tests.export.described import RESULT, described, digits_model
from tests.selection import half_precision

pytestmark = half_precision


@pytest.fixture(scope="module")
def made():
    """(TrainedModel with its images normalized, its metadata)."""
    trained, _ = digits_model("mlp", precision="mixed_bfloat16")
    return trained, described(trained)


def test_metadata_names_the_origin_of_the_model(made):
    trained, found = made
    assert found == json.loads(json.dumps(found, allow_nan=False)) and found["format_version"] == FORMAT_VERSION == 1
    assert found["weights_sha256"] == weights_sha256(trained.model) and found["mirrorline"] == "1.2.3"
    assert (found["model"], found["parameters"]) == ("mlp", 50_890)
    assert found["class_names"] == list(trained.class_names) and found["image_shape"] == [28, 28, 1]
    assert found["data"]["fingerprint"] == trained.stored["data"]["fingerprint"] and found["data"]["num_test"] == 360
    assert found["precision"] == {"trained": "mixed_bfloat16", "exported": "float32"}
    assert found["checkpoint"] == {"step": 1, "steps": [1], "weights": "as trained"}
    assert found["metrics"]["run"] == RESULT and found["config"]["batch_size"] == 16
    assert found["trained_with"] == {"tensorflow": "2.21.0", "replicas": 2}


def test_metadata_has_no_paths_of_the_machine(made):
    trained, _ = made
    stored = {**trained.stored, "data": {**trained.stored["data"], "name": "folder:/home/me/photos/"},
              "config": {**trained.stored["config"], "dataset": "folder:/home/me/photos/", "workdir": "/home/me/runs",
                         "extension": ["/home/me/my_models.py"]}}
    found = described(dataclasses.replace(trained, stored=stored))
    assert found["data"]["name"] == found["config"]["dataset"] == "folder:photos"
    assert found["config"]["extension"] == ["my_models.py"] and "/home/me" not in json.dumps(found)


def test_metadata_has_initialization_and_frozen_variables(made):
    trained, found = made
    assert found["initialization"] is found["frozen"] is None
    begun = {"path": "runs/net", "file": "/home/me/runs/net/checkpoints/best/ckpt-4", "form": "checkpoint",
             "sha256": "0" * 64, "loaded": 2, "fresh": ["classifier/w", "classifier/b"], "unused": []}
    frozen = {"variables": ["hidden/w"], "parameters": 50_176, "trained_parameters": 714}
    config = {**trained.stored["config"], "initialize_from": "/home/me/runs/net/", "freeze": ["hidden/w"]}
    found = described(dataclasses.replace(trained, stored={**trained.stored, "config": config, "initialization": begun,
                                                           "frozen": frozen}))
    assert found["initialization"] == {**{k: v for k, v in begun.items() if k != "path"}, "file": "ckpt-4"}
    assert found["frozen"] == {"patterns": ["hidden/w"], **frozen}
    assert found["config"]["initialize_from"] == "net" and "/home/me" not in json.dumps(found)


def test_its_time_is_utc(made):
    when = datetime.datetime(2026, 5, 1, 14, tzinfo=datetime.timezone(datetime.timedelta(hours=2)))
    assert metadata(made[0], version="1", created=when)["created"] == "2026-05-01T12:00:00+00:00"
    assert made[1]["created"].endswith("+00:00")


@pytest.mark.parametrize("name", ["mlp", "three_apis"])  # Normalized; one channel repeated to three, "caffe".
def test_preprocessing_gives_the_input_of_the_layers(name):
    trained, source = digits_model(name)
    steps, images = described(trained)["preprocessing"], source.test.reader.images[:5]
    assert steps["resize"] == {"height": 28, "width": 28, "policy": "stretch",
                               "method": Preprocessing((28, 28, 1)).method}
    seen = images * steps["scale"]
    if steps["mean"]:
        seen = (seen - steps["mean"]) / steps["deviation"]
    seen = np.repeat(seen, steps["channels"], axis=-1) if seen.shape[-1] < steps["channels"] else seen
    if steps["input_range"] == "caffe":
        seen = seen[..., ::-1] * 255 - (103.939, 116.779, 123.68)
    logits = trained.model(seen.astype(np.float32), training=False)
    np.testing.assert_allclose(keras.ops.softmax(logits), trained.probabilities(images), rtol=0, atol=1e-6)
