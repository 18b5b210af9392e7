"""--initialize_from: a run starts from any form of a trained model, and from nothing that does not fit."""
import dataclasses
import json
import os
import shutil

import h5py
import keras
import numpy as np
import pytest
from keras.src.legacy.saving import legacy_h5_format

from pipeline.errors import UsageError
from pipeline.evaluation.trained_model import TrainedModel
from pipeline.export.export_format import find_format
from pipeline.export.weight_sources import find
from pipeline.files import write_json
from pipeline.models import registry
from pipeline.models.initialization import Initialization, initialize
from pipeline.models.plain import PlainModel
from pipeline.models.weight_matching import match
from pipeline.models.weight_names import named
from pipeline.run_directory import RunDirectory
from pipeline.training.checkpoint import CheckpointStore
from pipeline.training.run_records import describe
from tests.selection import quick
from tests.training.small import build, run

SHAPE = (28, 28, 3)
PLAIN = PlainModel("three_apis", 10, SHAPE)
FILES = {"saved_model": "export/saved_model", "keras": "export/keras/2/model.keras",
         "weights": "export/weights/2/model.weights.h5", "checkpoint": "run",
         "keras of Keras's own making": "plain.keras", "h5 of Keras's own making": "plain.weights.h5",
         "h5 of Keras 2": "plain.h5"}


def arrays(model):
    return {name: keras.ops.convert_to_numpy(v) for name, v in named(model).items()}


def fresh(classes=10, model="three_apis", shape=SHAPE, **options):
    keras.utils.set_random_seed(7)
    return registry.create(model, classes, shape, **options)


@pytest.fixture(scope="module")
def trained(strategy, tmp_path_factory):
    """(folder with a run of three_apis and its exports, its variables)."""
    folder = tmp_path_factory.mktemp("trained")
    experiment = build(strategy(1), model="three_apis", precision="float32")
    directory = RunDirectory(str(folder / "run"))
    os.makedirs(directory.path)
    write_json(directory.file("config.json"), describe(experiment))
    store = CheckpointStore(directory.file("checkpoints"), experiment.state, keep=3)
    for step in (1, 2):
        run(experiment, 1, start=step - 1)
        store.save(step, best=step == 2)
    store.sync()
    experiment.state.model.save(folder / "plain.keras")
    experiment.state.model.save_weights(folder / "plain.weights.h5")
    with h5py.File(folder / "plain.h5", "w") as file:
        legacy_h5_format.save_weights_to_hdf5_group(file, experiment.state.model)
    model = TrainedModel.load(directory)
    for form in ("saved_model", "keras", "weights"):
        for version in ("2", "10.unproved"):
            os.makedirs(folder / "export" / form / version)
        written = find_format(form)
        written.write(model, str(folder / "export" / form / "2" / written.file), {})
    return folder, arrays(experiment.state.model)


@pytest.mark.parametrize("form", quick(list(FILES), 0, 1, 2, 3, 4))  # The last two: test_keras_weights.
def test_every_format_gives_the_weights_of_its_model(trained, form):
    folder, values = trained
    model = fresh()
    found = initialize(model, str(folder / FILES[form]), PLAIN, find)
    assert (found.form, found.loaded, found.fresh, found.unused) == (form.split()[0], len(values), (), ())
    assert len(found.sha256) == 64
    for name, value in arrays(model).items():
        np.testing.assert_array_equal(value, values[name], err_msg=name)


@pytest.mark.parametrize("form", quick(list(FILES), 1, 4))  # The first four are matched alike.
def test_a_head_for_other_classes_is_fresh(trained, form):
    folder, values = trained
    again = fresh(classes=4)
    before = arrays(again)
    found = initialize(again, str(folder / FILES[form]), dataclasses.replace(PLAIN, num_classes=4), find)
    assert found.fresh == ("network/classifier/kernel", "network/classifier/bias")
    assert found.reasons == {"network/classifier": "10 classes in the file, 4 here"}
    assert found.lines()[1:] == ["        fresh: network/classifier/kernel, network/classifier/bias (10 classes in the "
                                 "file, 4 here)"]
    for name, value in arrays(again).items():
        np.testing.assert_array_equal(value, (before if name in found.fresh else values)[name], err_msg=name)
    assert Initialization.stored(json.loads(json.dumps({"initialization": dataclasses.asdict(found)}))) == found


