"""TFLite (LiteRT), in float32, with float16 or int8 weights, and in int8 throughout.

The converter folds a batch normalization into the convolution or dense layer before it, and drops what does nothing at
inference. Post-training quantization: https://ai.google.dev/edge/litert/models/post_training_quantization.

The metadata is appended as a zip archive, as associated files of TFLite models are: `unzip model.tflite` shows it, the
runtime does not look so far.
"""
import io
import json
import re
import zipfile

import numpy as np
import tensorflow as tf

from pipeline.errors import UsageError
from pipeline.export.frozen import cannot_convert, freeze, quiet_converter
from pipeline.export.long_sums import split_long_sums
from pipeline.files import plain, write_bytes
from pipeline.internals.tensorflow_internals import tflite_converter_error, tflite_schema

FLOATING = ("tflite", "tflite_float16")  # Forms that compute in float32.
METADATA, LABELS = "metadata.json", "labels.txt"
schema, ConverterError = tflite_schema(), tflite_converter_error()
BUILTINS = {number: name for name, number in vars(schema.BuiltinOperator).items() if not name.startswith("_")}
BETWEEN = ("QUANTIZE", "DEQUANTIZE")  # What stands where integers and floats meet.


def write_float32(trained, path, metadata, calibration=None):
    """Writes a model with float32 weights and activations; the arguments are those of Form.write."""
    _write("tflite", trained, path, metadata)


def write_float16(trained, path, metadata, calibration=None):
    """Writes a model whose weights are rounded to float16; activations stay float32 on a CPU."""
    _write("tflite_float16", trained, path, metadata, _float16)


def write_dynamic(trained, path, metadata, calibration=None):
    """Writes a model with int8 weights, whose activations are quantized as they come."""
    _write("tflite_dynamic", trained, path, metadata, _optimize)


def write_int8(trained, path, metadata, calibration):
    """Writes a model that computes in int8 throughout, from uint8 pixels to uint8 probabilities in steps of 1/256.

    Args:
      trained, path, metadata: those of Form.write.
      calibration: uint8 [n, H, W, C] images of the training split, a few hundred, that the ranges of all activations
        are taken from.

    Raises:
      UsageError: no images, or an operation that TFLite has in float alone.
    """
    if calibration is None or not len(calibration):
        raise UsageError("form tflite_int8 is calibrated with images of the training split; found none")
    _write("tflite_int8", trained, path, metadata, lambda converter: _int8(converter, calibration))


def read_metadata(path):
    """Returns the metadata in a file; None where there is none."""
    try:
        with zipfile.ZipFile(path) as archive:
            return json.loads(archive.read(METADATA))
    except (zipfile.BadZipFile, KeyError):
        return None


def operations(content):
    """Returns [(name, types of its outputs)] of every operation of a model, from the bytes of its file.

    A name is that of TFLite ("CONV_2D"), a type that of numpy ("float32"), or of TFLite where numpy has none.
    """
    model, found = schema.Model.GetRootAs(content), []
    types = {number: name.lower() for name, number in vars(schema.TensorType).items() if not name.startswith("_")}
    for graph in map(model.Subgraphs, range(model.SubgraphsLength())):
        for operator in map(graph.Operators, range(graph.OperatorsLength())):
            code = model.OperatorCodes(operator.OpcodeIndex())
            number = max(code.BuiltinCode(), code.DeprecatedBuiltinCode())
            outputs = [types[graph.Tensors(i).Type()] for i in operator.OutputsAsNumpy()]
            found.append((BUILTINS[number], outputs))
    return found


def _write(form, trained, path, metadata, quantize=None):
    with quiet_converter():
        function = freeze(trained)
        # Integers are added up without error, and rounding every part would make one.
        content = _convert(form, split_long_sums(function) if form in FLOATING else function, quantize)
    if form == "tflite_int8":
        floats = [name for name, types in operations(content) if "float32" in types and name not in BETWEEN]
        if floats:
            raise cannot_convert(form, floats, "TFLite's int8", "--format=tflite_dynamic quantizes the rest of it")
    write_bytes(path, _with_files(content, metadata))


def _convert(form, function, quantize):
    """Returns the bytes of a model; raises UsageError that names the operations it cannot be made of."""
    module = tf.Module()
    module.function = function
    converter = tf.lite.TFLiteConverter.from_concrete_functions([function], module)
    if quantize:
        quantize(converter)
    try:
        return bytes(converter.convert())
    except ConverterError as error:
        names = [e.operator.name.removeprefix("tf.") for e in error.errors if e.operator.name]
        names = names or re.findall(r"'tf\.(\w+)' op", str(error))
        if not names:
            raise
        raise cannot_convert(form, names, "TFLite") from None


def _optimize(converter):
    converter.optimizations = [tf.lite.Optimize.DEFAULT]


def _float16(converter):
    _optimize(converter)
    converter.target_spec.supported_types = [tf.float16]


def _int8(converter, images):
    images = np.array(images)
    # One black and one white corner: the input then has the steps of the pixels themselves, 1/255 from 0 on.
    images[0, 0, 0], images[-1, -1, -1] = 0, 255
    _optimize(converter)
    converter.representative_dataset = lambda: ([image[None].astype(np.float32) / 255] for image in images)
    converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
    converter.inference_input_type = converter.inference_output_type = tf.uint8


def _with_files(content, metadata):
    """Returns a model with the metadata, and the class names as labels.txt, in a zip archive behind it."""
    held = io.BytesIO(content)
    held.seek(0, io.SEEK_END)
    with zipfile.ZipFile(held, "a") as archive:
        archive.writestr(METADATA, json.dumps(plain(metadata), indent=2, allow_nan=False))
        archive.writestr(LABELS, "".join(f"{name}\n" for name in metadata.get("class_names", ())))
    return held.getvalue()
