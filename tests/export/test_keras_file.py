"""Keras files: everything comes back, a file that was changed or holds code is refused, configurations round-trip."""
import io
import json
import shutil
import zipfile

import h5py
import keras
import numpy as np
import pytest

from pipeline.errors import UsageError
from pipeline.export.formats import keras_file, weights_file
from pipeline.export.formats.keras_file import KerasFile
from pipeline.export.formats.weights_file import WeightsFile
from pipeline.models import (
    blocks,
    cifar_resnets,
    cnn,
    dropout,
    inception,
    layers,
    mlp,
    normalization,
    registry,
    speed_cifar,
    three_apis,
    vit,
)
from pipeline.models.freezing import freeze
from pipeline.models.identity import variable_names, weights_sha256
from pipeline.models.image_classifier import ImageClassifier
from pipeline.models.resnet_like import ResNetLike
from pipeline.models.serialization import PACKAGE, constructor_arguments
from tests.export import fresh_models
from tests.selection import quick

CHOICES = [*((name, ()) for name in fresh_models.SMALL), ("resnet_like", ("identity_kernel=3",)),
           *(("three_apis", (f"api={api}",)) for api in three_apis.APIS[1:])]
IMAGES = (2, 20, 21, 3)
# Every class that is registered with Keras: a value for every argument, none of them the default; what it is called on.
EXAMPLES = {
    layers.Dense: (dict(units=3), (2, 5)),
    layers.ReLU: (dict(), (2, 5)),
    layers.Convolution: (dict(filters=2, kernel_size=(3, 5), strides=(2, 1), padding="same", dilation_rate=(1, 1),
                              use_bias=False, activation="relu"), IMAGES),
    normalization.BatchNormalization: (dict(momentum=0.7, epsilon=0.01, center=False, scale=False,
                                            fused_inference=False), IMAGES),
    normalization.InputNormalization: (dict(axis=(3,)), IMAGES),
    dropout.Dropout: (dict(rate=0.4, noise_shape=(None, 1, 1, 1)), IMAGES),
    blocks.ConvBlock: (dict(filters=2, kernel_size=(3, 5), strides=(2, 1), padding="valid", batch_norm_momentum=0.7),
                       IMAGES),
    blocks.InceptionBlock: (dict(filters_1x1=2, filters_3x3=3, batch_norm_momentum=0.7), IMAGES),
    blocks.DownsampleBlock: (dict(filters=2, batch_norm_momentum=0.7), IMAGES),
    blocks.ResidualBlock: (dict(channels=(2, 3, 4), identity_kernel=3, batch_norm_momentum=0.7), IMAGES),
    mlp.MLP: (dict(num_classes=3), IMAGES),
    cnn.CNN: (dict(num_classes=3, batch_norm_momentum=0.7), IMAGES),
    ResNetLike: (dict(num_classes=3, identity_kernel=3, batch_norm_momentum=0.7), IMAGES),
    inception.Inception: (dict(num_classes=3, batch_norm_momentum=0.7), IMAGES),
    inception.MiniInception: (dict(num_classes=3, batch_norm_momentum=0.7), IMAGES),
    three_apis.SubclassedNetwork: (dict(num_classes=3, batch_norm_momentum=0.7), IMAGES),
    three_apis.ThreeAPIs: (dict(num_classes=3, api="functional", batch_norm_momentum=0.7), IMAGES),
    cifar_resnets.BasicBlock: (dict(filters=2, strides=2, projected=True, batch_norm_momentum=0.7), IMAGES),
    cifar_resnets.WideBlock: (dict(filters=2, strides=2, projected=True, dropout=0.2, batch_norm_momentum=0.7), IMAGES),
    cifar_resnets.ResNet18Cifar: (dict(num_classes=3, batch_norm_momentum=0.7), IMAGES),
    cifar_resnets.WideResNet: (dict(num_classes=3, dropout=0.2, batch_norm_momentum=0.7), IMAGES),
    speed_cifar.SpeedBlock: (dict(filters=5, batch_norm_momentum=0.7), IMAGES),
    speed_cifar.SpeedCifar: (dict(num_classes=3, batch_norm_momentum=0.7), IMAGES),
    vit.QueryKeyValue: (dict(units=6), (2, 5, 4)),
    vit.SelfAttention: (dict(heads=2), (2, 5, 4)),
    vit.TransformerBlock: (dict(channels=4, heads=2, drop_path=0.2), (2, 5, 4)),
    **{model: (dict(num_classes=3, patch_size=4, drop_path=0.2), (2, 20, 24, 3))
       for model in (vit.ViTTiny, vit.ViTSmall, vit.ViTBase)},
    ImageClassifier: (dict(image_shape=(20, 21, 1), channels=3, class_names=("a", "b", "c"), image_mean=(0.4,),
                           image_deviation=(0.3,), metadata={"a": [1, {"b": None}]}, input_range="caffe"),
                      (2, 20, 21, 1)),
}
OF_KERAS = (layers.Convolution, vit.QueryKeyValue)  # Whose arguments are those of Keras's layers.
KEPT_INSIDE = {"network", "variables", "weights_sha256", "frozen"}  # Arguments that are the network's own.


