"""Functions and signatures of an exported model. The only file of this folder with tf.function."""
import json
from collections.abc import Callable
from typing import Any

import tensorflow as tf

from pipeline.data import encoded_images
from pipeline.internals.keras_internals import layers_of
from pipeline.models.pixels import normalize


def check_single_precision(model: Any) -> None:
    """Raises ValueError where a model does not compute in float32 throughout, as every export does."""
    for layer in layers_of(model):
        dtypes = [tf.as_dtype(dtype) for dtype in (layer.compute_dtype, *(v.dtype for v in layer.variables))]
        found = next((dtype.name for dtype in dtypes if dtype.is_floating and dtype != tf.float32), None)
        if found:
            raise ValueError(f"layer {layer.path} is of {found}; an export is written in float32")


def logits_function(trained: Any) -> Callable:
    """Returns function(images, training) of float32 [n, H, W, C] in 0..1 to logits, float32 [n, classes]."""
    settings = trained.inference.settings

    def logits(images, training=False):
        seen = normalize(images, settings.image_channels, settings.image_mean, settings.image_std, settings.input_range)
        return trained.model(seen, training=training)

    return logits


def float_function(trained: Any) -> Any:
    """Returns the model as one function of images, for converters and signatures.

    Returns:
      A tf.function of `image`, float32 [n, H, W, C] in 0..1, to {"probabilities": float32 [n, classes]}. Normalization,
      repetition of channels and the model's input range are inside.

    Raises:
      ValueError: the model does not compute in float32.
    """
    check_single_precision(trained.model)
    logits = logits_function(trained)
    image = tf.TensorSpec((None, *trained.image_shape), tf.float32, name="image")
    return tf.function(lambda image: {"probabilities": tf.nn.softmax(logits(image))}, input_signature=[image],
                       autograph=False)


def without_compiled_calls(frozen: Any, image: tf.TensorSpec) -> Any:
    """Returns a frozen function as a tf.function with the name of its input, without calls of what XLA compiles.

    Freezing loses the name. Keras computes convolutions in groups by such calls; now they can be inlined.
    """
    graph = frozen.graph.as_graph_def()
    functions = graph.library.function
    for marked in (*functions, *graph.node, *(node for function in functions for node in function.node_def)):
        for mark in ("_XlaMustCompile", "_noinline"):
            if mark in marked.attr:
                del marked.attr[mark]

    def call(image):
        names = {frozen.inputs[0].name: image}, [frozen.outputs[0].name]
        found, = tf.graph_util.import_graph_def(graph, *names, name="")
        return {"probabilities": found}

    return tf.function(call, input_signature=[image], autograph=False)


class Serving(tf.Module):
    """A trained model for TensorFlow alone: the object of a SavedModel.

    Called with images (float32 [n, H, W, C] in 0..1) and `training` it returns logits, float32 [n, classes]: with
    training=True statistics of the batch are used and the moving ones updated, as keras.layers.BatchNormalization does,
    and dropout draws a new mask at each call, from a state that is a variable of the model and so saved with it.

    Attributes:
      variables, trainable_variables, non_trainable_variables: lists of tf.Variable, in the order of the model's.
      class_names: function of nothing to string [classes], in the order of the probabilities.
      metadata: function of nothing to a string, JSON.
    """

    # In place of tf.Module's properties, which have another order, and which a loaded model would not have.
    variables: Any = ()
    trainable_variables: Any = ()
    non_trainable_variables: Any = ()

    def __init__(self, trained: Any, metadata: dict):
        """Raises ValueError where the model does not compute in float32."""
        super().__init__(name="serving")
        model, names, text = trained.model, tf.constant(trained.class_names), json.dumps(metadata)
        self.variables = [v.value for v in model.variables]
        self.trainable_variables = [v.value for v in model.trainable_variables]
        self.non_trainable_variables = [v.value for v in model.non_trainable_variables]
        logits, image = logits_function(trained), float_function(trained).input_signature[0]
        self.__call__ = tf.function(logits, autograph=False)
        for training in (False, True):
            self.__call__.get_concrete_function(image, training=training)
        self.class_names = tf.function(lambda: tf.identity(names), input_signature=[], autograph=False)
        self.metadata = tf.function(lambda: tf.constant(text), input_signature=[], autograph=False)


def signatures(trained: Any) -> dict[str, Any]:
    """Returns the signatures of a SavedModel for TensorFlow Serving: {name: tf.function}.

    Each returns `probabilities` float32 [n, classes], and of the predicted class `class_ids` int64 [n] and
    `class_names` string [n]. `serving_default` takes `image`, float32 [n, H, W, C] in 0..1; `serving_uint8` takes
    `image`, uint8 in 0..255; `serving_bytes`, for grayscale and color images alone, takes `image_bytes`, string [n],
    see encoded_images. n is 1 or more.

    Raises:
      ValueError: the model does not compute in float32.
    """
    function, names, shape = float_function(trained), tf.constant(trained.class_names), trained.image_shape

    def answer(image):
        probabilities = function(image)["probabilities"]
        ids = tf.argmax(probabilities, axis=-1)
        return {"probabilities": probabilities, "class_ids": ids, "class_names": tf.gather(names, ids)}

    def of_uint8(image):
        return answer(tf.cast(image, tf.float32) / 255.0)

    def of_bytes(image_bytes):
        return of_uint8(encoded_images.decode(image_bytes, trained.preprocessing))

    taken = {"serving_default": (answer, tf.TensorSpec((None, *shape), tf.float32, name="image")),
             "serving_uint8": (of_uint8, tf.TensorSpec((None, *shape), tf.uint8, name="image"))}
    if shape[-1] in encoded_images.CHANNELS:
        taken["serving_bytes"] = (of_bytes, tf.TensorSpec((None,), tf.string, name="image_bytes"))
    return {name: tf.function(called, input_signature=[spec], autograph=False)
            for name, (called, spec) in taken.items()}
