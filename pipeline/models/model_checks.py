"""Checks of a user's model, before the first step."""
import gc
from collections.abc import Sequence
from typing import Any

import keras
import ml_dtypes
import tensorflow as tf

from pipeline.errors import UsageError
from pipeline.internals.keras_internals import has_seed_generator, layers_of
from pipeline.models.calling import call_in_training
from pipeline.models.dropout import Dropout
from pipeline.models.normalization import BatchNormalization

# Operations that draw from a state which no checkpoint holds: a resumed run would draw other numbers.
DRAWS = {"RandomUniform", "RandomUniformInt", "RandomStandardNormal", "ParameterizedTruncatedNormal",
         "TruncatedNormal", "RandomShuffle", "Multinomial", "RandomGamma", "RandomPoisson", "RandomPoissonV2",
         "SampleDistortedBoundingBox", "SampleDistortedBoundingBoxV2"}


def check_custom_model(model: keras.Model, name: str, num_classes: int, input_shape: Sequence[int]) -> None:
    """Checks that the training step can keep its guarantees with a model.

    Args:
      model: built.
      name: value of --model.
      num_classes: requested number of logits.
      input_shape: (height, width, channels) of its images.

    Raises:
      UsageError: its outputs are no logits, or it has state outside its variables.
    """
    wanted = keras.config.dtype_policy().variable_dtype
    odd = [v.path for v in model.trainable_variables if v.dtype != wanted]
    if odd:
        raise UsageError(f"model {name}: {odd[0]} is not {wanted}, as all weights have to be in this "
                         "precision: leave its dtype to Keras, or give the layer one, not the weight")
    check_outputs(model, name, num_classes, input_shape)
    graph = record_training_call(model, input_shape)
    for variable in captured_variables(graph):
        if "seed_generator" in variable.name:
            raise UsageError(f"model {name} draws without a seed generator of its own, so that it would draw the "
                             "same in every step: assign keras.random.SeedGenerator() to an attribute in the "
                             "constructor and give it as seed=, or take pipeline.models.dropout.Dropout")
        raise UsageError(f"model {name} uses the variable '{variable.name}' that Keras does not know of, and that "
                         "would be neither trained nor saved: make it with self.add_weight, and keep layers in "
                         "attributes of the model")
    definition = graph.as_graph_def()
    nodes = [*definition.node, *(node for function in definition.library.function for node in function.node_def)]
    drawing = next((node for node in nodes if node.op in DRAWS), None)
    if drawing:
        raise UsageError(f"model {name} draws with TensorFlow's {drawing.op} ({drawing.name}), which a resumed run "
                         "cannot repeat: draw with keras.random and a keras.random.SeedGenerator of the model, or "
                         "take pipeline.models.dropout.Dropout")


def check_outputs(model: Any, name: str, num_classes: int, input_shape: Sequence[int]) -> None:
    """Raises UsageError if the outputs of a model are no logits, float [batch, classes]."""
    images = tf.random.stateless_uniform((2, *input_shape), (0, 0))
    outputs = model(images, training=False)
    if not tf.is_tensor(outputs) or tuple(outputs.shape) != (2, num_classes) or not outputs.dtype.is_floating:
        found = f"{tuple(outputs.shape)} of {outputs.dtype.name}" if tf.is_tensor(outputs) else type(outputs).__name__
        raise UsageError(f"model {name} must return logits, a float tensor of shape (batch, {num_classes}); of 2 "
                         f"images it returned {found}")
    values = tf.cast(outputs, tf.float64).numpy()
    if num_classes > 1 and (values >= 0).all() and (abs(values.sum(axis=-1) - 1) < 1e-2).all():
        raise UsageError(f"model {name} returns probabilities, and the loss takes logits: leave its softmax out")


def record_training_call(model: keras.Model, input_shape: Sequence[int]) -> Any:
    """Returns the FuncGraph of a call in training as the step makes it: variables are inputs and outputs."""
    with tf.__internal__.FuncGraph("training_call").as_default() as graph:
        def placeholders(variables):
            return [tf.compat.v1.placeholder(v.dtype, v.shape) for v in variables]

        image = tf.compat.v1.placeholder(keras.config.dtype_policy().variable_dtype, (2, *input_shape))
        call_in_training(model, placeholders(model.trainable_variables), placeholders(model.non_trainable_variables),
                         image)
    return graph