def classes():
    """Returns the classes that this project has registered with Keras."""
    registered = keras.saving.get_custom_objects()
    return sorted((c for name, c in registered.items() if name.startswith(f"{PACKAGE}>")
                   and issubclass(c, keras.layers.Layer)), key=lambda c: c.__name__)


def through_json(layer):
    """Returns what Keras makes of a layer's configuration once it has been a file."""
    return keras.saving.deserialize_keras_object(json.loads(json.dumps(keras.saving.serialize_keras_object(layer))))


def in_json(layer):
    """Returns a layer's configuration as a file has it, without what its values decide."""
    config = json.loads(json.dumps(layer.get_config()))
    config.pop("weights_sha256", None)
    return config


DEEP = ("Inception", "MiniInception", "ResNetLike", "ResNet18Cifar", "WideResNet", "ViTTiny", "ViTSmall", "ViTBase")
SMALL = [i for i, c in enumerate(classes()) if c.__name__ not in DEEP]


@pytest.mark.parametrize("layer_class", quick(classes(), *SMALL), ids=lambda c: c.__name__)
def test_configurations_keep_every_argument(layer_class):
    arguments, shape = EXAMPLES[layer_class]
    for name, parameter in constructor_arguments(layer_class).items():
        if layer_class not in OF_KERAS and name not in KEPT_INSIDE:
            assert arguments[name] != parameter.default, name
    if layer_class is ImageClassifier:
        arguments = {**arguments, "network": registry.create("mlp", 3, (20, 21, 3))}
    layer = layer_class(**arguments, name="given", trainable=False, dtype="float64")
    x = np.random.default_rng(0).uniform(size=shape).astype(np.float32)
    wanted = layer(x)
    again, from_config = through_json(layer), layer_class.from_config(layer.get_config())
    for made in (again, from_config):
        assert type(made) is layer_class and in_json(made) == in_json(layer)
        assert (made.name, made.trainable, made.dtype_policy.name) == ("given", False, "float64")
        for name in set(arguments) - {"network", "metadata", "activation"}:
            assert getattr(made, name) == getattr(layer, name) == arguments[name], name
    again(x)
    assert [v.path.partition("/")[2] for v in again.variables] == [v.path.partition("/")[2] for v in layer.variables]
    again.set_weights(layer.get_weights())
    np.testing.assert_array_equal(again(x), wanted)


