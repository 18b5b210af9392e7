"""--xla=auto on GPUs: measured once, kept by the run, and said in one line. TensorFlow computes it on the CPU here."""
import numpy as np
import pytest
import tensorflow as tf

from pipeline.training import compilation
from pipeline.training.run_records import describe
from tests.consoles import RecordingConsole
from tests.training.small import build, run, weights


@pytest.fixture(scope="module")
def gpu():
    """Returns the strategy of a GPU, which need not be there."""
    return tf.distribute.MirroredStrategy(["GPU:0"])


def chosen(experiment, gain, stored=None):
    """Returns the lines of a choice where compiled steps are `gain` times as fast; None: it may not be measured."""
    said = []

    def measure(measured, steps):
        assert gain is not None and measured is experiment and steps.settings.xla
        return gain
    compilation.choose(experiment, stored, RecordingConsole(said), measure)
    return said


def test_a_faster_step_is_compiled_and_the_run_keeps_it(gpu, monkeypatch):
    options = dict(precision="float32", optimizer="sgd")
    experiment = build(gpu, **options)
    before = weights(experiment)
    monkeypatch.setattr(compilation, "SECONDS", 0.005)
    assert compilation.measured_gain(experiment, experiment.steps) > 0  # Of the real step, with itself.
    assert chosen(experiment, 1.3) == ["xla     on: compiled, a forward and backward pass is 1.30 times as fast here; "
                                       "this run keeps it"]
    for one, other in zip(before, weights(experiment), strict=True):
        np.testing.assert_array_equal(one, other)
    assert int(experiment.state.global_step.numpy()) == 0 and describe(experiment)["compiled"]
    asked = build(gpu, **options, xla="on")
    np.testing.assert_array_equal(run(experiment, 3)[:, :-1], run(asked, 3)[:, :-1])
    resumed = build(gpu, stored=describe(experiment), **options)
    assert resumed.settings.xla and chosen(resumed, None, stored=describe(experiment)) == []


def test_a_step_that_is_not_faster_is_not_compiled(gpu):
    experiment = build(gpu, precision="float32")
    assert chosen(experiment, 1.04)[0].startswith("xla     off: compiled, a forward and backward pass is 1.04 times")
    assert not experiment.settings.xla and not describe(experiment)["compiled"]
    early = {name: value for name, value in describe(experiment).items() if name != "compiled"}
    assert not build(gpu, precision="float32", stored=early).settings.xla  # Of a version without the choice.


def test_where_it_cannot_be_compiled_it_is_not_measured(gpu, strategy, monkeypatch):
    assert chosen(build(strategy(1), precision="float32"), None) == []
    assert chosen(build(gpu, precision="float32", xla="off"), None) == []
    experiment = build(gpu, precision="float32")

    def fails(measured, steps):
        raise tf.errors.InvalidArgumentError(None, None, "Detected unsupported operations: X\nstack")
    said = []
    compilation.choose(experiment, None, RecordingConsole(said), fails)
    assert said == ["xla     off: Detected unsupported operations: X"] and not experiment.settings.xla
    monkeypatch.setattr(compilation, "uses_gpus", lambda strategy: True)  # Two that are not there cannot reduce.
    assert chosen(build(strategy(2), precision="float32"), None) == [
        "xla     off: batch statistics over several replicas are a collective, which cannot be compiled "
        "(--nosync_batch_norm)"]
