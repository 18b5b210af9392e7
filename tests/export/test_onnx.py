"""ONNX files: what they compute, what is left of the model in them, what they carry, and what cannot be written."""
import collections
import sys

import numpy as np
import onnx
import onnxruntime
import pytest
import tensorflow as tf

from pipeline.errors import UsageError
from pipeline.export.export_format import find_format
from pipeline.export.formats import onnx_file
from pipeline.preprocessing import UNIT
from tests.export.fresh_models import SMALL, metadata, pixels, shared_model, trained_model
from tests.export.unconvertible import with_operation
from tests.selection import quick

# three_apis normalizes what pooling and ReLU have made: there is no convolution right before it that could take it in.
NORMALIZATIONS = {"three_apis": 2}
# Images that leave more than a pixel of every layer: else tf2onnx sees a reshaping before the normalization.
LARGER = {"inception": (17, 18, 3), "mini_inception": (33, 34, 1)}


@pytest.mark.parametrize("name", quick(list(SMALL), 5))
def test_outputs_are_the_models_and_only_its_layers_are_left(name, tmp_path, capfd):
    trained = shared_model(name, image_shape=LARGER[name]) if name in LARGER else shared_model(name)
    path = str(tmp_path / "model.onnx")
    find_format("onnx").write(trained, path, {**metadata(trained), "accuracy": np.nan})
    assert capfd.readouterr() == ("", "")
    session, images = onnxruntime.InferenceSession(path), pixels(trained)
    for count in (7, 1):
        found, = session.run(["probabilities"], {"image": images[:count].astype(np.float32) / 255})
        np.testing.assert_allclose(found, trained.probabilities(images[:count]), rtol=0, atol=1e-5)
    assert session.get_inputs()[0].shape == ["batch", *trained.image_shape]
    assert session.get_outputs()[0].shape == ["batch", 4]
    model = onnx.load(path)
    kinds = collections.Counter(node.op_type for node in model.graph.node)
    assert kinds["BatchNormalization"] == NORMALIZATIONS.get(name, 0) and not [
        kind for kind in kinds if "Random" in kind or kind == "Dropout"]
    # One that is taken apart would be seen too: only images are multiplied with anything, where they are scaled.
    settings = trained.inference.settings
    assert kinds["Mul"] + kinds["Div"] == (settings.image_mean is not None or settings.input_range != UNIT)
    found = onnx_file.read_metadata(path)
    assert found["class_names"] == list(trained.class_names) and found["accuracy"] is None


def test_a_file_without_metadata_has_none(tmp_path):
    path = tmp_path / "model.onnx"
    onnx.save(onnx.ModelProto(), path)
    assert onnx_file.read_metadata(path) is None


def test_operations_that_cannot_be_converted_are_named(tmp_path, capfd):
    trained = with_operation(lambda x: tf.math.erfinv(tf.tanh(x)) + tf.math.igamma(tf.exp(x), tf.exp(x)))
    with pytest.raises(UsageError, match="format onnx: ONNX cannot do operations Erfinv, Igamma of this model; "
                                         "--format=saved_model,keras,weights hold every model"):
        find_format("onnx").write(trained, str(tmp_path / "model.onnx"), {})
    assert list(tmp_path.iterdir()) == [] and capfd.readouterr() == ("", "")


@pytest.mark.parametrize("missing, line", [(["tf2onnx"], "needs tf2onnx, which is not installed"),
                                           (["tf2onnx", "onnxruntime"], "needs tf2onnx, onnxruntime, which are not")])
def test_missing_packages_are_named_with_the_remedy(missing, line, tmp_path, monkeypatch):
    for name in missing:
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(UsageError, match=rf"format onnx {line}.*: pip install 'mirrorline\[onnx\]'"):
        find_format("onnx").write(trained_model("mlp"), str(tmp_path / "model.onnx"), {})
    assert list(tmp_path.iterdir()) == []