@pytest.mark.parametrize("name, options", quick(CHOICES, 0, 8), ids=str)
def test_every_variable_of_every_model_comes_back(name, options, tmp_path):
    trained = fresh_models.shared_model(name, *options)
    metadata, images = fresh_models.metadata(trained), fresh_models.pixels(trained)
    path, weights = str(tmp_path / "model.keras"), str(tmp_path / "model.weights.h5")
    KerasFile().write(trained, path, metadata)
    WeightsFile().write(trained, weights, metadata)
    for read in (KerasFile().read_variables(path), WeightsFile().read_variables(weights)):
        assert list(read) == variable_names(trained.model)
        for value, variable in zip(read.values(), trained.model.variables, strict=True):
            np.testing.assert_array_equal(value, variable.numpy())
    for loaded in (keras_file.load_model(path), weights_file.load_model(weights)):
        assert weights_sha256(loaded) == weights_sha256(trained.model)
        assert loaded.network.get_config() == trained.model.get_config() and loaded.metadata == metadata
        np.testing.assert_allclose(loaded(images), trained.probabilities(images), atol=1e-6)
    with zipfile.ZipFile(path) as archive:
        size = sum(v.value.shape.num_elements() * v.value.dtype.size for v in trained.model.variables)
        assert archive.getinfo("model.weights.h5").file_size < 1.2 * size + 200_000  # Not twice.


@pytest.mark.parametrize("name, patterns", [("cnn", ("block1", "block?/norm/gamma")), ("three_apis", ("backbone",))])
def test_frozen_variables_are_frozen_again(name, patterns, tmp_path):
    trained = fresh_models.trained_model(name)
    freeze(trained.model, patterns, (*trained.image_shape[:2], trained.inference.settings.image_channels))
    path, weights = str(tmp_path / "model.keras"), str(tmp_path / "model.weights.h5")
    KerasFile().write(trained, path, {})
    WeightsFile().write(trained, weights, fresh_models.metadata(trained))
    wanted = [(layer.name, layer.trainable) for layer in trained.model._flatten_layers() if layer.variables]
    names = [v.path for v in trained.model.trainable_variables]
    assert {name for name, trains in wanted if not trains} >= {"cnn": {"block1", "norm"}, "three_apis": {"norm1"}}[name]
    assert 0 < len(names) < len(trained.model.variables)
    for loaded in (keras.saving.load_model(path), weights_file.load_model(weights)):
        assert [(x.name, x.trainable) for x in loaded.network._flatten_layers() if x.variables] == wanted
        assert [v.path for v in loaded.network.trainable_variables] == names == [
            v.path for v in loaded.trainable_variables]
        keras.saving.save_model(loaded, path)  # And so on.
        assert [v.path for v in keras.saving.load_model(path).network.trainable_variables] == names


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """Returns (TrainedModel of a small model, path of its Keras file)."""
    trained, path = fresh_models.trained_model("three_apis"), str(tmp_path_factory.mktemp("keras") / "model.keras")
    KerasFile().write(trained, path, {})
    return trained, path


@pytest.fixture
def exported(written, tmp_path):
    """Returns (TrainedModel of a small model, path of a copy of its Keras file)."""
    return written[0], shutil.copy(written[1], tmp_path)


def rewrite(path, change):
    """Replaces the files of an archive: change(name, bytes) returns the new bytes, or None to leave it out."""
    with zipfile.ZipFile(path) as archive:
        files = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in files.items():
            if (changed := change(name, data)) is not None:
                archive.writestr(name, changed)


def change_weights(change):
    """Returns a function for `rewrite` that changes the open HDF5 file of weights."""
    def changed(name, data):
        if not name.endswith(".h5"):
            return data
        file = io.BytesIO(data)
        with h5py.File(file, "a") as weights:
            change(weights)
        return file.getvalue()
    return changed


def halve_first(weights):
    weights["vars/0"][...] = weights["vars/0"][...] / 2


def change_config(**values):
    """Returns a function for `rewrite` that sets arguments of the network."""
    def changed(name, data):
        if name == "config.json":
            config = json.loads(data)
            config["config"]["network"]["config"].update(values)
            data = json.dumps(config).encode()
        return data
    return changed