def test_every_replica_begins_with_the_weights_of_the_file(trained, strategy):
    folder, values = trained
    experiment = build(strategy(2), model="three_apis", precision="float32",
                       initialize_from=str(folder / "plain.weights.h5"))
    for variable in experiment.state.model.variables:
        first, second = (np.asarray(v) for v in experiment.strategy.experimental_local_results(variable.value))
        np.testing.assert_array_equal(first, second, err_msg=variable.path)
    for name, value in arrays(experiment.state.model).items():
        np.testing.assert_array_equal(value, values[name], err_msg=name)


def test_a_file_that_changed_since_the_run_began_is_refused(trained):
    folder, _ = trained
    path = str(folder / FILES["keras"])
    began = Initialization(path, path, "keras", "0" * 64, 1, (), ())
    with pytest.raises(UsageError, match="no longer what this run was started from.*another --workdir"):
        initialize(fresh(), path, PLAIN, find, began)
    initialize(fresh(), str(folder / "run"), PLAIN, find, began)  # Another file was asked for.


def test_moving_statistics_continue_from_those_of_the_file(trained, strategy):
    folder, values = trained
    experiment = build(strategy(1), model="three_apis", precision="float32", initialize_from=str(folder / "run"),
                       batch_norm_momentum=0.99, ema_decay=0.5)
    np.testing.assert_array_equal(experiment.state.ema[0].numpy(), values["network/convolution1/kernel"])
    run(experiment, 1)
    after = arrays(experiment.state.model)
    for name in (n for n in values if n.endswith("moving_variance")):
        # A hundredth of the way to the batch's, not all of it as in a run that begins at nothing.
        assert 0 < np.abs(after[name] - values[name]).max() < 0.02 * np.abs(values[name]).max()


WANTED = {"stem/kernel": (3, 3, 1, 8), "stem/bias": (8,), "head/kernel": (8, 10), "head/bias": (10,)}
HEAD = {"head/kernel", "head/bias"}


def found_file(**changed):
    """Returns what a file of the model of WANTED holds, with shapes changed or, with None, left out; __ for /."""
    shapes = {**WANTED, **{name.replace("__", "/"): shape for name, shape in changed.items()}}
    return {f"net/{name}": np.ones(shape, np.float32) for name, shape in shapes.items() if shape is not None}


def test_variables_are_matched_by_path_and_shape():
    file = {**found_file(head__bias=(5,), extra__kernel=(2, 2)), "net/seed": np.ones(2, np.uint32)}
    found = match(WANTED, HEAD, file, "FILE")
    # The kernel of the head would fit; a layer of which one part is trained and one is not makes no sense.
    assert set(found.loaded) == {"stem/kernel", "stem/bias"} and set(found.fresh) == HEAD
    assert found.unused == ("extra/kernel",)


NET = {"conv1/kernel": (3, 3, 3, 8), "conv2/kernel": (3, 3, 8, 16), "fc1/kernel": (64, 32), "fc1/bias": (32,),
       "fc2/kernel": (32, 32), "head/kernel": (32, 10)}
TOP = ("fc1", "fc2", "head")


def matched(**changed):
    shapes = {**NET, **{name.replace("__", "/"): shape for name, shape in changed.items()}}
    file = {name: np.ones(shape, np.float32) for name, shape in shapes.items() if shape}
    return match(NET, {"head/kernel"}, file, "FILE", TOP)


@pytest.mark.parametrize("changed,fresh", [
    (dict(), {}),
    # A dense layer over all pixels depends on the size of the images; those after it were trained on its outputs.
    (dict(fc1__kernel=(256, 32)), {"fc1/kernel": "kernel is (256, 32) in the file, (64, 32) here",
                                   "fc1/bias": "kernel is (256, 32) in the file, (64, 32) here",
                                   "fc2/kernel": "after fc1", "head/kernel": "after fc1"}),
    (dict(head__kernel=(32, 3)), {"head/kernel": "3 classes in the file, 10 here"}),
    (dict(fc1__kernel=None, fc1__bias=None, fc2__kernel=None, head__kernel=None),
     {name: "not in the file" for name in list(NET)[2:]}),
    (dict(conv1__kernel=(5, 5, 3, 8)), {"conv1/kernel": "kernel is (5, 5, 3, 8) in the file, (3, 3, 3, 8) here"}),
])
def test_what_is_fresh_has_a_reason(changed, fresh):
    found = matched(**changed)
    assert found.fresh == fresh and found.loaded.keys() == NET.keys() - fresh.keys()


def test_less_than_half_of_the_backbone_is_refused():
    with pytest.raises(UsageError, match="conv2 expects kernel of shape .*: 16% of the backbone's parameters fit, at "
                                         "least half have to"):
        matched(conv2__kernel=(3, 3, 8, 32))


