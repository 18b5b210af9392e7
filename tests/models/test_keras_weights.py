"""--initialize_from with files that plain Keras wrote in another process, and with those that Keras publishes."""
import hashlib
import json
import os
import random
import shutil

import h5py
import keras
import numpy as np
import pytest
from keras.src.applications import mobilenet_v3
from keras.src.legacy.saving import legacy_h5_format

from pipeline.errors import UsageError
from pipeline.export import published_weights
from pipeline.export.weight_sources import find
from pipeline.internals.keras_internals import built_aside, downloaded_by, home, set_home
from pipeline.models import registry
from pipeline.models.initialization import initialize
from pipeline.models.plain import PlainModel
from pipeline.models.weight_names import named
from tests.commands import REPOSITORY, mirrorline
from tests.models.weight_server import serving
from tests.selection import quick

CLASSES = 5
# Model to (constructor of Keras, smallest size, options).
QUICK = {"mobilenet": ("MobileNet", 32, {"alpha": 0.25})}
FAMILIES = {"convnext_tiny": ("ConvNeXtTiny", 32, {}), "densenet121": ("DenseNet121", 32, {}),
            "efficientnet_b0": ("EfficientNetB0", 32, {}), "efficientnet_v2_b0": ("EfficientNetV2B0", 32, {}),
            "inception_resnet_v2": ("InceptionResNetV2", 75, {}), "inception_v3": ("InceptionV3", 75, {}),
            "mobilenet_v2": ("MobileNetV2", 32, {"alpha": 0.35}), "mobilenet_v3_large": ("MobileNetV3Large", 32, {}),
            "mobilenet_v3_small": ("MobileNetV3Small", 32, {"minimalistic": True}),
            "nasnet_mobile": ("NASNetMobile", 32, {}), "resnet50": ("ResNet50", 32, {}),
            "resnet50_v2": ("ResNet50V2", 32, {}), "vgg16": ("VGG16", 32, {}), "xception": ("Xception", 71, {})}


class Family:
    """What plain Keras wrote for an architecture, and the project's own model of it."""

    def __init__(self, name, folder, constructor, size, options, more=False):
        self.name, self.folder, self.shape = name, folder, (size, size, 3)
        self.options = [f"{option}={value}" for option, value in options.items()]
        spec = {"constructor": constructor, "size": size, "classes": CLASSES, "options": options, "more": more}
        done = mirrorline(folder, json.dumps(spec), cwd=REPOSITORY, module="tests.models.keras_writer")
        assert done.returncode == 0, done.stderr[-2000:]
        with np.load(folder / "outputs.npz") as outputs:
            self.outputs = dict(outputs)
        self._models = {}

    def model(self, classes=CLASSES, shape=None):
        """Returns the project's model, with other values than those of any file."""
        key = classes, shape or self.shape
        if key not in self._models:
            self._models[key] = registry.create(self.name, classes, key[1], self.options)
        model = self._models[key]
        for variable in named(model).values():
            variable.assign(np.full(variable.shape, 0.25))
        return model

    def plain(self, classes=CLASSES, shape=None):
        return PlainModel(self.name, classes, shape or self.shape, self.options)

    def load(self, file, classes=CLASSES, shape=None):
        """Returns (model with the weights of a file, what was loaded)."""
        model = self.model(classes, shape)
        path = file if file == "imagenet" else str(self.folder / file)
        return model, initialize(model, path, self.plain(classes, shape), find)

    def assert_equal(self, model, written):
        """Asserts that a model computes, bit for bit, what plain Keras computed with the weights it wrote."""
        expected = self.outputs[written]
        if expected.shape[1:] != (model.output_shape[-1],):
            # A layer that Keras's model shares with this one has an output in each.
            end = model.get_layer(str(self.outputs["features"]))._inbound_nodes[-1].output_tensors[0]
            model = keras.Model(model.inputs, end)
        found = keras.ops.convert_to_numpy(model([self.outputs["images"]], training=False))
        np.testing.assert_array_equal(found, expected)
        assert np.ptp(found) > 1e-3, "outputs that do not depend on the weights show nothing"


