"""TFLite files: what they compute, what is left of the model in them, what they carry, and what cannot be written."""
import collections

import numpy as np
import pytest
import tensorflow as tf
from ai_edge_litert.interpreter import Interpreter

from pipeline.errors import UsageError
from pipeline.export.export_format import find_format
from pipeline.export.formats import tflite
from pipeline.export.frozen import freeze
from pipeline.export.long_sums import split_long_sums
from pipeline.preprocessing import UNIT
from tests.export.fresh_models import SMALL, metadata, pixels, shared_model, trained_model
from tests.export.unconvertible import with_operation
from tests.selection import quick

# All that may be there: layers, and what keeps the batch of any size. MUL and ADD are counted.
LAYERS = {"CONV_2D", "FULLY_CONNECTED", "MAX_POOL_2D", "AVERAGE_POOL_2D", "MEAN", "CONCATENATION", "RELU", "PAD",
          "SOFTMAX", "MUL", "ADD", "SUB", "SHAPE", "STRIDED_SLICE", "PACK", "RESHAPE", "EXPAND_DIMS", "TILE",
          "SPLIT_V", "ADD_N"}
# Sums of their own: residual branches; the bias behind products that are added up in parts.
SUMS = {"resnet_like": 3, "cnn": 1}
# three_apis normalizes what pooling and ReLU have made: there is no layer right before it that could take it in.
UNFOLDED = {"three_apis": 2}
FORMATS = {"float32": "tflite", "float16": "tflite_float16", "dynamic": "tflite_dynamic", "int8": "tflite_int8"}


def outputs(path, images):
    """Runs a file on the images [n, H, W, C] as it takes them; returns its outputs as they are."""
    interpreter = Interpreter(str(path))
    (taken,), (given,) = interpreter.get_input_details(), interpreter.get_output_details()
    interpreter.resize_tensor_input(taken["index"], images.shape)
    interpreter.allocate_tensors()
    interpreter.set_tensor(taken["index"], images)
    interpreter.invoke()
    return interpreter.get_tensor(given["index"])


def operations(path):
    return collections.Counter(name for name, _ in tflite.operations(path.read_bytes()))


@pytest.mark.parametrize("name", quick(list(SMALL), 5))
def test_outputs_are_the_models_and_only_its_layers_are_left(name, tmp_path):
    trained, path = shared_model(name), tmp_path / "model.tflite"
    find_format("tflite").write(trained, str(path), {})
    images = pixels(trained)
    for count in (7, 1):
        np.testing.assert_allclose(outputs(path, images[:count].astype(np.float32) / 255),
                                   trained.probabilities(images[:count]), rtol=0, atol=1e-5)
    settings = trained.inference.settings
    found, ranged = operations(path), settings.input_range != UNIT
    scaled = settings.image_mean is not None or ranged
    assert set(found) <= {*LAYERS, *(("REVERSE_V2",) if ranged else ())}
    # A batch normalization that is not folded is a product and a sum.
    assert found["MUL"] == UNFOLDED.get(name, 0) + scaled
    assert found["ADD"] == UNFOLDED.get(name, 0) + SUMS.get(name, 0)


@pytest.fixture(scope="module")
def kinds(tmp_path_factory):
    """(TrainedModel, its images, {kind: path}) of the four kinds."""
    trained, folder = trained_model("cnn", image_shape=(14, 14, 3)), tmp_path_factory.mktemp("kinds")
    images, paths = pixels(trained, 40), {}
    for kind in FORMATS:
        paths[kind] = folder / f"{kind}.tflite"
        find_format(FORMATS[kind]).write(trained, str(paths[kind]), {**metadata(trained), "accuracy": np.nan}, images)
    return trained, images, paths


def test_quantized_formats_are_smaller_and_close(kinds):
    trained, images, paths = kinds
    sizes, live = {kind: path.stat().st_size for kind, path in paths.items()}, trained.probabilities(images)
    assert sizes["float16"] < 0.52 * sizes["float32"] and max(sizes["dynamic"], sizes["int8"]) < 0.3 * sizes["float32"]
    for kind, bound in (("float16", 1e-2), ("dynamic", 0.05)):
        found = outputs(paths[kind], images.astype(np.float32) / 255)
        assert found.dtype == np.float32 and 0 < np.abs(found - live).max() < bound


def test_int8_takes_pixels_and_computes_in_integers(kinds):
    trained, images, paths = kinds
    interpreter = Interpreter(str(paths["int8"]))
    (taken,), (given,) = interpreter.get_input_details(), interpreter.get_output_details()
    assert taken["dtype"] == given["dtype"] == np.uint8
    assert taken["quantization"] == (np.float32(1 / 255), 0) and given["quantization"] == (1 / 256, 0)
    assert {t for _, types in tflite.operations(paths["int8"].read_bytes()) for t in types} <= {
        "int8", "uint8", "int32"}
    found = outputs(paths["int8"], images) / 256
    assert np.abs(found - trained.probabilities(images)).max() < 0.06