@pytest.mark.parametrize("change, message", [
    (change_weights(halve_first), "the weights in the file are not those that were saved"),
    (change_weights(lambda weights: weights.pop("vars/3")), "holds 14 variables, the model has 15"),
    (change_config(num_classes=7), "layer three_apis/network/classifier: kernel is expected to be (64, 7), found "
                                   "(64, 4)"),
    (change_config(api="unheard"), "unknown api 'unheard'"),
    (lambda name, data: data if name == "config.json" else None, "model.weights.h5"),
    (lambda name, data: None if name == "config.json" else data, "is no Keras file, or is cut short"),
], ids=range(6))
def test_a_file_that_was_changed_is_not_loaded_unnoticed(exported, change, message):
    _, path = exported
    rewrite(path, change)
    with pytest.raises(UsageError) as error:
        keras_file.load_model(path)
    assert message in str(error.value) and path in str(error.value) and "\n" not in str(error.value)
    with pytest.raises((ValueError, KeyError, UsageError)):
        keras.saving.load_model(path)


def test_a_model_that_cannot_be_built_is_not_loaded_unnoticed(exported, monkeypatch):
    monkeypatch.setattr(three_apis.ThreeAPIs, "build", lambda self, input_shape: 1 / 0)
    with pytest.warns(UserWarning, match="cannot be built automatically"), pytest.raises(UsageError) as error:
        keras_file.load_model(exported[1])
    assert "not found" in str(error.value) or "15" in str(error.value)


@keras.saving.register_keras_serializable("tests")
class Nested(keras.Model):
    """A user's model with layers wherever Python can keep them."""

    def __init__(self, num_classes=4, **kwargs):
        super().__init__(**kwargs)
        self.num_classes = num_classes
        self.nested = [[keras.layers.Dense(5), [keras.layers.Dense(4)]], {"a": (keras.layers.Dense(3),)}]
        self.unordered = {keras.layers.Dense(num_classes)}
        self.flatten = keras.layers.Flatten()

    def build(self, input_shape):
        self.compute_output_spec(keras.KerasTensor(input_shape))

    def call(self, x, training=False):
        (first, (second,)), inner = self.nested
        (last,) = self.unordered
        return last(inner["a"][0](second(first(self.flatten(x)))))

    def get_config(self):
        return {**super().get_config(), "num_classes": self.num_classes}


def test_layers_in_any_container_come_back(tmp_path):
    trained = fresh_models.trained_model("mlp")
    trained.model = Nested()
    trained.model.build((None, *trained.image_shape))
    fresh_models.perturb(trained.model)
    path, weights, images = str(tmp_path / "a.keras"), str(tmp_path / "a.weights.h5"), fresh_models.pixels(trained)
    KerasFile().write(trained, path, {})
    WeightsFile().write(trained, weights, {})
    loaded, fresh = keras_file.load_model(path), Nested()
    weights_file.load_into(fresh, weights)
    assert weights_sha256(loaded) == weights_sha256(fresh) == weights_sha256(trained.model)
    assert len(fresh.variables) == len(KerasFile().read_variables(path)) == 8
    np.testing.assert_allclose(loaded(images), keras_file.image_classifier(trained, {})(images), atol=1e-6)


def test_code_in_a_file_is_refused_with_the_reason(tmp_path):
    path = str(tmp_path / "model.keras")
    inner = keras.Sequential([keras.Input((2,)), keras.layers.Lambda(lambda x: x * 2), keras.layers.Dense(2)])
    keras.Sequential([keras.Input((2,)), inner]).save(path)
    for refuse in (keras_file.load_model, KerasFile().read_variables):
        with pytest.raises(UsageError, match="is refused: it holds a Lambda layer, that is Python code by the "
                                             "author of the file, which would run here") as error:
            refuse(path)
        assert "\n" not in str(error.value)


def test_files_of_keras_alone_are_read_too(tmp_path):
    path, model = str(tmp_path / "model.keras"), registry.create("mlp", 3, (4, 5, 1))
    model.save(path)
    read = KerasFile().read_variables(path)
    assert {name: value.tobytes() for name, value in read.items()} == {
        v.path: v.numpy().tobytes() for v in model.variables}
    rewrite(path, lambda name, data: data.replace(b"mirrorline>MLP", b"elsewhere>Net"))
    with pytest.raises(UsageError, match="needs MLP, which is not registered with Keras: import the module"):
        keras_file.load_model(path)
    with pytest.raises(UsageError, match="there is no file"):
        KerasFile().read_variables(str(tmp_path / "none.keras"))
