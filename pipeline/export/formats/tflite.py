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
from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf

from pipeline.choices import EXPORT_FORMATS
from pipeline.errors import UsageError
from pipeline.export.export_format import FLOAT16, INT8, ExportFormat
from pipeline.export.frozen import cannot_convert, freeze, quiet_converter
from pipeline.export.long_sums import split_long_sums
from pipeline.files import plain, write_bytes
from pipeline.internals.tensorflow_internals import tflite_converter_error, tflite_schema

# Imports inside functions: each runtime is loaded in a process that needs no other.

METADATA, LABELS = "metadata.json", "labels.txt"
schema: Any = tflite_schema()
ConverterError: Any = tflite_converter_error()
BUILTINS = {number: name for name, number in vars(schema.BuiltinOperator).items() if not name.startswith("_")}
BETWEEN = ("QUANTIZE", "DEQUANTIZE")  # What stands where integers and floats meet.


@EXPORT_FORMATS.built_in("tflite", summary="TFLite (LiteRT) in float32")
class TFLite(ExportFormat):
    """TFLite in float32; the metadata and labels.txt are in a zip archive behind the model."""

    file = "model.tflite"
    runtime = "litert"
    runtime_package = "ai_edge_litert"
    requirements = ("ai_edge_litert",)
    install = "mirrorline[tflite]"
    library = "litert"
    # Integers are added up without error; rounding each part of a sum would add one.
    splits_long_sums = True
    usage = """\
It needs `pip install ai-edge-litert` and nothing else.

```python
import json
import numpy as np
from ai_edge_litert.interpreter import Interpreter

interpreter = Interpreter("model.tflite")
(taken,), (given,) = interpreter.get_input_details(), interpreter.get_output_details()
images = np.zeros((1, {{ array }}), np.float32)  # Yours: any number of them, values in 0..1.
interpreter.resize_tensor_input(taken["index"], images.shape)
interpreter.allocate_tensors()
interpreter.set_tensor(taken["index"], images)
interpreter.invoke()
probabilities = interpreter.get_tensor(given["index"])

with open("metadata.json") as file:
    names = json.load(file)["class_names"]
print([names[i] for i in probabilities.argmax(axis=1)])
```
"""

    def write(self, trained: Any, path: str, metadata: dict, calibration: np.ndarray | None = None) -> None:
        """See ExportFormat."""
        with quiet_converter():
            function = freeze(trained)
            content = self._convert(split_long_sums(function) if self.splits_long_sums else function, calibration)
        self.check_content(content)
        write_bytes(path, _with_files(content, metadata))

    def quantize(self, converter: Any, calibration: np.ndarray | None) -> None:
        """Sets what tf.lite.TFLiteConverter quantizes."""

    def check_content(self, content: bytes) -> None:
        """Raises UsageError where the bytes of the model are not what the format promises."""

    def _convert(self, function: Any, calibration: np.ndarray | None) -> bytes:
        """Returns the bytes of a model; raises UsageError that names the operations that TFLite lacks."""
        module = tf.Module()
        module.function = function
        converter = tf.lite.TFLiteConverter.from_concrete_functions([function], module)
        self.quantize(converter, calibration)
        try:
            return bytes(converter.convert())
        except ConverterError as error:
            names = [e.operator.name.removeprefix("tf.") for e in error.errors if e.operator.name]
            names = names or re.findall(r"'tf\.(\w+)' op", str(error))
            if not names:
                raise
            raise cannot_convert(self.name, names, "TFLite") from None

    @staticmethod
    def load(path: str, threads: int) -> tuple[Callable, Callable]:
        """See ExportFormat."""
        import numpy as np
        from ai_edge_litert.interpreter import Interpreter
        interpreter = Interpreter(model_path=path, num_threads=threads)
        (taken,), (given,) = interpreter.get_input_details(), interpreter.get_output_details()
        allocated = None

        def prepare(images):
            scale, zero = taken["quantization"]
            if taken["dtype"] == np.float32:
                return np.float32(images) / np.float32(255)
            limits = np.iinfo(taken["dtype"])
            return np.clip(np.rint(images / 255 / scale) + zero, limits.min, limits.max).astype(taken["dtype"])

        def compute(batch):
            nonlocal allocated
            if batch.shape != allocated:
                interpreter.resize_tensor_input(taken["index"], batch.shape)
                interpreter.allocate_tensors()
                allocated = batch.shape
            interpreter.set_tensor(taken["index"], batch)
            interpreter.invoke()
            found, (scale, zero) = interpreter.get_tensor(given["index"]), given["quantization"]
            return found if found.dtype == np.float32 else np.float32(scale) * (found.astype(np.float32) - zero)

        return prepare, compute


