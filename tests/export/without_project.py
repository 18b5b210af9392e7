"""Loads exported models as others do: SavedModels with TensorFlow alone, then Keras files with pipeline importable.

    python -I without_project.py FOLDER ROOT

FOLDER holds a folder a model: `images.npy` uint8 [n, H, W, C], `labels.npy`, `files` (a list in JSON of the image
files there), `saved_model/` and `model.keras`; their outputs are written to found.npz there. ROOT: of the project,
put onto the path once the SavedModels are done.
"""
import json
import os
import sys

import numpy as np
import tensorflow as tf


def step(loaded, images, labels):
    """Takes one SGD step at rate 0.1 on the mean cross entropy; returns the loss."""
    with tf.GradientTape() as tape:
        logits = loaded(images, training=True)
        loss = tf.reduce_mean(tf.nn.sparse_softmax_cross_entropy_with_logits(labels, logits))
    gradients = tape.gradient(loss, loaded.trainable_variables, unconnected_gradients="zero")
    for variable, gradient in zip(loaded.trainable_variables, gradients, strict=True):
        variable.assign_sub(0.1 * gradient)
    return loss


def of_saved_model(folder):
    """Returns {what: array} that a SavedModel says, with TensorFlow alone."""
    loaded = tf.saved_model.load(os.path.join(folder, "saved_model"))
    pixels = np.load(os.path.join(folder, "images.npy"))
    floats, found = tf.constant(pixels / np.float32(255)), {}
    with open(os.path.join(folder, "files"), encoding="utf-8") as names:
        contents = tf.constant([tf.io.read_file(os.path.join(folder, name)).numpy() for name in json.load(names)])
    for name, argument in (("serving_default", {"image": floats}), ("serving_uint8", {"image": pixels}),
                           ("serving_bytes", {"image_bytes": contents})):
        given = loaded.signatures[name](**{key: tf.constant(value) for key, value in argument.items()})
        found.update({f"{name}/{key}": value.numpy() for key, value in given.items()})
    found["one/floats"] = loaded.signatures["serving_default"](image=floats[:1])["probabilities"]
    found["one/bytes"] = loaded.signatures["serving_bytes"](image_bytes=contents[:1])["probabilities"]
    found["logits"], found["class_names"], found["metadata"] = loaded(floats), loaded.class_names(), loaded.metadata()
    found["trainable"] = [[v is t for v in loaded.variables].index(True) for t in loaded.trainable_variables]
    found["loss"] = step(loaded, floats, np.load(os.path.join(folder, "labels.npy")))
    found.update({f"after/{number}": variable.numpy() for number, variable in enumerate(loaded.variables)})
    return {f"saved_model/{key}": plain(value) for key, value in found.items()}


def of_keras_file(folder):
    """Returns {what: array} that a Keras file says."""
    import keras
    model, pixels = keras.saving.load_model(os.path.join(folder, "model.keras")), np.load(f"{folder}/images.npy")
    found = {"floats": model.predict(pixels / np.float32(255), verbose=0), "uint8": model(pixels),
             "class_names": model.class_names, "metadata": json.dumps(model.metadata)}
    found.update({f"variable/{number}": variable.numpy() for number, variable in enumerate(model.variables)})
    return {f"keras/{key}": plain(value) for key, value in found.items()}


def plain(value):
    """Returns an array that can be written without pickling."""
    value = np.asarray(value)
    return value.astype(bytes) if value.dtype == object else value


def main(folder, root):
    """Writes found.npz of every model."""
    folders = [os.path.join(folder, name) for name in sorted(os.listdir(folder))]
    found = {path: of_saved_model(path) for path in folders}
    assert "pipeline" not in sys.modules and root not in sys.path
    sys.path.insert(0, root)
    import pipeline  # noqa: F401 (all that Keras needs to know these models)
    for path in folders:
        np.savez(os.path.join(path, "found.npz"), **found[path], **of_keras_file(path))


if __name__ == "__main__":
    main(*sys.argv[1:])
