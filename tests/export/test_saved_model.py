"""SavedModels and Keras files as others load them: with TensorFlow alone, and with pipeline importable.

In make acceptance; in make test test_fresh_process loads each form by the function that such a process calls.
"""
import json
import pathlib
import subprocess
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf
from PIL import Image
from tensorflow.core.protobuf import saved_model_pb2

from pipeline.data.image_reader import ImageReader
from pipeline.errors import UsageError
from pipeline.export.formats.keras_file import KerasFile
from pipeline.export.formats.saved_model import SavedModel
from pipeline.export.formats.weights_file import WeightsFile
from pipeline.models.identity import variable_names
from pipeline.models.mlp import MLP
from pipeline.training.settings import preprocess
from tests.export import fresh_models, without_project
from tests.selection import quick

# Between them: grey and colour, normalized or not, one channel repeated to three, dropout, and both normalizations.
MODELS = {"cnn": (), "three_apis": ("api=sequential",)}
RATE = 0.1


class Stranger:
    """One exported model and its outputs in a process without this project.

    Attributes:
      name: of the model.
      trained: TrainedModel, after the same SGD step.
      metadata: dict that was exported with it.
      folder: where it lies, see without_project.
      found: {what: array} that it said, see without_project.
      live: the same, of the live model.
    """

    def __init__(self, name, options, folder):
        self.name, self.trained, self.folder = name, fresh_models.trained_model(name, *options), folder
        self.metadata = fresh_models.metadata(self.trained)
        folder.mkdir()
        SavedModel().write(self.trained, str(folder / "saved_model"), self.metadata)
        KerasFile().write(self.trained, str(folder / "model.keras"), self.metadata)
        images, labels = fresh_models.pixels(self.trained), np.arange(7, dtype=np.int32) % 4
        files = self._image_files()
        np.save(folder / "images.npy", images)
        np.save(folder / "labels.npy", labels)
        (folder / "files").write_text(json.dumps(files))
        reader = ImageReader(self.trained.preprocessing)
        read = np.stack([reader.read(folder / name) for name in files])
        self.live = {"images": self.trained.probabilities(images), "files": self.trained.probabilities(read),
                     "logits": self.trained.logits(images),
                     "before": [v.numpy() for v in self.trained.model.variables], "loss": self._step(images, labels)}

    def _image_files(self):
        """Writes image files of many sizes and kinds; returns their names."""
        names = []
        for number, name in enumerate(("a.png", "b.jpg", "c.bmp", "d.gif", "e.jpg")):
            coarse = np.random.default_rng(number).integers(0, 256, (4, 5, 3), np.uint8)
            Image.fromarray(coarse).resize((30 + number, 47), Image.Resampling.BICUBIC).save(self.folder / name)
            names.append(name)
        return names

    def _step(self, images, labels):
        """Takes the step that without_project takes, with the live Keras model."""
        model, seen = self.trained.model, preprocess(tf.constant(images), self.trained.inference.settings)
        optimizer = keras.optimizers.SGD(RATE)
        with tf.GradientTape() as tape:
            loss = tf.reduce_mean(tf.nn.sparse_softmax_cross_entropy_with_logits(labels, model(seen, training=True)))
        gradients = tape.gradient(loss, [v.value for v in model.trainable_variables], unconnected_gradients="zero")
        optimizer.apply(gradients, model.trainable_variables)
        return loss.numpy()


