"""A model of a user's whose Python gets into trouble as it computes: in the worker, at the call and in the way that the
file MIRRORLINE_TEST_TROUBLE tells, {"rank", "after", "what", "always"}; once, unless always. For --extension."""
import json
import os
import time

import keras
import tensorflow as tf

import pipeline.models.registry

calls = 0


def look():
    """Gets into trouble where its settings ask for it."""
    global calls
    calls += 1
    path = os.environ.get("MIRRORLINE_TEST_TROUBLE", "")
    rank = json.loads(os.environ.get("TF_CONFIG", "{}")).get("task", {}).get("index", 0)
    if not os.path.exists(path):
        return calls
    with open(path, encoding="utf-8") as file:
        settings = json.load(file)
    if settings["rank"] != rank or calls < settings["after"]:
        return calls
    if not settings.get("always"):
        os.rename(path, f"{path}.done")
    if settings["what"] == "hang":
        time.sleep(10**6)
    if settings["what"] == "raise":
        raise ValueError("the image is truncated")
    os._exit(3)


@pipeline.models.registry.register("troubled", example_shape=(28, 28, 1))
class Troubled(keras.Model):
    """A dense layer, and a look at what Python code is to do in every step."""

    def __init__(self, num_classes=10, **kwargs):
        super().__init__(**kwargs)
        self.hidden = keras.layers.Dense(32, activation="relu")
        self.classifier = keras.layers.Dense(num_classes, dtype="float32")

    def call(self, x, training=False):
        """Maps images [batch, height, width, channels] in [0, 1] to logits [batch, num_classes]."""
        if training:
            with tf.control_dependencies([tf.numpy_function(look, [], tf.int64)]):
                x = tf.identity(x)
        return self.classifier(self.hidden(tf.reshape(x, [tf.shape(x)[0], 784])))