@pytest.fixture(scope="module")
def mobilenet(tmp_path_factory):
    return Family("mobilenet", tmp_path_factory.mktemp("mobilenet"), *QUICK["mobilenet"], more=True)


@pytest.fixture(scope="module", params=[*QUICK, *(pytest.param(n, marks=pytest.mark.acceptance) for n in FAMILIES)])
def family(request, tmp_path_factory, mobilenet):
    if request.param == "mobilenet":
        return mobilenet
    return Family(request.param, tmp_path_factory.mktemp(request.param), *{**QUICK, **FAMILIES}[request.param])


@pytest.mark.parametrize("file", quick(["top.weights.h5", "top.h5", "notop.weights.h5", "notop.h5"], 0, 3))
def test_outputs_equal_those_of_keras_with_the_same_file(family, file):
    model, found = family.load(file)
    written = file.partition(".")[0]
    family.assert_equal(model, written)
    assert found.form == "h5" and len(found.sha256) == 64
    assert found.unused == (("layer_normalization/gamma", "layer_normalization/beta")
                            if (family.name, written) == ("convnext_tiny", "notop") else ())
    if written == "top":
        assert not found.fresh and found.loaded == len(named(model))
    else:
        assert set(found.reasons.values()) <= {"not in the file"} | {f"after {layer}" for layer in found.reasons}
        assert found.loaded + len(found.fresh) == len(named(model)) and found.fresh


@pytest.mark.parametrize("file", quick(["trained.weights.h5", "trained.h5", "keras2.weights.h5", "tf213.weights.h5",
                                        "nested.weights.h5", "nested.h5"], 2, 3, 4))
def test_optimizers_other_names_and_models_around_do_not_matter(mobilenet, file):
    model, found = mobilenet.load(file)
    mobilenet.assert_equal(model, file.partition(".")[0])
    assert bool(found.fresh) == file.startswith("nested") and not found.unused


@pytest.mark.parametrize("file", quick(["half.weights.h5", "half.h5"], 0))
def test_half_precision_is_widened(mobilenet, file):
    model, _ = mobilenet.load(file)
    for name, variable in named(model).items():
        value = keras.ops.convert_to_numpy(variable)
        assert value.dtype == np.float32 and (value == value.astype(np.float16)).all() and (value != 0.25).any(), name


def test_images_of_another_size_take_all_of_a_convolutional_model(mobilenet):
    written = find(str(mobilenet.folder / "larger.weights.h5"), mobilenet.plain()).read()
    other, found = mobilenet.load("larger.weights.h5", shape=(48, 64, 3))
    assert not found.fresh and found.loaded == len(written)
    for name, variable in named(other).items():
        np.testing.assert_array_equal(written[name], keras.ops.convert_to_numpy(variable), err_msg=name)


@pytest.mark.acceptance
@pytest.mark.parametrize("name,options", [("vit_ti16", ["patch_size=4"]), ("resnet18_cifar", []), ("speed_cifar", []),
                                          ("cnn", []), ("resnet_like", []), ("inception", []), ("mini_inception", [])])
def test_own_models_take_files_of_keras_at_another_size(name, options, tmp_path):
    small, large = PlainModel(name, CLASSES, (32, 32, 3), options), PlainModel(name, CLASSES, (48, 48, 3), options)
    written, model = (registry.create(name, CLASSES, plain.image_shape, options) for plain in (small, large))
    written.save_weights(tmp_path / "own.weights.h5")
    with h5py.File(tmp_path / "own.h5", "w") as file:
        legacy_h5_format.save_weights_to_hdf5_group(file, written)
    for path in sorted(tmp_path.iterdir()):
        for variable in named(model).values():
            variable.assign(np.full(variable.shape, 0.25))
        found = initialize(model, str(path), large, find)
        assert set(found.reasons) == ({"classifier"} if name == "cnn" else set()), found.lines()  # Over all pixels.
        for (key, variable), other in zip(named(model).items(), named(written).values(), strict=True):
            if key not in found.fresh:
                np.testing.assert_array_equal(variable, other, err_msg=f"{path.name}: {key}")