@EXPORT_FORMATS.built_in("tflite_dynamic", summary="TFLite with int8 weights and float activations")
class TFLiteDynamic(TFLite):
    """TFLite with int8 weights, whose activations are quantized as they come."""

    tolerance = INT8
    splits_long_sums = False

    def quantize(self, converter: Any, calibration: np.ndarray | None) -> None:
        """See TFLite."""
        converter.optimizations = [tf.lite.Optimize.DEFAULT]


@EXPORT_FORMATS.built_in("tflite_float16", summary="TFLite with float16 weights")
class TFLiteFloat16(TFLiteDynamic):
    """TFLite whose weights are rounded to float16; activations stay float32 on a CPU."""

    tolerance = FLOAT16
    splits_long_sums = True

    def quantize(self, converter: Any, calibration: np.ndarray | None) -> None:
        """See TFLite."""
        super().quantize(converter, calibration)
        converter.target_spec.supported_types = [tf.float16]


@EXPORT_FORMATS.built_in("tflite_int8", summary="TFLite in int8 throughout, calibrated on the training split")
class TFLiteInt8(TFLiteDynamic):
    """TFLite that computes in int8 throughout, from uint8 pixels to uint8 probabilities in steps of 1/256.

    The ranges of all activations come from the calibration images, a few hundred.
    """

    calibrated = True
    usage = TFLite.usage.replace("np.float32)  # Yours: any number of them, values in 0..1.",
                                 "np.uint8)  # Yours: any number of them, values in 0..255.").replace(
        'get_tensor(given["index"])', 'get_tensor(given["index"]) * np.float32(given["quantization"][0])')

    def write(self, trained: Any, path: str, metadata: dict, calibration: np.ndarray | None = None) -> None:
        """See ExportFormat; raises UsageError without images, or for an operation that TFLite has in float alone."""
        if calibration is None or not len(calibration):
            raise UsageError("format tflite_int8 is calibrated with images of the training split; found none")
        super().write(trained, path, metadata, calibration)

    def quantize(self, converter: Any, calibration: np.ndarray | None) -> None:
        """See TFLite."""
        super().quantize(converter, calibration)
        images = np.array(calibration)
        # One black and one white corner: the input then has the steps of the pixels themselves, 1/255 from 0 on.
        images[0, 0, 0], images[-1, -1, -1] = 0, 255
        converter.representative_dataset = lambda: ([image[None].astype(np.float32) / 255] for image in images)
        converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
        converter.inference_input_type = converter.inference_output_type = tf.uint8

    def check_content(self, content: bytes) -> None:
        """See TFLite: no operation computes in floats."""
        floats = [name for name, types in operations(content) if "float32" in types and name not in BETWEEN]
        if floats:
            raise cannot_convert(self.name, floats, "TFLite's int8", "--format=tflite_dynamic quantizes the rest of it")


def read_metadata(path: str) -> dict | None:
    """Returns the metadata in a file; None where there is none."""
    try:
        with zipfile.ZipFile(path) as archive:
            return json.loads(archive.read(METADATA))
    except (zipfile.BadZipFile, KeyError):
        return None


def operations(content: bytes) -> list[tuple[str, list[str]]]:
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


def _with_files(content: bytes, metadata: dict) -> bytes:
    """Returns a model with the metadata, and the class names as labels.txt, in a zip archive behind it."""
    held = io.BytesIO(content)
    held.seek(0, io.SEEK_END)
    with zipfile.ZipFile(held, "a") as archive:
        archive.writestr(METADATA, json.dumps(plain(metadata), indent=2, allow_nan=False))
        archive.writestr(LABELS, "".join(f"{name}\n" for name in metadata.get("class_names", ())))
    return held.getvalue()
