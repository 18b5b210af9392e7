"""Trained models with an operation that a converter has nothing for."""
import dataclasses

import keras
import tensorflow as tf

from tests.export.fresh_models import trained_model


def with_operation(operation):
    """Returns the TrainedModel of a dense layer and a function of its outputs."""
    class Own(keras.Model):
        def __init__(self):
            super().__init__()
            self.dense = keras.layers.Dense(4)

        def call(self, images, training=False):
            return operation(self.dense(tf.reshape(images, [-1, 6 * 5])))

    model = Own()
    model(tf.zeros([1, 6, 5, 1]))
    return dataclasses.replace(trained_model("mlp"), model=model)