def test_layers_with_other_numbers_of_keras_are_matched_in_order():
    wanted = {"conv2d/kernel": (1,), "conv2d_1/kernel": (1,), "dense/kernel": (1,)}
    file = {name: np.array([number], np.float32) for number, name in enumerate(
        ("net/conv2d_4/kernel", "net/conv2d_5/kernel", "net/dense_2/kernel"))}
    found = match(wanted, {"dense/kernel"}, file, "FILE")
    assert {name: int(value[0]) for name, value in found.loaded.items()} == dict(zip(wanted, range(3), strict=True))


def test_layers_with_other_numbers_are_matched_below_another_top():
    wanted = {name: (1,) for name in ("scale/variable", "scale_1/variable_1", "norm/gamma", "head/kernel")}
    file = {name: np.array([number], np.float32) for number, name in enumerate(
        ("scale_4/variable_9", "scale_5/variable_10", "layer_normalization/gamma"))}
    found = match(wanted, {"head/kernel"}, file, "FILE", ("norm", "head"))
    loaded = {name: int(value[0]) for name, value in found.loaded.items()}
    assert loaded == {"scale/variable": 0, "scale_1/variable_1": 1}
    assert found.unused == ("layer_normalization/gamma",) and set(found.fresh) == {"norm/gamma", "head/kernel"}


@pytest.mark.parametrize("changed,says", [
    (dict(stem__bias=(4,)), "FILE does not fit: layer stem expects bias of shape (8,), found (4,); give the --model"),
    (dict(stem__bias=None), "layer stem expects bias of shape (8,), found none"),
    (dict(stem__kernel=(3, 3, 3, 8)), "it was trained on images of 3 channels, those here have 1"),
])
def test_mismatches_are_named(changed, says):
    with pytest.raises(UsageError) as error:
        match(WANTED, HEAD, found_file(**changed), "FILE")
    assert says in str(error.value)


def test_weights_that_are_not_finite_are_refused():
    file = found_file()
    file["net/stem/bias"][3] = np.nan
    with pytest.raises(UsageError, match="stem/bias is not finite"):
        match(WANTED, HEAD, file, "FILE")


def test_a_file_of_another_model_is_refused(trained):
    folder, _ = trained
    with pytest.raises(UsageError, match="is of another model: it holds network/convolution1/kernel, .* this one "
                                         "block1/convolution/kernel"):
        initialize(fresh(model="cnn"), str(folder / FILES["weights"]), PLAIN, find)


def _cut(path):
    with open(path, "r+b") as file:
        file.truncate(os.path.getsize(path) // 2)


def _flip(path, at=0.5):
    with open(path, "r+b") as file:
        file.seek(int(os.path.getsize(path) * at))
        byte = file.read(1)
        file.seek(-1, 1)
        file.write(bytes([byte[0] ^ 255]))


def _with_lambda(path):
    keras.Sequential([keras.Input(SHAPE), keras.layers.Lambda(lambda x: x)]).save(path)


def _values(path):
    return os.path.join(path, "2", "variables", "variables.data-00000-of-00001")


@pytest.mark.parametrize("name,spoil,says", [
    ("nothing.keras", None, "nothing.keras does not exist; give a SavedModel's folder"),
    ("notes.txt", lambda path: open(path, "w").close(), "notes.txt is no model that training can start from"),
    ("folder", os.makedirs, "folder holds no model that training can start from"),
    ("lambda.keras", _with_lambda, "Lambda layer"),
    ("keras", lambda path: _cut(f"{path}/2/model.keras"), "cut short"),
    ("keras", lambda path: _flip(f"{path}/2/model.keras"), "model.keras cannot be read, it may be damaged"),
    ("weights", lambda path: _cut(f"{path}/2/model.weights.h5"), "cut short"),
    ("saved_model", lambda path: _flip(_values(path)), "cannot be read, it may be damaged"),
    ("saved_model", lambda path: os.remove(_values(path)), "cannot be read, it may be damaged"),
    ("run", lambda path: [_flip(f"{path}/checkpoints/{name}.data-00000-of-00001") for name in
                          ("ckpt-1", "ckpt-2", "best/ckpt-2")], "every checkpoint of"),
])
def test_bad_input_is_one_line(trained, tmp_path, name, spoil, says):
    folder, _ = trained
    source = folder / name if name == "run" else folder / "export" / name
    if source.exists():
        shutil.copytree(source, tmp_path / name)
    if spoil:
        spoil(str(tmp_path / name))
    with pytest.raises(UsageError) as error:
        initialize(fresh(model="mlp"), str(tmp_path / name), PLAIN, find)
    assert str(error.value).startswith("--initialize_from: ") and says in str(error.value)
    assert "\n" not in str(error.value)
