"""A functional model made of constants, in every form of an export: the same outputs, and images as its only input."""
import keras
import numpy as np
import onnxruntime
import pytest
import tensorflow as tf
from ai_edge_litert.interpreter import Interpreter

from pipeline.choices import EXPORT_FORMATS
from pipeline.export.export_format import find_format
from pipeline.export.formats import keras_file, weights_file
from pipeline.models import registry
from tests.export.fresh_models import metadata, pixels, trained_model
from tests.selection import quick

ROUNDED = {"tflite_float16": 5e-3, "tflite_dynamic": 0.1, "tflite_int8": 0.1}


@pytest.fixture(scope="module")
def trained():
    """TrainedModel of the extension's model, which nobody knows afterwards."""
    from tests.extension.constants import SHAPE  # Registers the model, here where it is removed again.
    yield trained_model("constants", image_shape=SHAPE)
    del registry.MODELS.registered["constants"]


def of_tflite(path, images):
    """Returns what a TFLite file computes of uint8 images, one by one."""
    interpreter, found = Interpreter(str(path)), []
    interpreter.allocate_tensors()
    (into,), (out,) = interpreter.get_input_details(), interpreter.get_output_details()
    for image in images:
        given = image if into["dtype"] == np.uint8 else image.astype(np.float32) / 255
        interpreter.set_tensor(into["index"], given[None])
        interpreter.invoke()
        scale = out["quantization"][0] or 1.0
        found.append(interpreter.get_tensor(out["index"])[0].astype(np.float32) * scale)
    return np.array(found)


def of_onnx(path, images):
    session = onnxruntime.InferenceSession(str(path))
    assert [taken.name for taken in session.get_inputs()] == ["image"]
    return session.run(["probabilities"], {"image": images.astype(np.float32) / 255})[0]


READ = {
    "saved_model": lambda path, images: tf.saved_model.load(str(path)).signatures["serving_uint8"](
        tf.constant(images))["probabilities"].numpy(),
    "keras": lambda path, images: keras.ops.convert_to_numpy(keras_file.load_model(str(path))(images)),
    "weights": lambda path, images: keras.ops.convert_to_numpy(weights_file.load_model(str(path))(images)),
    "onnx": of_onnx}


@pytest.mark.parametrize("name", quick(list(EXPORT_FORMATS), 0, 1, 3, 7))
def test_constants_of_a_functional_model_are_in_every_format(name, trained, tmp_path):
    images, path = pixels(trained), tmp_path / (find_format(name).file or "model")
    find_format(name).write(trained, str(path), metadata(trained), images)
    found = READ.get(name, of_tflite)(path, images)
    np.testing.assert_allclose(found, trained.probabilities(images), rtol=0, atol=ROUNDED.get(name, 1e-5))