def coarsest_dtype(model: keras.Model, input_shape: Sequence[int]) -> str:
    """Returns the narrowest float type to which a call of a float64 model rounds inside; "float64" for none.

    Args:
      model: built.
      input_shape: (height, width, channels) of its images.
    """
    definition = record_training_call(model, input_shape).as_graph_def()
    nodes = [*definition.node, *(node for function in definition.library.function for node in function.node_def)]
    casts = [[tf.as_dtype(node.attr[end].type) for end in ("SrcT", "DstT")] for node in nodes if node.op == "Cast"]
    return max((into for source, into in casts if source.is_floating and into.is_floating), key=rounding_error,
               default=tf.float64).name


def rounding_error(dtype: Any) -> float:
    """Returns the distance from 1 to the next number of a float type."""
    return float(ml_dtypes.finfo(tf.as_dtype(dtype).as_numpy_dtype).eps)


def captured_variables(graph: Any) -> list[tf.Variable]:
    """Returns the variables that a FuncGraph reads without having them as inputs."""
    handles = {id(outside) for outside, _ in graph.captures if outside.dtype == tf.resource}
    # A graph knows only handles. Searching their variables is slow, but rare: a valid model reads none.
    # A distributed variable has no handle; its copies on the replicas are variables themselves.
    return [v for v in (gc.get_objects() if handles else ()) if issubclass(type(v), tf.Variable)
            and not issubclass(type(v), tf.distribute.DistributedValues) and id(v.handle) in handles]


def departures(model: keras.Model, synchronize: bool = True) -> list[tuple[str, str]]:
    """Lists why N replicas would not compute the same as one.

    Args:
      model: built.
      synchronize: whether the batch normalization of this package uses statistics over all replicas.

    Returns:
      [(cause, remedy)] for each kind of layer; [] if they compute the same.
    """
    found: dict[str, tuple[str, str]] = {}
    for layer in layers_of(model):
        kind = type(layer).__name__
        if has_seed_generator(layer) and not isinstance(layer, Dropout):
            found.setdefault(kind, (f"{kind} draws the same on every replica",
                                    "pipeline.models.dropout.Dropout draws for each example"))
        elif not layer.trainable:
            continue  # A frozen normalization uses its moving statistics, which are the same on all replicas.
        elif isinstance(layer, keras.layers.BatchNormalization) and not layer.synchronized:
            found.setdefault(kind, ("Keras's own BatchNormalization takes the statistics of each replica's part",
                                    "take pipeline.models.normalization.BatchNormalization, or synchronized=True"))
        elif isinstance(layer, BatchNormalization) and not synchronize:
            found.setdefault(kind, ("--nosync_batch_norm: batch statistics are those of each replica's part",
                                    "leave that flag out"))
    return list(found.values())


def check_compiled(model: keras.Model, name: str) -> None:
    """Raises UsageError for a layer that cannot be compiled on several replicas."""
    for layer in layers_of(model):
        if isinstance(layer, keras.layers.BatchNormalization) and layer.synchronized:
            raise UsageError(f"--xla=on with several replicas: {layer.path} of model {name} is synchronized, and "
                             "statistics over replicas are a collective, which cannot stand inside compiled code")


def check_size(model: keras.Model, name: str, shape: Sequence[int], option: str = "eval_image_size") -> None:
    """Raises UsageError for a model that does not take images of another size than it was built for.

    Args:
      shape: (height, width, channels).
      option: which asks for it.
    """
    try:
        with tf.__internal__.FuncGraph("another_size").as_default():
            model(tf.compat.v1.placeholder(tf.float32, (None, *shape)), training=False)
    except ValueError:
        raise UsageError(f"--{option}={shape[0]}: model {name} takes images of one size alone; give the size as "
                         "--image_size, or take a model with global average pooling, such as resnet_like") from None