def test_the_input_scale_is_that_of_pixels(tmp_path):
    trained, path = trained_model("mlp"), tmp_path / "model.tflite"
    grey = np.full((3, *trained.image_shape), 100, np.uint8)
    find_format("tflite_int8").write(trained, str(path), {}, grey)
    assert Interpreter(str(path)).get_input_details()[0]["quantization"] == (np.float32(1 / 255), 0)
    assert (grey == 100).all()


def test_long_sums_in_floats_are_split(kinds):
    found = {kind: operations(path) for kind, path in kinds[2].items()}
    parts = -(-14 * 14 * 128 // 4096)  # The dense layer behind the last of 128 filters.
    assert {kind: operations["FULLY_CONNECTED"] for kind, operations in found.items()} == {
        "float32": parts, "float16": parts, "dynamic": 1, "int8": 1}


def test_a_split_sum_is_the_sum():
    function = freeze(trained_model("mlp"))  # 30 pixels, then 64 units.
    assert split_long_sums(function) is function
    images = tf.random.uniform([3, 6, 5, 1], seed=1)
    split = split_long_sums(function, 25)
    assert len([node for node in split.graph.as_graph_def().node if node.op == "MatMul"]) == 2 + 3
    np.testing.assert_allclose(split(images)["probabilities"], function(images)["probabilities"], rtol=1e-5)


def test_split_sums_are_more_accurate(tmp_path):
    weights = np.random.default_rng(0).uniform(0, 1, (100_000, 4)).astype(np.float32)
    rows = np.random.default_rng(1).uniform(0, 1, (5, 100_000)).astype(np.float32)
    whole = tf.compat.v1.wrap_function(lambda x: {"y": tf.matmul(x, weights)}, [tf.TensorSpec([5, 100_000])])
    errors = []
    for function in (whole, split_long_sums(whole)):
        path = tmp_path / "model.tflite"
        path.write_bytes(tf.lite.TFLiteConverter.from_concrete_functions([function], tf.Module()).convert())
        errors.append(np.abs(outputs(path, rows) / (rows.astype(np.float64) @ weights) - 1).max())
    assert errors[1] < errors[0] / 3 and errors[1] < 1e-6


def test_metadata_and_labels_are_in_the_file(kinds):
    import zipfile
    trained, _, paths = kinds
    for path in paths.values():
        found = tflite.read_metadata(path)
        assert found == {**metadata(trained), "preprocessing": found["preprocessing"], "accuracy": None}
        assert found["preprocessing"]["mean"] == list(trained.inference.settings.image_mean)
        with zipfile.ZipFile(path) as archive:
            assert archive.read("labels.txt").decode().splitlines() == list(trained.class_names)


def test_a_file_without_metadata_has_none(tmp_path):
    path = tmp_path / "model.tflite"
    path.write_bytes(tf.lite.TFLiteConverter.__name__.encode())
    assert tflite.read_metadata(path) is None


def test_names_of_inputs_and_outputs(kinds):
    runner = Interpreter(str(kinds[2]["float32"])).get_signature_runner()
    found = runner(image=kinds[1][:3].astype(np.float32) / 255)
    np.testing.assert_allclose(found["probabilities"], kinds[0].probabilities(kinds[1][:3]), atol=1e-5)


@pytest.mark.parametrize("kind, operation, line", [
    ("float32", lambda x: tf.math.erfinv(tf.tanh(x)) + tf.math.igamma(tf.exp(x), tf.exp(x)),
     r"format tflite: TFLite cannot do operations Erfinv, Igamma of this model; --format=saved_model,"),
    ("int8", tf.math.erfinv, r"format tflite_int8: TFLite cannot do operation Erfinv of"),
    ("int8", tf.nn.elu, r"format tflite_int8: TFLite's int8 cannot do operation ELU of this model; "
                        r"--format=tflite_dynamic"),
])
def test_an_operation_that_cannot_be_converted_is_named(kind, operation, line, tmp_path, capfd):
    trained = with_operation(operation)
    with pytest.raises(UsageError, match=line) as error:
        find_format(FORMATS[kind]).write(trained, str(tmp_path / "model.tflite"), {}, pixels(trained))
    assert "\n" not in str(error.value) and list(tmp_path.iterdir()) == []
    assert capfd.readouterr() == ("", "")


def test_int8_needs_images(tmp_path):
    for images in (None, np.zeros((0, 6, 5, 1), np.uint8)):
        with pytest.raises(UsageError, match="calibrated with images of the training split"):
            find_format("tflite_int8").write(trained_model("mlp"), str(tmp_path / "model.tflite"), {}, images)


def test_converters_are_quiet(tmp_path, capfd):
    trained = trained_model("mlp")
    find_format("tflite").write(trained, str(tmp_path / "model.tflite"), {})
    find_format("tflite_int8").write(trained, str(tmp_path / "model.tflite"), {}, pixels(trained))
    assert capfd.readouterr() == ("", "")
