"""Keras's private interfaces exist: each test is named after what an upgrade would remove."""
import io
import zipfile

import keras
import numpy as np
import pytest

from pipeline.internals import keras_internals as internals


def network():
    """A model with a layer inside a layer."""
    return keras.Sequential([keras.Input((4,)), keras.Sequential([keras.layers.Dense(3, name="inner")]),
                             keras.layers.Dense(2, name="outer")])


def test_model_flatten_layers_yields_nested_layers():
    names = [layer.name for layer in internals.layers_of(network())]
    assert {"inner", "outer"} < set(names)
    assert len(list(internals.layers_of(network(), include_self=False))) == len(names) - 1


def test_saving_lib_writes_and_reads_a_state():
    model, file = network(), io.BytesIO()
    store = internals.H5Store(file, mode="w")
    internals.save_state(model, store)
    store.close()
    read = internals.H5Store(io.BytesIO(file.getvalue()), mode="r")
    assert internals.read_dataset(read.h5_file, "layers/dense/vars/0").shape == (4, 3) or len(read.h5_file) > 0
    read.close()


def test_saving_lib_reads_a_member_of_an_archive():
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("config.json", "{}")
    with zipfile.ZipFile(file) as archive:
        assert internals.read_member(archive, "config.json") == b"{}"


@pytest.mark.parametrize("optimizer_class, fused", [(keras.optimizers.Adam, internals.FusedAdam),
                                                    (keras.optimizers.AdamW, internals.FusedAdam),
                                                    (keras.optimizers.SGD, internals.FusedMomentum)])
def test_optimizer_update_step_is_fused_and_computes_the_same(optimizer_class, fused, monkeypatch, capsys):
    monkeypatch.setattr(internals, "FUSED_ELEMENTS", 1)
    more = {"momentum": 0.9} if optimizer_class is keras.optimizers.SGD else {}
    values, gradient, called = [], np.linspace(-1, 1, 12, dtype=np.float32).reshape(3, 4), []
    kernel = fused._apply_kernel
    monkeypatch.setattr(fused, "_apply_kernel", lambda *arguments: called.append(1) or kernel(*arguments))
    for made in (optimizer_class, internals.reduced_optimizer(optimizer_class, fused)):
        variable = keras.Variable(np.ones((3, 4), np.float32))
        optimizer = made(learning_rate=0.1, **more)
        optimizer.build([variable])
        for _ in range(3):
            optimizer.apply([keras.ops.convert_to_tensor(gradient)], [variable])
        values.append(variable.numpy())
    np.testing.assert_allclose(*values, rtol=1e-5)
    assert len(called) == 3 and capsys.readouterr().err == ""


def test_a_lost_update_step_is_reported_and_keras_computes_instead(monkeypatch, capsys):
    monkeypatch.setattr(internals, "FUSED", ("_method_of_another_version",))
    made = internals.reduced_optimizer(keras.optimizers.SGD, internals.FusedMomentum)
    assert "fused update kernel is lost" in capsys.readouterr().err
    assert not issubclass(made, internals.Fused) and issubclass(made, internals.AlreadyReduced)


def test_layer_seed_generators_are_listed():
    assert internals.has_seed_generator(keras.layers.Dropout(0.5)) and not internals.has_seed_generator(
        keras.layers.Dense(2))


def test_layer_open_name_scope_names_variables():
    outer = keras.layers.Identity(name="outer")
    with internals.name_scope(outer):
        inner = keras.layers.Dense(1, name="inner")
        inner.build((None, 2))
    assert inner.kernel.path == "outer/inner/kernel"


def test_optimizer_all_reduce_sum_gradients_is_overridden():
    assert hasattr(keras.optimizers.SGD, "_all_reduce_sum_gradients")