def test_another_number_of_classes_is_told(mobilenet):
    _, found = mobilenet.load("top.h5", classes=3)
    assert found.reasons == {"conv_preds": "5 classes in the file, 3 here"}
    assert found.lines()[1].strip() == "fresh: conv_preds/kernel, conv_preds/bias (5 classes in the file, 3 here)"


@pytest.mark.parametrize("file, again", quick([("top.weights.h5", "top.h5"), ("top.h5", "top.weights.h5")], 0))
def test_a_file_of_another_architecture_tells_what_does_not_fit(mobilenet, file, again):
    other = PlainModel("mobilenet", CLASSES, mobilenet.shape, ["alpha=0.5"])
    with pytest.raises(UsageError) as error:
        initialize(mobilenet.model(), str(mobilenet.folder / file), other, find)
    assert (f"{file} does not fit: it is not of model mobilenet: conv1/kernel is expected to be (3, 3, 3, 16), "
            "found (3, 3, 3, 8)") in str(error.value)
    with pytest.raises(UsageError, match=r"it is not of model cnn: \d+ variables are expected, found \d+"):
        initialize(mobilenet.model(), str(mobilenet.folder / again), PlainModel("cnn", CLASSES, mobilenet.shape), find)


def test_a_damaged_file_and_another_order_of_channels_are_one_line(mobilenet, tmp_path):
    path = str(tmp_path / "cut.h5")
    shutil.copy(mobilenet.folder / "top.h5", path)
    with h5py.File(path, "r+") as file:
        file["model_weights"].attrs["backend"] = "theano"
    with pytest.raises(UsageError, match="cut.h5 does not fit: its kernels are in the order of Theano"):
        initialize(mobilenet.model(), path, mobilenet.plain(), find)
    with open(path, "r+b") as file:
        file.truncate(os.path.getsize(path) // 2)
    with pytest.raises(UsageError, match="cut.h5 is no file of weights, or is cut short") as error:
        initialize(mobilenet.model(), path, mobilenet.plain(), find)
    assert "\n" not in str(error.value)


def test_models_on_the_side_change_no_name_and_no_draw():
    keras.utils.set_random_seed(4)
    keras.layers.Dense(2)
    before = random.getstate()
    with built_aside():
        assert keras.layers.Dense(2).name == "dense"
        keras.layers.Dense(3).build((None, 3))
    assert random.getstate() == before
    number = keras.layers.Dense(2).name.partition("_")[2]
    assert int(number) == int(keras.layers.Dense(2).name.partition("_")[2]) - 1


@pytest.fixture
def keras_folder(tmp_path):
    """The folder of Keras's downloads, for one test."""
    before = home()
    set_home(str(tmp_path / "keras"))
    yield tmp_path / "keras" / "models"
    set_home(before)


NAME = "mobilenet_2_5_224_tf_no_top.h5"  # Keras publishes no checksum of it.


def test_published_weights_are_downloaded_once(mobilenet, keras_folder, tmp_path, monkeypatch):
    (tmp_path / "served").mkdir()
    shutil.copy(mobilenet.folder / "notop.h5", tmp_path / "served" / NAME)
    with serving(tmp_path / "served") as (address, requests, cuts):
        monkeypatch.setenv(published_weights.MIRROR, address)
        cuts.append("once")
        with pytest.raises(UsageError, match=f"--initialize_from: {NAME} cannot be downloaded .*retrieval incomplete"):
            mobilenet.load("imagenet")
        assert os.listdir(keras_folder) == []  # Nothing of it is left.
        model, found = mobilenet.load("imagenet")
        assert requests == [f"/tensorflow/keras-applications/mobilenet/{NAME}"] * 2
    mobilenet.assert_equal(model, "notop")
    assert (found.path, found.form, found.file) == ("imagenet", "imagenet", str(keras_folder / NAME))
    assert found.sha256 == hashlib.sha256((mobilenet.folder / "notop.h5").read_bytes()).hexdigest()
    mobilenet.load("imagenet")  # The server is gone.


def test_without_a_network_one_line_tells_what_to_do(mobilenet, keras_folder, monkeypatch):
    monkeypatch.setenv(published_weights.MIRROR, "http://127.0.0.1:9")
    with pytest.raises(UsageError) as error:
        mobilenet.load("imagenet")
    address = f"http://127.0.0.1:9/tensorflow/keras-applications/mobilenet/{NAME}"
    assert str(error.value) == (
        f"--initialize_from: {NAME} cannot be downloaded from {address} ([Errno 111] Connection refused): download it "
        f"elsewhere and put it into {keras_folder} as {NAME}")
    keras_folder.mkdir(parents=True, exist_ok=True)
    (keras_folder / NAME).write_bytes(b"not HDF5")
    with pytest.raises(UsageError, match=f"{NAME} cannot be read, it may be damaged: remove it"):
        mobilenet.load("imagenet")


def test_a_wrong_checksum_is_refused(keras_folder, tmp_path, monkeypatch):
    name = "weights_mobilenet_v3_small_minimalistic_224_1.0_float_no_top_v2.h5"
    plain = PlainModel("mobilenet_v3_small", CLASSES, (32, 32, 3), ["minimalistic=true"])
    with built_aside():
        plain.make(top=False).save(tmp_path / name)
    digest = hashlib.md5((tmp_path / name).read_bytes()).hexdigest()
    with serving(tmp_path) as (address, requests, _):
        monkeypatch.setenv(published_weights.MIRROR, address)
        with pytest.raises(UsageError, match="sends has another checksum than the file that Keras publishes"):
            find("imagenet", plain)
        assert os.listdir(keras_folder) == []
        shutil.copy(tmp_path / name, keras_folder / name)  # Neither is it used where somebody has put it.
        with pytest.raises(UsageError, match="another checksum"):
            find("imagenet", plain)
        monkeypatch.setitem(mobilenet_v3.WEIGHTS_HASHES, "small_minimalistic_224_1.0_float", ("", digest))
        assert find("imagenet", plain).path == str(keras_folder / name) and len(requests) == 2
        (keras_folder / name).write_bytes(b"of an earlier version")
        assert find("imagenet", plain).path == str(keras_folder / name) and len(requests) == 3
    assert hashlib.md5((keras_folder / name).read_bytes()).hexdigest() == digest


@pytest.mark.parametrize("model,options,says", [
    ("cnn", [], "Keras publishes no weights for model cnn: give a file of it"),
    ("mobilenet", ["alpha=0.3"], "alpha.*can be one of"),
])
def test_models_without_published_weights_are_refused(model, options, says):
    with pytest.raises(UsageError, match=says) as error:
        find("imagenet", PlainModel(model, CLASSES, (32, 32, 3), options))
    assert "\n" not in str(error.value)


@pytest.mark.acceptance
def test_published_weights_of_efficientnet_compute_what_keras_computes(tmp_path):
    """Keras divides by the root of the std once more, in a layer that only models with published weights have."""
    family = Family("efficientnet_b0", tmp_path, *FAMILIES["efficientnet_b0"])
    path = str(tmp_path / "notop.h5")
    with built_aside():
        published = family.plain().make(top=False)
        published.load_weights(path)
        published.get_layer("normalization").adapt_mean.assign([0.485, 0.456, 0.406])
        published.get_layer("normalization").adapt_variance.assign([0.229, 0.224, 0.225])
        published.save(path)
        with downloaded_by(lambda *_, **__: path):
            expected = family.plain().published()(family.outputs["images"], training=False)
    model, _ = family.load("notop.h5")
    end = model.get_layer(str(family.outputs["features"]))._inbound_nodes[-1].output_tensors[0]
    found = keras.Model(model.inputs, end)(family.outputs["images"], training=False)
    assert np.abs(found - expected).max() < 1e-5 * np.abs(expected).max()
