"""Files of weights: into fresh and unbuilt models, all of them or none, and what does not fit by name."""
import keras
import numpy as np
import pytest

from pipeline.errors import UsageError
from pipeline.export.formats import weights_file
from pipeline.export.formats.weights_file import WeightsFile
from pipeline.models import registry
from pipeline.models.cnn import CNN
from pipeline.models.identity import weights_sha256
from pipeline.models.three_apis import ThreeAPIs
from tests.export import fresh_models


@pytest.fixture(scope="module")
def cnn(tmp_path_factory):
    """Returns (TrainedModel of a cnn, path of its file of weights)."""
    trained, path = fresh_models.trained_model("cnn"), str(tmp_path_factory.mktemp("cnn") / "model.weights.h5")
    WeightsFile().write(trained, path, fresh_models.metadata(trained), None)
    return trained, path


def test_an_unbuilt_model_is_built(cnn, tmp_path):
    trained, path = cnn
    model = CNN(4)
    weights_file.load_into(model, path)
    assert weights_sha256(model) == weights_sha256(trained.model)
    dropping = fresh_models.trained_model("three_apis")
    path = str(tmp_path / "model.weights.h5")
    WeightsFile().write(dropping, path, {})
    model = ThreeAPIs(4)
    weights_file.load_into(model, path)
    assert weights_sha256(model) == weights_sha256(dropping.model)  # The state of dropout's generator among them.


def test_keras_reads_the_file_itself(cnn):
    trained, path = cnn
    model = registry.create("cnn", 4, (9, 8, 3))
    model.load_weights(path)
    assert weights_sha256(model) == weights_sha256(trained.model)


def test_files_that_keras_wrote_are_read_but_do_not_say_what_to_build(cnn, tmp_path):
    trained, _ = cnn
    path, model = str(tmp_path / "model.weights.h5"), registry.create("cnn", 4, (9, 8, 3))
    trained.model.save_weights(path)
    weights_file.load_into(model, path)
    assert weights_sha256(model) == weights_sha256(trained.model)
    with pytest.raises(UsageError, match=r"call model.build\(\(None, height, width, channels\)\) first"):
        weights_file.load_into(CNN(4), path)
    with pytest.raises(UsageError, match="layer cnn/classifier: kernel is expected to be"):
        weights_file.load_into(registry.create("cnn", 5, (9, 8, 3)), path)
    with pytest.raises(UsageError, match="does not name its variables"):
        WeightsFile().read_variables(path)


@pytest.mark.parametrize("model, message", [
    (("cnn", 7, (9, 8, 3)), "layer cnn/classifier: kernel is expected to be (9216, 7), found (9216, 4)"),
    (("cnn", 4, (9, 8, 1)), "layer cnn/block1/convolution: kernel is expected to be (3, 3, 1, 32), found (3, 3, 3, 32)"
                            ),
    (("cnn", 4, (9, 9, 3)), "layer cnn/classifier: kernel is expected to be (10368, 4), found (9216, 4)"),
    (("mlp", 4, (9, 8, 3)), "4 variables are expected, found 20; not found: mlp/hidden/w (216, 64) and 3 more; found, "
                            "but not expected: cnn/block1/convolution/kernel (3, 3, 3, 32) and 19 more"),
], ids=str)
def test_weights_that_do_not_fit_are_named_and_not_loaded(cnn, model, message):
    model = registry.create(*model)
    before = weights_sha256(model)
    with pytest.raises(UsageError) as error:
        weights_file.load_into(model, cnn[1])
    assert message in str(error.value) and str(error.value).endswith("; nothing was loaded")
    assert weights_sha256(model) == before


def numbered_network(size=3):
    """Returns a model whose layers are called after a counter of the process."""
    image = keras.Input((6, 5, 1))
    x = keras.layers.Dense(size)(keras.layers.Flatten()(image))
    return keras.Model(image, keras.layers.Dense(4)(keras.layers.Dense(size)(x)))


def test_numbers_in_names_do_not_matter_but_names_do(tmp_path):
    trained, path = fresh_models.trained_model("mlp"), str(tmp_path / "model.weights.h5")
    trained.model = numbered_network()
    WeightsFile().write(trained, path, {})
    model = numbered_network()
    assert [v.path for v in model.variables] != [v.path for v in trained.model.variables]
    weights_file.load_into(model, path)
    assert weights_sha256(model) == weights_sha256(trained.model)
    # Two layers of one shape whose order was exchanged: each gets its own.
    trained.model = keras.Sequential([keras.Input((6, 5, 1)), keras.layers.Flatten(), keras.layers.Dense(30, name="a"),
                                      keras.layers.Dense(30, name="b")])
    WeightsFile().write(trained, path, {})
    model = keras.Sequential([keras.Input((6, 5, 1)), keras.layers.Flatten(), keras.layers.Dense(30, name="b"),
                              keras.layers.Dense(30, name="a")])
    weights_file.load_into(model, path)
    for name in "ab":
        np.testing.assert_array_equal(model.get_layer(name).kernel, trained.model.get_layer(name).kernel)


def test_other_files_are_refused(cnn, tmp_path):
    path = tmp_path / "cut.weights.h5"
    with open(cnn[1], "rb") as whole:
        path.write_bytes(whole.read(20_000))
    for wrong, message in ((path, "is no file of weights, or is cut short"), (tmp_path / "none", "there is no file")):
        for read in (weights_file.load_model, WeightsFile().read_variables):
            with pytest.raises(UsageError, match=message):
                read(str(wrong))
