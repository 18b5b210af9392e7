"""ONNX, for onnxruntime and every other runtime that reads it.

tf2onnx folds a batch normalization into the convolution before it, unless images are so small that the convolution's
output is a single pixel, and drops what does nothing at inference.
"""
import json

import tensorflow as tf

from pipeline.export.extras import check_extra
from pipeline.export.form import FORMS
from pipeline.export.frozen import cannot_convert, freeze, quiet_converter
from pipeline.export.signatures import with_names
from pipeline.files import plain, write_bytes

OPSET = 17  # Of 2022: read by every runtime in use, and the newest but one that tf2onnx writes.
METADATA = "mirrorline"


def write(trained, path, metadata, calibration=None):
    """Writes a model of `image`, float32 [n, H, W, C] in 0..1, to `probabilities`, float32 [n, classes].

    The arguments are those of Form.write; the metadata is JSON in a property of the model, see `read_metadata`.

    Raises:
      UsageError: packages are missing, or an operation of the model has no counterpart in ONNX.
    """
    check_extra(FORMS["onnx"])
    import onnx
    # Of a graph that is not frozen tf2onnx makes every captured tensor an input of the file.
    model = _convert(freeze(trained, lower_control_flow=False), (None, *trained.image_shape))
    unknown = [node.op_type for node in _nodes(model.graph) if not onnx.defs.has(node.op_type, node.domain)]
    if unknown:
        raise cannot_convert("onnx", unknown, "ONNX")
    onnx.helper.set_model_props(model, {METADATA: json.dumps(plain(metadata), allow_nan=False)})
    onnx.checker.check_model(model)
    write_bytes(path, model.SerializeToString())


def read_metadata(path):
    """Returns the metadata in a file; None where there is none."""
    import onnx
    properties = {p.key: p.value for p in onnx.load(path, load_external_data=False).metadata_props}
    return json.loads(properties[METADATA]) if METADATA in properties else None


def _convert(frozen, shape):
    """Returns the ModelProto of a frozen function of images of a shape, its first axis of any length."""
    image = tf.TensorSpec(shape, tf.float32, name="image")
    with quiet_converter():
        from tf2onnx import convert
        model, _ = convert.from_function(with_names(frozen, image), [image], opset=OPSET)
    for value in (*model.graph.input, *model.graph.output):
        value.type.tensor_type.shape.dim[0].dim_param = "batch"
    return model


def _nodes(graph):
    """Yields the nodes of a graph, those of its branches and loops among them."""
    for node in graph.node:
        yield node
        for attribute in node.attribute:
            for inner in (attribute.g, *attribute.graphs):
                yield from _nodes(inner)
