"""Fused updates equal those of Keras, with and without weight decay, on one replica and on two."""
import keras
import numpy as np
import pytest
import tensorflow as tf

from pipeline.internals import keras_internals
from tests.selection import quick
from tests.training.small import build, distance

# Keras rounds these to float32 here and there, in float64 too (a power of 0.999, but not 1 - 0.999); so they are
# numbers that no rounding changes.
RATE, MOMENTUM, DECAY, BETAS = 2.0**-7, 0.875, 2.0**-6, {"beta_1": 0.875, "beta_2": 1 - 2.0**-10}
KERAS = {"adam": lambda: keras.optimizers.Adam(RATE, **BETAS),
         "adamw": lambda: keras.optimizers.AdamW(RATE, weight_decay=DECAY, **BETAS),
         "sgd": lambda: keras.optimizers.SGD(RATE, momentum=MOMENTUM),
         "nesterov": lambda: keras.optimizers.SGD(RATE, momentum=MOMENTUM, nesterov=True)}
LARGE = 2**12  # Elements: one kernel of this small model has more.
OPTIONS = {"adamw": {"weight_decay": DECAY, "decay_all": True}, "nesterov": {"optimizer": "sgd", "nesterov": True}}
KERNEL = {"adam": "ResourceApplyAdam", "adamw": "ResourceApplyAdam", "sgd": "ResourceApplyKerasMomentum",
          "nesterov": "ResourceApplyKerasMomentum"}


# Each kernel on one replica and on two.
@pytest.mark.parametrize("name, replicas", quick([("adam", 1), ("adamw", 2), ("sgd", 2), ("nesterov", 1)], 0, 3))
def test_fused_updates_are_those_of_keras(strategy, monkeypatch, name, replicas):
    monkeypatch.setattr(keras_internals, "FUSED_ELEMENTS", LARGE)
    options = {"optimizer": name, "learning_rate": RATE, "momentum": MOMENTUM, **OPTIONS.get(name, {})}
    experiment = build(strategy(replicas), model="mlp", **options)
    reference, ours = KERAS[name](), experiment.state.optimizer
    for beta, value in BETAS.items() if "adam" in name else ():
        setattr(ours, beta, value)
    trained = experiment.state.model.trainable_variables
    copies = [keras.Variable(v.numpy()) for v in trained]
    reference.build(copies)
    iterator = experiment.train_iterator(0)
    for step in range(5):
        gradients, _ = experiment.steps.reduced_gradients(experiment.train_iterator(step))
        reference.apply(gradients, copies)
        experiment.steps.train_steps(iterator, tf.constant(1))
    assert distance([np.asarray(v) for v in copies], [v.numpy() for v in trained]) < 1e-12
    for first, second in zip(reference.variables, ours.variables, strict=True):
        np.testing.assert_allclose(first.numpy(), second.numpy(), rtol=1e-12)
    graph = experiment.steps.train_steps.get_concrete_function(iterator, tf.constant(1)).graph.as_graph_def()
    nodes = [node.op for function in graph.library.function for node in function.node_def]
    large = sum(v.value.shape.num_elements() >= LARGE for v in copies)
    assert 0 < large < len(copies) and nodes.count(KERNEL[name]) == replicas * large
