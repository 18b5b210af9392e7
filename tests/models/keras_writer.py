"""Writes files of weights by plain Keras, in a process of its own, and what its models compute with them.

    python -m tests.models.keras_writer FOLDER SPEC

SPEC is JSON: {"constructor", "size", "classes", "options": {argument: value}, "more": whether unusual files too}.
outputs.npz then has the images, the outputs of each model by the name of its files without their suffixes, and the
name of the last layer of the model without a top.
"""
import json
import os
import sys

import h5py
import keras
import numpy as np
from keras.src.legacy.saving import legacy_h5_format


def main(folder, spec):
    """Writes top.* and notop.* of one architecture, in both formats."""
    os.chdir(folder)
    constructor = getattr(keras.applications, spec["constructor"])
    shape = (spec["size"], spec["size"], 3)
    images = np.random.default_rng(0).uniform(-2, 2, (2, *shape)).astype("float32")
    outputs = {"images": images}

    def make(top, classes=spec["classes"], shape=shape):
        arguments = {"classes": classes, "classifier_activation": None} if top else {}
        return constructor(weights=None, include_top=top, input_shape=shape, **arguments, **spec["options"])

    def keep(name, model):
        outputs[name] = np.asarray(model(images, training=False))

    for name in ("notop", "top"):
        model = randomized(make(name == "top"))
        # Without a top ConvNeXt ends in a normalization that it does not have with one.
        shared = keras.Model(model.inputs, model.layers[-2].output) if spec["constructor"].startswith(
            "ConvNeXt") and name == "notop" else model
        keep(name, shared)
        outputs.setdefault("features", shared.layers[-1].name)  # Of the first model: numbers in names begin there.
        model.save_weights(f"{name}.weights.h5")
        model.save(f"{name}.h5")
    if spec["more"]:
        write_more(make, keep, images)
    np.savez("outputs.npz", **outputs)


def write_more(make, keep, images):
    """Writes files that people have, and that differ from those above in what else they hold, or lack."""
    model = randomized(make(True))
    model.compile("adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True), metrics=["accuracy"],
                  run_eagerly=True)  # The graph of one step would take most of the time.
    model.fit(images, np.zeros(len(images), int), verbose=0)
    model.save_weights("trained.weights.h5")
    model.save("trained.h5")
    keep("trained", model)
    with h5py.File("keras2.weights.h5", "w") as file:  # As save_weights of Keras 2 wrote under this name.
        legacy_h5_format.save_weights_to_hdf5_group(file, model)
    keep("keras2", model)
    model.save_weights("tf213.weights.h5")
    with h5py.File("tf213.weights.h5", "r+") as file:
        file.move("layers", "_layer_checkpoint_dependencies")
    keep("tf213", model)
    larger = randomized(make(True, shape=(64, 64, 3)))
    larger.save_weights("larger.weights.h5")
    base = randomized(make(False))
    base.trainable = False
    nested = keras.Sequential([base, keras.layers.GlobalAveragePooling2D(), keras.layers.Dense(4)])
    nested.build((None, *images.shape[1:]))
    nested.save_weights("nested.weights.h5")
    nested.save("nested.h5")
    keep("nested", base)
    keras.config.set_dtype_policy("float16")
    half = randomized(make(True))
    half.save_weights("half.weights.h5")
    half.save("half.h5")


def randomized(model):
    """Gives every float variable values that matter to the outputs; integers stay."""
    draw = np.random.default_rng(len(model.variables))
    for variable in model.variables:
        if "float" in str(variable.dtype):
            scale = np.sqrt(np.prod(variable.shape[:-1])) if len(variable.shape) > 1 else 10
            values = draw.normal(0, 1 / max(scale, 1), variable.shape)
            kind = variable.path.rpartition("/")[2]
            variable.assign(np.abs(values) + 0.5 if "variance" in kind else values + (kind == "gamma"))
    for layer in model.layers:
        if isinstance(layer, keras.layers.Normalization):
            layer.finalize_state()  # It computes with copies of its weights.
    return model


if __name__ == "__main__":
    main(sys.argv[1], json.loads(sys.argv[2]))