@pytest.fixture(scope="module", params=quick(list(MODELS)))
def stranger(request, tmp_path_factory):
    """Returns the Stranger of a model."""
    folder, root = tmp_path_factory.mktemp("stranger"), pathlib.Path(__file__).parents[2]
    exported = folder / "exported"
    exported.mkdir()
    found = Stranger(request.param, MODELS[request.param], exported / request.param)
    done = subprocess.run([sys.executable, "-I", without_project.__file__, str(exported), str(root)], cwd=folder,
                          capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr[-3000:]
    with np.load(found.folder / "found.npz") as output:
        found.found = dict(output)
    return found


def test_signatures_compute_what_the_trained_model_computes(stranger):
    live, found = stranger.live, stranger.found
    names = np.array([n.encode() for n in stranger.trained.class_names], object)
    for signature, wanted in (("serving_default", "images"), ("serving_uint8", "images"),
                              ("serving_bytes", "files")):
        bound = 1e-5 if wanted == "images" else 2e-3  # A resized image may differ by a level here and there.
        output = {key: found[f"saved_model/{signature}/{key}"] for key in ("probabilities", "class_ids", "class_names")}
        assert output["probabilities"].dtype == np.float32
        np.testing.assert_allclose(output["probabilities"], live[wanted], atol=bound)
        np.testing.assert_allclose(output["probabilities"].sum(axis=-1), 1, atol=1e-5)
        np.testing.assert_array_equal(output["class_ids"], output["probabilities"].argmax(axis=-1))
        np.testing.assert_array_equal(output["class_names"].astype(bytes), names[output["class_ids"]].astype(bytes))
    assert live["images"].max() < 0.999 and np.ptp(live["images"], axis=0).max() > 1e-3  # They say something.
    for key, signature in (("floats", "serving_default"), ("bytes", "serving_bytes")):
        whole = found[f"saved_model/{signature}/probabilities"]
        np.testing.assert_allclose(found[f"saved_model/one/{key}"], whole[:1], atol=1e-6)
    np.testing.assert_allclose(found["saved_model/logits"], live["logits"], rtol=1e-5, atol=1e-5)
    assert [n.decode() for n in found["saved_model/class_names"]] == list(stranger.trained.class_names)
    assert json.loads(found["saved_model/metadata"].item()) == stranger.metadata


def test_a_training_step_of_the_loaded_model_is_that_of_the_trained_one(stranger):
    model, found = stranger.trained.model, stranger.found
    variables, ids = model.variables, [id(v) for v in model.variables]
    assert found["saved_model/trainable"].tolist() == [ids.index(id(v)) for v in model.trainable_variables]
    np.testing.assert_allclose(found["saved_model/loss"], stranger.live["loss"], rtol=1e-6)
    for number, (variable, before) in enumerate(zip(variables, stranger.live["before"], strict=True)):
        np.testing.assert_allclose(found[f"saved_model/after/{number}"], variable.numpy(), atol=1e-6,
                                   err_msg=variable.path)
        # A bias that the normalization after it removes.
        frozen = stranger.name == "cnn" and variable.path.endswith("convolution/bias")
        assert np.any(variable.numpy() != before) != frozen, variable.path
    assert f"saved_model/after/{len(variables)}" not in found


def test_the_layout_is_that_of_tensorflow_serving(stranger):
    folder, shape = stranger.folder / "saved_model", list(stranger.trained.image_shape)
    stored = saved_model_pb2.SavedModel.FromString((folder / "saved_model.pb").read_bytes())
    graph, = stored.meta_graphs
    assert list(graph.meta_info_def.tags) == ["serve"]
    for name, (dtype, size, key) in {"serving_default": (tf.float32, [-1, *shape], "image"),
                                      "serving_uint8": (tf.uint8, [-1, *shape], "image"),
                                      "serving_bytes": (tf.string, [-1], "image_bytes")}.items():
        signature = graph.signature_def[name]
        assert signature.method_name == "tensorflow/serving/predict"
        (taken, spec), = signature.inputs.items()
        assert (taken, spec.dtype, [d.size for d in spec.tensor_shape.dim]) == (key, dtype.as_datatype_enum, size)
        given = {key: (tf.as_dtype(spec.dtype), [d.size for d in spec.tensor_shape.dim])
                 for key, spec in signature.outputs.items()}
        assert given == {"probabilities": (tf.float32, [-1, 4]), "class_ids": (tf.int64, [-1]),
                         "class_names": (tf.string, [-1])}
    assert json.loads((folder / "assets.extra" / "metadata.json").read_text()) == stranger.metadata


def test_a_keras_file_loads_once_pipeline_is_imported(stranger):
    live, found = stranger.live, stranger.found
    for taken in ("floats", "uint8"):
        np.testing.assert_allclose(found[f"keras/{taken}"], live["images"], atol=1e-5)
    for number, value in enumerate(live["before"]):
        np.testing.assert_array_equal(found[f"keras/variable/{number}"], value)
    assert f"keras/variable/{len(live['before'])}" not in found
    assert tuple(found["keras/class_names"]) == stranger.trained.class_names
    assert json.loads(found["keras/metadata"].item()) == stranger.metadata


def test_variables_are_read_by_name_without_running_anything(stranger, tmp_path):
    read = SavedModel().read_variables(str(stranger.folder / "saved_model"))
    assert list(read) == variable_names(stranger.trained.model)
    for value, before in zip(read.values(), stranger.live["before"], strict=True):
        np.testing.assert_array_equal(value, before)
    with pytest.raises(UsageError, match="is no SavedModel"):
        SavedModel().read_variables(str(tmp_path))
    (tmp_path / "saved_model.pb").write_bytes(b"")
    with pytest.raises(UsageError, match="was not written by mirrorline export; give a .keras file"):
        SavedModel().read_variables(str(tmp_path))


def test_another_precision_is_not_exported(tmp_path):
    trained = fresh_models.trained_model("mlp")
    trained.model = MLP(4, dtype="mixed_float16")
    trained.model.build((None, *trained.image_shape))
    for written, file in ((SavedModel(), "1"), (KerasFile(), "model.keras"), (WeightsFile(), "model.weights.h5")):
        with pytest.raises(ValueError, match="is of float16; an export is written in float32"):
            written.write(trained, str(tmp_path / file), {})
    assert not any(tmp_path.iterdir())
